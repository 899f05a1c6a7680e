"""The SQL of an answer. Plain values, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Part(StrEnum):
    """What a query finds."""

    OBSERVED = "observed"  # Users, events, time series, who is left out, and metrics that are made of these.
    MEASURED = "measured"  # Metrics by their recipes, day by day where they are followed, with their covariates.
    BOUNDS = "bounds"  # The ends of quantiles' intervals.
    DUPLICATES = "duplicates"  # Events that were dropped as known; in PostgreSQL alone.


@dataclass(frozen=True, slots=True)
class Query:
    """One query, which can be pasted as it is.

    by_segment: of the cells of variant and attribute's value, not of the variants. metrics: the keys of those that it
    is about.
    """

    part: Part
    by_segment: bool
    metrics: tuple[str, ...]
    sql: str


@dataclass(frozen=True, slots=True)
class Statement:
    """All queries of an answer in one store; `sql` is all of them in one text.

    settings: those that the text makes itself.
    """

    sql: str
    settings: Mapping[str, str]
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The SQL of both stores; `None`: not asked for, or there is none, which a note says."""

    metrics: tuple[str, ...]
    postgresql: Statement | None
    clickhouse: Statement | None
    notes: tuple[str, ...]
