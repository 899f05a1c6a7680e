"""Tables that belong to the installation as a whole."""

from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Table, Text, Uuid, text

from app.core.db import metadata

installation = Table(
    "installation",
    metadata,
    Column("single", Boolean, primary_key=True, server_default=text("true")),
    # Part of every cache key: a cache that outlives its database must not answer for the next one.
    Column("id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    CheckConstraint("single", name="single"),
)

change_epochs = Table(
    "change_epochs",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
)
