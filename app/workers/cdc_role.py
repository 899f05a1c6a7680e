"""`python -m app.workers.cdc_role`: let Debezium's role log in, with a password, and see no more than it needs."""

import asyncio
import base64
import hashlib
import hmac
import secrets
import sys

import asyncpg

from app.core.settings import SettingsError
from app.core.urls import connect_arguments
from app.workers.command import CommandFailed, exit_code_of, one_line, say
from app.workers.settings import CdcSettings

_CONNECT_TIMEOUT_S = 10
# As PostgreSQL does it. Source: PostgreSQL documentation, "scram_iterations"; RFC 5803 for the form.
_ITERATIONS = 4096
_SALT_BYTES = 16

_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
_QUOTED = "SELECT quote_ident($1) AS role, quote_literal($2) AS verifier, quote_ident(current_database()) AS database"


def main() -> int:
    """Set the role up; returns the exit code."""

    def work() -> None:
        settings = CdcSettings.from_environment()
        url, password = _given(settings)
        asyncio.run(set_up_role(url, settings.user, password))
        say(f"role {settings.user}: may log in and read the outbox's changes")

    return exit_code_of(work)


def _given(settings: CdcSettings) -> tuple[str, str]:
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: must be set, to a user who may change roles")
    if settings.password is None:
        raise SettingsError("CDC_DATABASE_PASSWORD: must be set; it becomes the role's password")
    return settings.database_url, settings.password.get_secret_value()


async def set_up_role(database_url: str, role: str, password: str) -> None:
    """Make the role if need be, and give it its rights and this password; the schema must be up to date.

    Raises:
        CommandFailed: PostgreSQL cannot be reached, or the user of the URL may not do this.
    """
    try:
        connection = await asyncpg.connect(**connect_arguments(database_url), timeout=_CONNECT_TIMEOUT_S)
        try:
            async with connection.transaction():
                await _set_up(connection, role, password)
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailed(
            f"role {role} cannot be set up: {one_line(error)}. An administrator can do it with the SQL"
            " in debezium/README.md."
        ) from error


async def _set_up(connection: asyncpg.Connection, role: str, password: str) -> None:
    quoted = await connection.fetchrow(_QUOTED, role, scram_verifier(password))
    assert quoted is not None  # noqa: S101  # A query without FROM has one row.
    name = quoted["role"]
    if not await connection.fetchval(_EXISTS, role):
        await connection.execute(f"CREATE ROLE {name} NOLOGIN")
    await connection.execute(f"ALTER ROLE {name} WITH LOGIN REPLICATION PASSWORD {quoted['verifier']}")
    await connection.execute(f"GRANT CONNECT ON DATABASE {quoted['database']} TO {name}")
    await connection.execute(f"GRANT USAGE ON SCHEMA public TO {name}")
    await connection.execute(f"GRANT SELECT ON outbox_events TO {name}")
    await connection.execute(f"GRANT SELECT, INSERT, UPDATE ON cdc_heartbeat TO {name}")


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores of a password, so that the password itself gets into no log.

    Source: RFC 5802, section 3, and RFC 5803.

    Raises:
        SettingsError: it holds characters that the standard would have normalised first.
    """
    if not password.isascii() or not password.isprintable():
        raise SettingsError("CDC_DATABASE_PASSWORD: use printable ASCII characters")
    salt = secrets.token_bytes(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored_key, server_key))
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt64}${stored64}:{server64}"


if __name__ == "__main__":
    sys.exit(main())
