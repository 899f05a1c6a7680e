"""The outbox: one row per fact, written in the transaction that writes the fact."""

from sqlalchemy import BigInteger, Column, DateTime, Index, Sequence, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import UserDefinedType

from app.core.db import metadata


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_options: object) -> str:
        return "xid8"


outbox_sequence = Sequence("outbox_events_seq", metadata=metadata, data_type=BigInteger, cache=100)

outbox_events = Table(
    "outbox_events",
    metadata,
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    # Text, not varchar(255): user ids reach 256 characters.
    Column("aggregatetype", Text, nullable=False),
    Column("aggregateid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    # Transactions commit in another order than they take sequence numbers. With the transaction's id a reader
    # can stop below the oldest one still running and so never steps over a row that commits late.
    Column("xid", Xid8(), nullable=False, server_default=text("pg_current_xact_id()")),
    Column("seq", BigInteger, nullable=False, server_default=text("nextval('outbox_events_seq')")),
    Index("ix_outbox_events_xid_seq", "xid", "seq"),
    postgresql_partition_by="RANGE (created_at)",
)
