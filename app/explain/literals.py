"""Statements with their parameters written into them, so that they can be pasted. Plain functions, no I/O."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

# As SQLAlchemy finds them: a name behind a colon that is no part of a cast.
_OF_POSTGRES = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
_OF_CLICKHOUSE = re.compile(r"\{(\w+):([^{}]+)\}")
_US = timedelta(microseconds=1)


def for_postgres(sql: str, parameters: Mapping[str, object]) -> str:
    """Return the statement with every `:name` replaced by its value.

    A backslash in a text is one: `standard_conforming_strings` has to be on, which it is unless somebody turned it off.

    Raises:
        KeyError: a parameter is missing.
    """
    return _OF_POSTGRES.sub(lambda found: _in_postgres(parameters[found[1]]), sql)


def for_clickhouse(sql: str, parameters: Mapping[str, object]) -> str:
    """Return the statement with every `{name:Type}` replaced by its value, cast to that type.

    Raises:
        KeyError: a parameter is missing.
    """
    return _OF_CLICKHOUSE.sub(
        lambda found: f"CAST({_in_clickhouse(parameters[found[1]])}, {_quoted_in_clickhouse(found[2])})", sql
    )


def settings_for_postgres(settings: Mapping[str, str]) -> str:
    """Return statements that make these settings, one a line."""
    return "".join(f"SET {name} = {_quoted_in_postgres(value)};\n" for name, value in settings.items())


def settings_for_clickhouse(settings: Mapping[str, object]) -> str:
    """Return the clause that makes these settings for the statement before it."""
    return f"SETTINGS {', '.join(f'{name} = {_in_clickhouse(value)}' for name, value in settings.items())}"


def _in_postgres(value: object) -> str:
    match value:
        case None:
            text = "NULL"
        case bool():
            text = "true" if value else "false"
        case int() | Decimal():
            # A minus sign behind another one would begin a comment.
            text = str(value) if value >= 0 else f"({value})"
        case float():
            text = f"CAST({_quoted_in_postgres(repr(value))} AS float8)"
        case str():
            text = _quoted_in_postgres(value)
        case datetime():
            text = f"CAST({_quoted_in_postgres(value.astimezone(UTC).isoformat())} AS timestamptz)"
        case timedelta():
            text = f"CAST('{_interval(value)}' AS interval)"
        case list() | tuple():
            text = f"ARRAY[{', '.join(map(_in_postgres, value))}]" if value else "'{}'"
        case _:
            raise TypeError(f"no literal is known for {type(value).__name__}")
    return text


def _interval(value: timedelta) -> str:
    """Write an interval as the driver sends it: days stay days."""
    return f"{value.days} days {(value - timedelta(days=value.days)) // _US} microseconds"


def _quoted_in_postgres(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _in_clickhouse(value: object) -> str:
    match value:
        case None:
            text = "NULL"
        case bool():
            text = "true" if value else "false"
        case int():
            text = str(value)
        case float():
            text = repr(value)
        case str():
            text = _quoted_in_clickhouse(value)
        case datetime():
            text = f"'{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
        case list() | tuple():
            text = f"[{', '.join(map(_in_clickhouse, value))}]"
        case _:
            raise TypeError(f"no literal is known for {type(value).__name__}")
    return text


def _quoted_in_clickhouse(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
