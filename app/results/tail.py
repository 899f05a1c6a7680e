"""What travels with a query to ClickHouse as tables: above all PostgreSQL's rows above the watermark."""

from collections.abc import Mapping

import msgspec

from app.core.clickhouse import SentRows
from app.results.values import Subject, Tail

EXPOSURES = "results_tail_exposures"
OVERRIDES = "results_tail_overrides"
EVENTS = "results_tail_events"
SIGHTINGS = "results_tail_sightings"
# Of any length, which a parameter is not.
EXCLUDED_USERS = "results_excluded_users"

_STRUCTURES = {
    EXPOSURES: "user_id String, variant_id Int64, exposed_at DateTime64(6, 'UTC'), context String",
    OVERRIDES: "user_id String, variant_id Int64, exposed_at DateTime64(6, 'UTC')",
    EVENTS: "user_id String, event_type LowCardinality(String), ts DateTime64(6, 'UTC'), value Nullable(Float64),"
    " late Bool",
    SIGHTINGS: "user_id String, ts DateTime64(6, 'UTC'), named Int64",
}


def tables_for(subject: Subject, tail: Tail | None) -> Mapping[str, SentRows]:
    """Return all that a query about who counts finds beside ClickHouse's own tables."""
    tables = {} if tail is None else dict(tables_of(tail))
    if subject.population.exclude_users:
        lines = [msgspec.json.encode({"user_id": user_id}) for user_id in subject.population.exclude_users]
        tables[EXCLUDED_USERS] = SentRows("user_id String", lines)
    return tables


def tables_of(tail: Tail) -> Mapping[str, SentRows]:
    """Return the rows by the names under which a query finds them."""
    lines = {EXPOSURES: tail.exposures, OVERRIDES: tail.overrides, EVENTS: tail.events, SIGHTINGS: tail.sightings}
    return {name: SentRows(structure, lines[name]) for name, structure in _STRUCTURES.items()}
