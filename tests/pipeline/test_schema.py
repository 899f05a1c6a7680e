"""The DDL files run once, in order, and may not change afterwards."""

from pathlib import Path

import pytest

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.pipeline.schema import DDL_FOLDER, SchemaError, migrate
from tests.pipeline.outbox_run import column


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.sql").write_text("CREATE TABLE IF NOT EXISTS one (a Int64) ENGINE = Memory;")
    (tmp_path / "0002_two.sql").write_text("CREATE TABLE IF NOT EXISTS two (a Int64) ENGINE = Memory;")
    (tmp_path / "README.md").write_text("no file of ours")
    return tmp_path


async def test_migrate__our_files__all_tables_are_there(clickhouse: ClickHouse) -> None:
    tables = await column(clickhouse, "SELECT name FROM system.tables WHERE database = currentDatabase()")

    assert {"events", "exposures", "overrides", "experiments", "heartbeats", "dead_letters"} <= set(tables)
    assert await column(clickhouse, "SELECT name FROM schema_migrations FINAL ORDER BY name") == sorted(
        file.name for file in DDL_FOLDER.glob("*.sql")
    )


async def test_migrate__run_again__does_nothing(clickhouse: ClickHouse) -> None:
    assert await migrate(clickhouse) == []


async def test_migrate__new_file__runs_it_alone(clickhouse: ClickHouse, folder: Path) -> None:
    assert await migrate(clickhouse, folder) == ["0001_one.sql", "0002_two.sql"]
    (folder / "0003_three.sql").write_text("CREATE TABLE IF NOT EXISTS three (a Int64) ENGINE = Memory")

    assert await migrate(clickhouse, folder) == ["0003_three.sql"]


async def test_migrate__file_changed_after_it_ran__refuses_before_running_anything(
    clickhouse: ClickHouse, folder: Path
) -> None:
    await migrate(clickhouse, folder)
    (folder / "0001_one.sql").write_text("CREATE TABLE IF NOT EXISTS one (a Int32) ENGINE = Memory;")
    (folder / "0003_three.sql").write_text("CREATE TABLE IF NOT EXISTS three (a Int64) ENGINE = Memory")

    with pytest.raises(SchemaError, match=r"0001_one\.sql"):
        await migrate(clickhouse, folder)

    assert await column(clickhouse, "EXISTS TABLE three") == [0]


async def test_migrate__line_ends_of_another_system__is_the_same_file(clickhouse: ClickHouse, folder: Path) -> None:
    file = folder / "0001_one.sql"
    file.write_bytes(b"CREATE TABLE IF NOT EXISTS one\n(a Int64) ENGINE = Memory;\n")
    await migrate(clickhouse, folder)

    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))

    assert await migrate(clickhouse, folder) == []


async def test_migrate__second_statement_wrong__runs_the_file_again_when_mended(
    clickhouse: ClickHouse, folder: Path
) -> None:
    file = folder / "0003_three.sql"
    first = "CREATE TABLE IF NOT EXISTS three (a Int64) ENGINE = Memory;"
    file.write_text(f"{first} CREATE TABLE IF NOT EXISTS four (a Nonsense) ENGINE = Memory")
    with pytest.raises(ClickHouseRefused):
        await migrate(clickhouse, folder)

    file.write_text(f"{first} CREATE TABLE IF NOT EXISTS four (a Int64) ENGINE = Memory")

    assert await migrate(clickhouse, folder) == ["0003_three.sql"]
    assert await column(clickhouse, "EXISTS TABLE four") == [1]
