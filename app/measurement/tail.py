"""PostgreSQL's events above the watermark as a table that travels with a query to ClickHouse."""

from collections.abc import Sequence

from app.core.clickhouse import SentRows

EVENTS = "measurement_tail_events"
_STRUCTURE = (
    "event_id UUID, user_id String, event_type LowCardinality(String), ts DateTime64(6, 'UTC'),"
    " value Nullable(Float64), properties String"
)


def table_of(events: Sequence[bytes]) -> SentRows:
    """Return the events, JSON objects of these columns, as the table `EVENTS`."""
    return SentRows(_STRUCTURE, events)
