"""Tables of projects, API tokens and the audit log."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from app.core.db import metadata

_NOW = text("clock_timestamp()")

projects = Table(
    "projects",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    CheckConstraint("key ~ '^[a-z][a-z0-9_-]{0,63}$'", name="key_form"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    # NULL: the token may act in every project.
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="RESTRICT")),
    Column("name", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("octet_length(token_hash) = 32", name="hash_is_sha256"),
    CheckConstraint(
        "cardinality(scopes) > 0 AND scopes <@ ARRAY['experiments:read','experiments:write','assignments',"
        "'events','results','admin']::text[]",
        name="known_scopes",
    ),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
    Index("ix_api_tokens_project_id", "project_id"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=_NOW),
    Column("project_id", BigInteger, ForeignKey("projects.id", ondelete="RESTRICT")),
    Column("actor", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("details", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # Both are filled in by a trigger when the transaction commits, and nothing of a row can be changed after that.
    Column("position", BigInteger),
    Column("hash", LargeBinary),
    UniqueConstraint("project_id", "position", name="uq_audit_log_project_id_position"),
    Index("ix_audit_log_subject", "subject", "id"),
    Index("ix_audit_log_project_id", "project_id", "id"),
)

# Where each chain of the audit log ends.
audit_heads = Table(
    "audit_heads",
    metadata,
    # The project's id; 0 for the entries without a project.
    Column("chain", BigInteger, primary_key=True, autoincrement=False),
    Column("entries", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
