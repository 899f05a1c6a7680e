"""Each server, started or checked with the very configuration that compose mounts."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis

from app.workers.cdc_role import set_up_role
from app.workers.jars import build_jars
from tests.containers.programs import ROOT, Json, mounted, require
from tests.containers.servers import Postgres, clickhouse_server, postgres_of, valkey_of

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(400)]

# What the containers have of their own; all else is as in the files.
KAFKA_OWN = {
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "controller.quorum.voters",
    "log.dirs",
}
CONNECT_OWN = {"bootstrap.servers", "listeners"}
# The image's entry point makes properties of these, too. Source: docker-entrypoint.sh of debezium/container-images.
CONNECT_SHORT = (
    "GROUP_ID",
    "CONFIG_STORAGE_TOPIC",
    "OFFSET_STORAGE_TOPIC",
    "STATUS_STORAGE_TOPIC",
    "KEY_CONVERTER",
    "VALUE_CONVERTER",
    "BOOTSTRAP_SERVERS",
)

# Asks an engine of its own for what it made of its configuration.
ASK_CLICKHOUSE = """
import sys, clickhouse_connect
client = clickhouse_connect.get_client(interface="chdb", path=sys.argv[1], chdb_options={"config-file": sys.argv[2]})
client.command("SYSTEM FLUSH LOGS")
for table, column in (("server_settings", "name"), ("merge_tree_settings", "name")):
    for name, value in client.query(f"SELECT {column}, value FROM system.{table} WHERE changed").result_rows:
        print(f"answer {name}={value}")
for name, ddl in client.query("SELECT name, create_table_query FROM system.tables WHERE name LIKE '%_log'").result_rows:
    print(f"answer {name}={'TTL' in ddl}")
client.close()
"""
# As much of the image's own configuration as ours changes.
IMAGE_CLICKHOUSE = """
<clickhouse>
    <logger><level>trace</level><log>LOG</log><errorlog>LOG</errorlog></logger>
    <query_log><database>system</database><table>query_log</table>
        <partition_by>toYYYYMM(event_date)</partition_by></query_log>
    <trace_log><database>system</database><table>trace_log</table></trace_log>
    <metric_log><database>system</database><table>metric_log</table></metric_log>
    <text_log><database>system</database><table>text_log</table></text_log>
