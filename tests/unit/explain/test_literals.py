"""Parameters written into statements: every type, and texts that would like to be more than text."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from app.explain.literals import for_clickhouse, for_postgres, settings_for_clickhouse, settings_for_postgres

_NASTY = "O'Brien \\' --; {x:String} :x $1"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "NULL"),
        (True, "true"),
        (5, "5"),
        (-5, "(-5)"),
        (Decimal("2.50"), "2.50"),
        (0.1, "CAST('0.1' AS float8)"),
        ("it's", "'it''s'"),
        (_NASTY, "'O''Brien \\'' --; {x:String} :x $1'"),
        (
            datetime(2026, 3, 1, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=1))),
            "CAST('2026-03-01T00:02:03.000004+00:00' AS timestamptz)",
        ),
        (timedelta(days=1, microseconds=5), "CAST('1 days 5 microseconds' AS interval)"),
        (timedelta(seconds=-1), "CAST('-1 days 86399000000 microseconds' AS interval)"),
        (["a", "b'"], "ARRAY['a', 'b''']"),
        ([], "'{}'"),
    ],
)
def test_for_postgres__each_type__is_written_as_a_literal(value: object, written: str) -> None:
    assert for_postgres("SELECT :x", {"x": value}) == f"SELECT {written}"


def test_for_postgres__casts_and_names_that_begin_alike__are_told_apart() -> None:
    assert for_postgres("SELECT :a::int, :ab, x::text", {"a": 1, "ab": 2}) == "SELECT :a::int, 2, x::text"


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        ("Int64", -5, "CAST(-5, 'Int64')"),
        ("Nullable(Float64)", None, "CAST(NULL, 'Nullable(Float64)')"),
        ("Float64", 1e-300, "CAST(1e-300, 'Float64')"),
        ("String", "it's", "CAST('it\\'s', 'String')"),
        ("String", _NASTY, "CAST('O\\'Brien \\\\\\' --; {x:String} :x $1', 'String')"),
        (
            "DateTime64(6, 'UTC')",
            datetime(2026, 3, 1, tzinfo=UTC),
            "CAST('2026-03-01 00:00:00.000000', 'DateTime64(6, \\'UTC\\')')",
        ),
        ("Array(String)", ["a", "b"], "CAST(['a', 'b'], 'Array(String)')"),
        ("Array(Int64)", [], "CAST([], 'Array(Int64)')"),
    ],
)
def test_for_clickhouse__each_type__is_written_as_a_cast_literal(kind: str, value: object, written: str) -> None:
    assert for_clickhouse(f"SELECT {{x:{kind}}}", {"x": value}) == f"SELECT {written}"


def test_parameters__missing_or_of_an_unknown_type__are_refused() -> None:
    with pytest.raises(KeyError):
        for_postgres("SELECT :x", {})
    with pytest.raises(TypeError, match="object"):
        for_postgres("SELECT :x", {"x": object()})
    with pytest.raises(TypeError, match="set"):
        for_clickhouse("SELECT {x:String}", {"x": set[str]()})


def test_settings__of_both_stores__are_statements_and_a_clause() -> None:
    assert settings_for_postgres({"TimeZone": "UTC"}) == "SET TimeZone = 'UTC';\n"
    assert settings_for_clickhouse({"a": 1, "b": "x"}) == "SETTINGS a = 1, b = 'x'"
