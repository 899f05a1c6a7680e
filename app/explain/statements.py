"""The queries by which results are computed, as text to paste. Plain functions, no I/O.

An answer is made of one query for what is observed and one for what recipes measure; quantiles need another, whose
ranks follow from what that one counts, and so do metrics that absurd values hide in some arm. Where the users are
divided there is the same again by cells of variant and part. Of dropped duplicates PostgreSQL alone knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import chain
from typing import Protocol, TypeAlias

from app.explain.literals import (
    for_clickhouse,
    for_postgres,
    settings_for_clickhouse,
    settings_for_postgres,
)
from app.explain.values import Part, Query, Statement
from app.measurement import cold_statement, hot_statement, hot_values
from app.measurement.plan import Plan, compiled
from app.measurement.stores import SETTINGS as MEASURING_SETTINGS
from app.measurement.values import Days, Exposed
from app.results import cold, duplicates, hot
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.limits import MOST_SLOTS
from app.results.measuring import asked_of
from app.results.tail import EXCLUDED_USERS
from app.results.values import NOTHING_WANTED, Question, Subject, Wanted

# The first two make the text mean the same in every session, the others make it as fast as results are.
_POSTGRES_SETTINGS: Mapping[str, str] = {
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "work_mem": "96MB",
    "enable_nestloop": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
}
_LISTED_USERS = "(SELECT arrayJoin({explained_users:Array(String)}) AS user_id)"

# By the metric's index in the plan, and the id of a variant or cell.
Ranks: TypeAlias = Mapping[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What queries follow from that a store has to be looked at for: days of series, ranks, what is measured again."""

    days: Days | None = None
    ranks: Ranks = field(default_factory=dict)
    ranks_by_segment: Ranks = field(default_factory=dict)
    repeated: Sequence[Plan] = ()
    repeated_by_segment: Sequence[Plan] = ()

    @property
    def measured_again(self) -> frozenset[int]:
        """The metrics, by their index, that have queries of their own."""
        plans = (*self.repeated, *self.repeated_by_segment)
        return frozenset(measure.index for plan in plans for measure in plan.measures)


NOTHING_KNOWN = Known()


def in_postgres(
    subject: Subject, question: Question, wanted: Wanted = NOTHING_WANTED, known: Known = NOTHING_KNOWN
) -> Statement:
    """Return the queries for PostgreSQL.

    question: with those metrics alone that are observed; `wanted` are the others.
    """
    made = settings_for_postgres(_POSTGRES_SETTINGS)
    bare = [
        *_queries(_Postgres(subject, compiled(wanted.recipes)), question, known),
        _headed(Part.DUPLICATES, (), for_postgres(*duplicates.statement_for(subject, question)), by_segment=False),
    ]
    return Statement(
        made + "".join(f"\n{query.sql}\n" for query in bare),
        _POSTGRES_SETTINGS,
        tuple(replace(query, sql=f"{made}\n{query.sql}\n") for query in bare),
    )


def in_clickhouse(
    subject: Subject,
    question: Question,
    watermark: datetime,
    wanted: Wanted = NOTHING_WANTED,
    known: Known = NOTHING_KNOWN,
) -> Statement:
    """Return the queries for ClickHouse, of what was ingested before the watermark.

    question, wanted: as of `in_postgres`.
    """
    store = _ClickHouse(subject, compiled(wanted.recipes), watermark)
    queries = tuple(_queries(store, question, known))
    used = [cold.SETTINGS, *([MEASURING_SETTINGS] if wanted.recipes else [])]
    made = dict(chain.from_iterable(one.items() for one in used))
    return Statement(
        "\n".join(f"{query.sql}\n" for query in queries),
        {name: str(value) for name, value in sorted(made.items())},
        queries,
    )


class _Store(Protocol):
    """Writes the queries of a store; where the question divides the users, those by cells."""

    @property
    def plan(self) -> Plan: ...
    def observed(self, question: Question) -> str: ...
    def measured(self, plan: Plan, question: Question, days: Days | None) -> str: ...
    def bounds(self, question: Question, ranks: Ranks) -> str: ...