</clickhouse>
"""


@pytest.fixture(scope="module")
def postgres(services: dict[str, Json]) -> Iterator[Postgres]:
    with postgres_of(services["postgres"]) as running:
        yield running


@pytest.fixture(scope="module")
def clickhouse() -> Iterator[dict[str, str]]:
    with clickhouse_server() as settings:
        yield settings


def migrate(url: str, clickhouse: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.workers.migrate", *arguments],
        env={"PYTHONPATH": str(ROOT), "ENVIRONMENT": "test", "DATABASE_URL": url, **clickhouse},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def test_migrate__twice_on_the_containers_servers__brings_both_up_to_date(
    postgres: Postgres, clickhouse: dict[str, str]
) -> None:
    first, second = (migrate(postgres.service_url, clickhouse) for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "PostgreSQL is up to date" in first.stdout
    assert "ClickHouse is up to date" in first.stdout
    connection = await asyncpg.connect(postgres.url("experiments", postgres.service_password))
    assert await connection.fetchval("SELECT count(*) FROM projects") == 1
    assert not await connection.fetchval("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    await connection.close()


async def test_migrate__a_schema_from_the_future__is_told_in_one_line(
    postgres: Postgres, clickhouse: dict[str, str]
) -> None:
    connection = await asyncpg.connect(postgres.url("experiments", postgres.service_password))
    version = await connection.fetchval("SELECT version_num FROM alembic_version")
    await connection.execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        done = migrate(postgres.service_url, clickhouse)
    finally:
        await connection.execute("UPDATE alembic_version SET version_num = $1", version)
        await connection.close()

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: PostgreSQL at 127.0.0.1:{postgres.port}/experiments cannot be migrated:")
    assert "9999" in done.stderr
    assert done.stderr.count("\n") == 1


def test_migrate__wrong_password__does_not_wait(postgres: Postgres, clickhouse: dict[str, str]) -> None:
    done = migrate(postgres.url("experiments", "wrong", "postgresql+asyncpg"), clickhouse, "--wait", "60")

    assert done.returncode == 1
    assert "password authentication failed" in done.stderr
    assert "waiting" not in done.stdout
    assert "wrong" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("away", ["PostgreSQL", "ClickHouse"])
def test_migrate__a_server_that_never_answers__ends_in_time_with_one_line(
    postgres: Postgres, clickhouse: dict[str, str], away: str
) -> None:
    url = postgres.service_url
    if away == "PostgreSQL":
        url = url.replace(f":{postgres.port}/", ":1/")
    else:
        clickhouse = {**clickhouse, "CLICKHOUSE_PORT": "1"}

    done = migrate(url, clickhouse, "--wait", "2")

    assert done.returncode == 1
    assert f"waiting for {away} at 127.0.0.1:1" in done.stdout
    assert done.stderr.startswith(f"error: {away} at 127.0.0.1:1")
    assert "does not answer" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unset", ["DATABASE_URL", "CLICKHOUSE_HOST"])
def test_migrate__without_an_address__names_the_variable(
    postgres: Postgres, clickhouse: dict[str, str], unset: str
) -> None:
    url = "" if unset == "DATABASE_URL" else postgres.service_url

    done = migrate(url, {name: value for name, value in clickhouse.items() if name != unset})

    assert (done.returncode, done.stderr.partition(": must be set")[0]) == (1, f"error: {unset}")


async def test_postgres__with_the_mounted_configuration__serves_debezium_within_bounds(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url("experiments", postgres.service_password))
    shown = {
        name: await connection.fetchval(f"SHOW {name}")
        for name in ("wal_level", "max_slot_wal_keep_size", "max_connections", "listen_addresses", "fsync", "TimeZone")
    }
    locale = await connection.fetchrow(
        "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'experiments'"
    )
    await connection.close()

    assert shown == {
        "wal_level": "logical",
        "max_slot_wal_keep_size": "4GB",
        "max_connections": "100",
        "listen_addresses": "*",
        "fsync": "off",  # The test's own.
        "TimeZone": "UTC",
    }
    assert locale is not None
    assert (locale["datlocprovider"], locale["datlocale"]) == (b"b", "C.UTF-8")


async def test_debeziums_role__in_the_containers__reads_the_outbox_and_nothing_else(
    postgres: Postgres, clickhouse: dict[str, str]
) -> None:
    migrate(postgres.service_url, clickhouse)
    connection = await asyncpg.connect(postgres.url("experimentation_cdc", postgres.cdc_password))
    try:
        await connection.fetch("SELECT * FROM outbox_events")
        await connection.execute("INSERT INTO cdc_heartbeat (id, beat_at) VALUES (1, now()) ON CONFLICT DO NOTHING")
        for table in ("events", "assignments", "api_tokens"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT * FROM {table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE mine ()")
        slot = "SELECT pg_create_logical_replication_slot('test', 'pgoutput')"
        assert await connection.fetchval(slot)
        await connection.execute("SELECT pg_drop_replication_slot('test')")
    finally:
        await connection.close()


async def test_debeziums_role__made_by_the_container__is_what_an_administrators_command_makes(
    services: dict[str, Json], postgres: Postgres, clickhouse: dict[str, str]
) -> None:
    """The script of the container and `app.workers.cdc_role` must not drift apart."""
    migrate(postgres.service_url, clickhouse)
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    administrator = postgres.url("postgres", password)
    connection = await asyncpg.connect(administrator)
    try:
        before = await rights(connection, "experimentation_cdc")
        await set_up_role(administrator, "experimentation_cdc_2", "secret")
        after = await rights(connection, "experimentation_cdc_2")
    finally:
        await connection.close()

    assert before == after


async def rights(connection: asyncpg.Connection, role: str) -> list[object]:
    """Return the role's attributes, and what it may do with each table and the database."""
    attributes = await connection.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls FROM pg_roles"
        " WHERE rolname = $1",
        role,
    )
    tables = await connection.fetch(
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = $1 ORDER BY 1, 2",
        role,
    )
    database = await connection.fetchrow(
        "SELECT has_database_privilege($1, current_database(), 'CONNECT') AS enters,"
        " has_database_privilege($1, current_database(), 'CREATE') AS creates,"
        " has_schema_privilege($1, 'public', 'USAGE') AS uses,"
        " has_schema_privilege($1, 'public', 'CREATE') AS makes",
        role,
    )
    assert attributes is not None
    assert database is not None
    return [dict(attributes), [tuple(row) for row in tables], dict(database)]


