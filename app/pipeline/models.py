"""Tables of the pipeline itself."""

from sqlalchemy import Column, DateTime, Integer, Table

from app.core.db import metadata

# One row, which Debezium keeps up to date: so its place in the log moves on while the outbox is idle.
cdc_heartbeat = Table(
    "cdc_heartbeat",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("beat_at", DateTime(timezone=True), nullable=False),
)
