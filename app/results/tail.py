"""PostgreSQL's rows above the watermark as tables that travel with a query to ClickHouse."""

from collections.abc import Mapping

from app.core.clickhouse import SentRows
from app.results.values import Tail

EXPOSURES = "results_tail_exposures"
OVERRIDES = "results_tail_overrides"
EVENTS = "results_tail_events"

_STRUCTURES = {
    EXPOSURES: "user_id String, variant_id Int64, exposed_at DateTime64(6, 'UTC'), context String",
    OVERRIDES: "user_id String, variant_id Int64, exposed_at DateTime64(6, 'UTC')",
    EVENTS: "user_id String, event_type LowCardinality(String), ts DateTime64(6, 'UTC'), value Nullable(Float64)",
}


def tables_of(tail: Tail) -> Mapping[str, SentRows]:
    """Return the rows by the names under which a query finds them."""
    lines = {EXPOSURES: tail.exposures, OVERRIDES: tail.overrides, EVENTS: tail.events}
    return {name: SentRows(structure, lines[name]) for name, structure in _STRUCTURES.items()}