def test_valkey__with_the_containers_command__wants_its_password_and_keeps_nothing(services: dict[str, Json]) -> None:
    with valkey_of(services["valkey"]) as url:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            assert client.ping()
            settings = client.config_get("save", "appendonly", "maxmemory", "maxmemory-policy")
        wrong = url.replace("@", "x@")
        with redis.Redis.from_url(wrong) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()

    assert settings == {
        "save": "",
        "appendonly": "no",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "allkeys-lru",
    }


def test_clickhouse__with_the_mounted_snippet_on_top__has_its_settings_and_few_logs(
    services: dict[str, Json], tmp_path: Path
) -> None:
    snippet = mounted(services["clickhouse"], "/etc/clickhouse-server/config.d/experiments.xml")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / snippet.name).write_text(snippet.read_text())
    (tmp_path / "config.xml").write_text(IMAGE_CLICKHOUSE.replace("LOG", str(tmp_path / "server.log")))

    done = subprocess.run(
        [sys.executable, "-c", ASK_CLICKHOUSE, tmp_path / "data", tmp_path / "config.xml"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    answers = dict(line.removeprefix("answer ").split("=", 1) for line in done.stdout.splitlines() if "answer " in line)
    assert answers["max_server_memory_usage_to_ram_ratio"] == "0.8"
    assert (answers["fsync_after_insert"], answers["fsync_part_directory"]) == ("1", "1")
    assert answers["query_log"] == "True"
    assert {"trace_log", "metric_log", "text_log"}.isdisjoint(answers)


def test_kafka__as_the_image_translates_its_variables__is_what_the_local_stack_runs(
    services: dict[str, Json], tmp_path: Path
) -> None:
    """The image's own program makes the properties and formats the storage with them, which checks them all."""
    require("java", "openjdk-17-jre-headless")
    require("mvn", "maven")
    jars = build_jars()
    for folder in ("default", "mounted", "final"):
        (tmp_path / folder).mkdir()
    (tmp_path / "final" / "server.properties").touch()
    environment = {**services["kafka"]["environment"], "KAFKA_LOG_DIRS": str(tmp_path / "data")}

    done = subprocess.run(
        [
            *(jars.java, "-Xmx256m", "-cp", f"{jars.library}/*", "kafka.docker.KafkaDockerWrapper", "setup"),
            *(f"--{folder}-configs-dir={tmp_path / folder}" for folder in ("default", "mounted", "final")),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Formatting metadata directory {tmp_path / 'data'}" in done.stdout + done.stderr
    made = properties(tmp_path / "final" / "server.properties")
    file = properties(ROOT / "debezium" / "kafka-server.properties")
    shared = [{name: value for name, value in side.items() if name not in KAFKA_OWN} for side in (made, file)]
    assert shared[0] == shared[1]
    assert made["advertised.listeners"] == "PLAINTEXT://kafka:9092,HOST://localhost:29092"
    # Each listener has a protocol; the controller's is not advertised.
    listeners = {listener.partition(":")[0] for listener in made["listeners"].split(",")}
    assert {pair.partition(":")[0] for pair in made["listener.security.protocol.map"].split(",")} == listeners


def test_connect__as_the_image_translates_its_variables__is_what_the_local_stack_runs(
    services: dict[str, Json],
) -> None:
    environment = services["connect"]["environment"]
    made = {
        name.removeprefix("CONNECT_").lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith("CONNECT_") or name in CONNECT_SHORT
    }
    file = properties(ROOT / "debezium" / "connect-distributed.properties")

    assert {name: value for name, value in made.items() if name not in CONNECT_OWN} == file
    assert made["bootstrap.servers"] == services["api"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    # The entry point edits its file with @ between the parts, and logs what it writes there.
    assert not any("@" in value for value in made.values())
    assert environment["CDC_DATABASE_PASSWORD"] not in made.values()


def properties(path: Path) -> dict[str, str]:
    """Read a properties file; of a name that is there twice the last one holds."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
