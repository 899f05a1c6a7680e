"""Tables of the pipeline itself."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Numeric,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.core.db import metadata

# One row, which Debezium keeps up to date: so its place in the log moves on while the outbox is idle.
cdc_heartbeat = Table(
    "cdc_heartbeat",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("beat_at", DateTime(timezone=True), nullable=False),
)

# Each ClickHouse that was ever filled from here, by the marker that it carries.
histories = Table(
    "histories",
    metadata,
    Column("id", Uuid, primary_key=True),
    # A ClickHouse with a lower one was set back to an older copy.
    Column("generation", BigInteger, nullable=False),
    # All that was committed later comes by the stream; what was there before had to be compared.
    Column("adopted_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    # NULL as long as rows may be missing: then there is no watermark.
    Column("proven_at", DateTime(timezone=True)),
    Column("reconciled_at", DateTime(timezone=True)),
    Column("reconciled_until", DateTime(timezone=True)),
    # Rows of this hour or later are being sent again; what was counted of them has to be counted anew.
    Column("repairing_since", DateTime(timezone=True)),
)

# What each hour of ingestion should hold, and what a history was found to hold. Experiments and overrides are
# compared as a whole, under the hour at which Unix time begins.
reconciled_hours = Table(
    "reconciled_hours",
    metadata,
    Column("history_id", Uuid, ForeignKey("histories.id", ondelete="CASCADE"), primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("hour", DateTime(timezone=True), primary_key=True),
    # Of PostgreSQL's rows. They stay when their partition is dropped: the history is then compared with these.
    Column("row_count", BigInteger, nullable=False),
    Column("checksum", Numeric(20, 0), nullable=False),
    # As the last comparison left them.
    Column("missing_rows", BigInteger, nullable=False),
    Column("extra_rows", BigInteger, nullable=False),
    # By all comparisons together.
    Column("repaired_rows", BigInteger, nullable=False),
    # By experiment, '' for events that name none: rows in PostgreSQL and in ClickHouse where they differed last.
    Column("differences", JSONB, nullable=False),
    Column(
        "outcome",
        Text,
        Computed(
            "CASE WHEN missing_rows + extra_rows > 0 THEN 'open' WHEN repaired_rows > 0 THEN 'repaired'"
            " ELSE 'equal' END",
            persisted=True,
        ),
    ),
    Column("compared_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("subject IN ('events', 'exposures', 'overrides', 'experiments')", name="known_subject"),
    Index("ix_reconciled_hours_history_id_compared_at", "history_id", "compared_at"),
    Index("ix_reconciled_hours_subject_hour", "subject", "hour"),
)

# Up to when ClickHouse was to give up events for their age. Kept also here, since a ClickHouse may begin anew.
given_up_events = Table(
    "given_up_events",
    metadata,
    Column("ingested_before", DateTime(timezone=True), primary_key=True),
    Column("decided_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
)

# Event partitions that are gone: PostgreSQL has all events ingested since the last one's upper bound.
dropped_partitions = Table(
    "dropped_partitions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("upper_bound", DateTime(timezone=True), nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("dropped_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
)
