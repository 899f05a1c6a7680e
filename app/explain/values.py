"""A question whose SQL is asked for, and the SQL. Plain values, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.results.values import ContextFilter, SourceChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What is asked of results, as far as SQL depends on it. No metrics: those that results show by default."""

    metrics: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    granularity: str = "day"
    include_overrides: bool = False
    context: tuple[ContextFilter, ...] = ()
    source: SourceChoice = SourceChoice.AUTO


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL that can be pasted as it is: one statement for built-in metrics, one for stored ones.

    settings: those that it makes itself.
    """

    sql: str
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The SQL of both stores; `None`: not asked for, or there is none, which a note says."""

    metrics: tuple[str, ...]
    postgresql: Statement | None
    clickhouse: Statement | None
    notes: tuple[str, ...]