def _queries(store: _Store, question: Question, known: Known) -> Iterator[Query]:
    """Write the queries in the order in which results run them."""
    views = [(question.undivided, known.days, known.ranks, known.repeated)]
    if question.is_divided:
        views.append((replace(question, with_series=False), None, known.ranks_by_segment, known.repeated_by_segment))
    for view, days, ranks, repeated in views:
        by_segment = view.is_divided
        yield _headed(Part.OBSERVED, view.metrics, store.observed(view), by_segment=by_segment)
        for plan in _carried_out(store.plan, repeated):
            keys = tuple(measure.key for measure in plan.measures)
            sql = store.measured(plan, view, days)
            yield _headed(Part.MEASURED, keys, sql, by_segment=by_segment, arms=plan.arms)
        if ranks:
            bounded = {index for index, _ in ranks}
            keys = tuple(measure.key for measure in store.plan.measures if measure.index in bounded)
            yield _headed(Part.BOUNDS, keys, store.bounds(view, ranks), by_segment=by_segment)


def _carried_out(plan: Plan, repeated: Sequence[Plan]) -> Iterator[Plan]:
    """Yield the plan, without metrics of which nothing that it says remains, and those of what is measured again."""
    replaced = {measure.index for again in repeated if not again.arms for measure in again.measures}
    ordinary = plan.only(measure.index for measure in plan.measures if measure.index not in replaced)
    yield from (some for some in (ordinary, *repeated) if some.measures)


def _headed(part: Part, metrics: Sequence[str], text: str, *, by_segment: bool, arms: Sequence[int] = ()) -> Query:
    """Put what a query is above it; no line break can be in a metric's key."""
    about = f"{part}, by segment" if by_segment else f"{part}"
    if arms:
        about += f", of variant_id {', '.join(map(str, arms))} alone"
    heading = f"-- {about}: {', '.join(metrics)}" if metrics else f"-- {about}"
    return Query(part, by_segment, tuple(metrics), f"{heading}\n{text.strip()};")


@dataclass(frozen=True, slots=True)
class _Postgres:
    subject: Subject
    plan: Plan

    def observed(self, question: Question) -> str:
        return for_postgres(*hot.statement_for(self.subject, question, most_slots=MOST_SLOTS))

    def measured(self, plan: Plan, question: Question, days: Days | None) -> str:
        asked = asked_of(self.subject, question, days)
        return for_postgres(*hot_statement.measuring(plan, asked, self._exposed(question)))

    def bounds(self, question: Question, ranks: Ranks) -> str:
        asked = asked_of(self.subject, question)
        return for_postgres(*hot_values.bounding(self.plan, asked, self._exposed(question), ranks))

    def _exposed(self, question: Question) -> Exposed:
        return Exposed(*exposed_in_postgres(self.subject, question))


@dataclass(frozen=True, slots=True)
class _ClickHouse:
    subject: Subject
    plan: Plan
    watermark: datetime

    def observed(self, question: Question) -> str:
        sql, parameters = cold.statement_for(
            self.subject, question, self.watermark, most_slots=MOST_SLOTS, with_tail=False
        )
        return self._written(sql, parameters, cold.SETTINGS)

    def measured(self, plan: Plan, question: Question, days: Days | None) -> str:
        asked = asked_of(self.subject, question, days)
        sql, parameters = cold_statement.measuring(plan, asked, self._exposed(question), with_tail=False)
        return self._written(sql, parameters, MEASURING_SETTINGS)

    def bounds(self, question: Question, ranks: Ranks) -> str:
        asked = asked_of(self.subject, question)
        sql, parameters = cold_statement.bounding(self.plan, asked, self._exposed(question), ranks, with_tail=False)
        return self._written(sql, parameters, MEASURING_SETTINGS)

    def _exposed(self, question: Question) -> Exposed:
        return Exposed(*exposed_in_clickhouse(self.subject, question, self.watermark, with_tail=False))

    def _written(self, sql: str, parameters: Mapping[str, object], settings: Mapping[str, object]) -> str:
        # The list of users travels with the query as a table; what is pasted has to hold it itself.
        whole = sql.replace(f"FROM {EXCLUDED_USERS}", f"FROM {_LISTED_USERS}")
        bound = {
            **parameters,
            "watermark": self.watermark,
            "explained_users": list(self.subject.population.exclude_users),
        }
        return f"{for_clickhouse(whole, bound).strip()}\n{settings_for_clickhouse(settings)}"
