"""Answers about the pipeline."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.pipeline.status import Mode, Status


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class PartitionsOut(_Out):
    """The partitions of a table in PostgreSQL."""

    count: int
    first: str
    last: str
    default_rows: Annotated[int, Field(description="Rows that lack a partition of their own; 0 when all is well.")]


class OutboxOut(_Out):
    """What waits on its way to ClickHouse."""

    backlog_rows: Annotated[int | None, Field(description="Counted up to 100,000; null under Kafka.")]
    oldest_age_seconds: float | None
    partitions: PartitionsOut | None


class EventsOut(_Out):
    """What PostgreSQL has of the events."""

    partitions: PartitionsOut | None
    kept_since: Annotated[
        datetime | None, Field(description="Events ingested earlier are in ClickHouse alone; null: there are none.")
    ]


class SlotOut(_Out):
    """Debezium's replication slot."""

    name: str
    active: bool
    wal_status: Annotated[str, Field(description="reserved, extended, unreserved, lost or unknown.")]
    retained_bytes: int
    confirmed_flush_lag_bytes: int


class DeadLettersOut(_Out):
    """Messages that could not become rows."""

    count: int
    newest_at: datetime | None
    where: str


class UnequalHourOut(_Out):
    """An hour of ingestion in which PostgreSQL and ClickHouse differed."""

    subject: Annotated[str, Field(description="events, exposures, or with hour 1970-01-01 overrides, experiments.")]
    hour: datetime
    outcome: Annotated[str, Field(description="open: they still differ; repaired: they do not any more.")]
    missing_rows: int
    extra_rows: int
    repaired_rows: int
    compared_at: datetime


class ReconciliationOut(_Out):
    """How PostgreSQL and ClickHouse compare."""

    reconciled_until: datetime | None
    last_run_at: datetime | None
    proven: Annotated[
        bool, Field(description="No row is missing from before this ClickHouse was set up; without it no watermark.")
    ]
    open_mismatches: Annotated[int, Field(description="Rows that are missing or too many and cannot be repaired.")]
    repaired_rows_total: int
    hours: list[UnequalHourOut]


class ClickHouseOut(_Out):
    """Whether ClickHouse answers."""

    reachable: bool


class PipelineOut(_Out):
    """How the pipeline stands. What is null has its reason in `reasons`, by name."""

    mode: Mode
    watermark: Annotated[datetime | None, Field(description="Everything ingested before this is in ClickHouse.")]
    watermark_lag_seconds: float | None
    outbox: OutboxOut | None
    events: EventsOut | None
    slot: SlotOut | None
    consumer_lag: Annotated[dict[str, int] | None, Field(description="Messages not yet in ClickHouse, by topic.")]
    dead_letters: DeadLettersOut | None
    reconciliation: ReconciliationOut | None
    clickhouse: ClickHouseOut
    reasons: dict[str, str]

    @classmethod
    def of(cls, status: Status) -> "PipelineOut":
        return cls.model_validate(status)
