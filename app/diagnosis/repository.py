"""SQL of what a diagnosis reads from PostgreSQL: assignments, the audit log, and the newest events."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.access.models import audit_log
from app.diagnosis.facts import Arrivals, Entrances, Sent
from app.events.messages import MOST_AHEAD
from app.measurement import hot_filters
from app.metrics.values import Kind, Recipe, Selection, ValueSource
from app.results.exposed_hot import exposed_in_postgres, left_out
from app.results.values import Exclusion, Question, Subject

MOST_NAMES, MOST_VALUES = 10, 20
# What is said of newest events is about these.
_ARRIVALS_SINCE, _MOST_ARRIVALS = timedelta(days=7), 50_000
_LATE, _AHEAD = timedelta(hours=1), timedelta(minutes=1)

_PREPARE = text(
    "SELECT set_config('work_mem', '96MB', true), set_config('enable_nestloop', 'off', true),"
    " set_config('enable_mergejoin', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)"
)
# Behind `exposed`. Users with an override are not divided by the plan.
_USERS = """
SELECT variant_id, CAST(exposed_at AT TIME ZONE 'UTC' AS date) AS day,
    width_bucket(exposed_at, CAST(:moments AS timestamptz[])) AS stretch, count(*) AS users
FROM exposed WHERE planned = 1 GROUP BY 1, 2, 3"""
_USERS_WITHOUT_MOMENTS = """
SELECT variant_id, CAST(exposed_at AT TIME ZONE 'UTC' AS date) AS day, 0 AS stretch, count(*) AS users
FROM exposed WHERE planned = 1 GROUP BY 1, 2"""
_ATTRIBUTES = """, held AS MATERIALIZED (
    SELECT exposed.variant_id, stored.context
    FROM exposed JOIN assignments AS stored ON stored.user_id = exposed.user_id
    WHERE stored.experiment_id = CAST(:experiment_id AS bigint) AND exposed.planned = 1
      AND jsonb_typeof(stored.context) = 'object'
), named AS MATERIALIZED (
    SELECT name FROM held CROSS JOIN jsonb_object_keys(held.context) AS name
    GROUP BY name ORDER BY count(*) DESC, name LIMIT :most_names
), valued AS MATERIALIZED (
    SELECT named.name, held.context ->> named.name AS value, held.variant_id, count(*) AS users
    FROM held CROSS JOIN named
    WHERE jsonb_typeof(held.context -> named.name) IN ('string', 'boolean', 'number') GROUP BY 1, 2, 3
), ranked AS (
    SELECT name, value, row_number() OVER (PARTITION BY name ORDER BY sum(users) DESC, value) AS place
    FROM valued GROUP BY name, value
)
SELECT valued.name, valued.value, valued.variant_id, valued.users
FROM valued JOIN ranked ON ranked.name = valued.name AND ranked.value = valued.value
WHERE ranked.place <= :most_values ORDER BY valued.name, ranked.place"""
_ENTRANCES = text(
    "SELECT count(*) AS assigned, count(*) FILTER (WHERE source = 'import') AS imported,"
    " count(*) FILTER (WHERE assigned_at < :started_at) AS before_start,"
    " count(*) FILTER (WHERE assigned_at < :started_at AND source = 'import') AS imported_before_start,"
    " min(assigned_at) AS earliest FROM assignments WHERE experiment_id = :experiment_id"
)
_ARRIVALS = text(
    "SELECT count(*) AS events, count(*) FILTER (WHERE ingested_at - ts > CAST(:late AS interval)) AS late,"
    " count(*) FILTER (WHERE ts - ingested_at > CAST(:ahead AS interval)) AS ahead,"
    " max(ingested_at) AS newest FROM ("
    " SELECT user_id, ts, ingested_at FROM events WHERE project_id = :project_id"
    " AND (experiment_id IS NULL OR experiment_id = :experiment_id) AND ingested_at >= CAST(:since AS timestamptz)"
    " ORDER BY ingested_at DESC LIMIT :most_rows) AS newest"
    " WHERE user_id IN (SELECT user_id FROM assignments WHERE experiment_id = :experiment_id)"
)
# Behind `exposed`. Each event is counted under the first that is true of it.
_SENT = """, sent AS (
    SELECT exposed.unit, happened.ts < exposed.exposed_at AS early,
        happened.ts >= exposed.exposed_at + CAST(:window_from AS interval)
            AND (CAST(:window_until AS interval) IS NULL
                OR happened.ts < exposed.exposed_at + CAST(:window_until AS interval)) AS inside,
        {keeps} AS kept, {number} AS has_number
    FROM events AS happened LEFT JOIN exposed ON exposed.user_id = happened.user_id
    WHERE happened.project_id = CAST(:project_id AS bigint)
      AND (happened.experiment_id IS NULL OR happened.experiment_id = CAST(:experiment_id AS bigint))
      AND happened.ingested_at >= CAST(:events_since AS timestamptz)
      AND (CAST(:event_types AS text[]) IS NULL OR happened.event_type = ANY (CAST(:event_types AS text[])))
)
SELECT count(*) FILTER (WHERE unit IS NULL) AS of_others, count(*) FILTER (WHERE early) AS early,
    count(*) FILTER (WHERE NOT early AND NOT inside) AS outside,
    count(*) FILTER (WHERE NOT early AND inside AND NOT kept) AS filtered,
    count(*) FILTER (WHERE NOT early AND inside AND kept AND NOT has_number) AS without_number,
    count(*) FILTER (WHERE NOT early AND inside AND kept AND has_number) AS usable
FROM sent"""


@dataclass(frozen=True, slots=True)
class UsersSeen:
    """Users exposed, by day and variant id, and by the stretch between two moments and variant id."""

    by_day: dict[date, dict[int, int]]
    by_stretch: dict[int, dict[int, int]]


@dataclass(frozen=True, slots=True)
class Attribute:
    """Users of a variant whose context has a value."""

    name: str
    value: str
    variant_id: int
    users: int


@dataclass(frozen=True, slots=True)
class Noted:
    """An entry of the audit log."""

    at: datetime
    actor: str
    action: str
    fields: tuple[str, ...]


class DiagnosisRepository:
    """Reads in the connection's transaction; `prepare` comes first."""

    def __init__(self, connection: AsyncConnection, subject: Subject) -> None:
        self._connection = connection
        self._subject = subject

    async def prepare(self) -> None:
        """Have statements planned as those of results are."""
        await self._connection.execute(_PREPARE)

    async def users(self, question: Question, moments: Sequence[datetime]) -> UsersSeen:
        """Count exposed users by day and between the moments, which rise."""
        who, parameters = exposed_in_postgres(self._subject, question)
        sql, own = (_USERS, {"moments": list(moments)}) if moments else (_USERS_WITHOUT_MOMENTS, {})
        seen = UsersSeen(defaultdict(lambda: defaultdict(int)), defaultdict(lambda: defaultdict(int)))
        for row in await self._rows(who + sql, {**parameters, **own}):
            seen.by_day[row["day"]][row["variant_id"]] += row["users"]
            seen.by_stretch[row["stretch"]][row["variant_id"]] += row["users"]
        return seen

    async def in_two_variants(self, question: Question) -> int:
        """Count the users who are left out because they were shown another variant than their own."""
        who, parameters = exposed_in_postgres(self._subject, question)
        rows = await self._rows(f"{who}\n{left_out(question)}", dict(parameters))
        return sum(int(row["users"]) for row in rows if row["reason"] == Exclusion.TWO_VARIANTS.value)

    async def attributes(self, question: Question) -> list[Attribute]:
        """Count exposed users of the most frequent values under the most frequent names of their context."""
        who, parameters = exposed_in_postgres(self._subject, question)
        own = {"most_names": MOST_NAMES, "most_values": MOST_VALUES}
        return [Attribute(**row) for row in await self._rows(who + _ATTRIBUTES, {**parameters, **own})]

    async def entrances(self, started_at: datetime | None) -> Entrances:
        values = {"experiment_id": self._subject.experiment_id, "started_at": started_at}
        row = (await self._connection.execute(_ENTRANCES, values)).mappings().one()
        return Entrances(**row)

    async def noted(self, since: datetime) -> list[Noted]:
        """Return what the audit log has about the experiment from then on, the oldest first."""
        statement = (
            select(audit_log.c.at, audit_log.c.actor, audit_log.c.action, audit_log.c.details)
            .where(
                audit_log.c.project_id == self._subject.project_id,
                audit_log.c.subject == f"experiment:{self._subject.experiment_id}",
                audit_log.c.at >= since,
            )
            .order_by(audit_log.c.id)
        )
        return [
            Noted(row.at, row.actor, row.action, _fields(row.action, row.details))
            for row in await self._connection.execute(statement)
        ]

    async def arrivals(self, now: datetime) -> Arrivals:
        """Tell how those of the project's newest events came that are of the experiment's users."""
        values = {
            "project_id": self._subject.project_id,
            "experiment_id": self._subject.experiment_id,
            "since": now - _ARRIVALS_SINCE,
            "late": _LATE,
            "ahead": _AHEAD,
            "most_rows": _MOST_ARRIVALS,
        }
        row = (await self._connection.execute(_ARRIVALS, values)).mappings().one()
        return Arrivals(**row)

    async def sent(self, question: Question, recipe: Recipe, selection: Selection, since: datetime) -> Sent:
        """Tell what became of the events that an empty metric selects, of those ingested from `since` on."""
        who, parameters = exposed_in_postgres(self._subject, question)
        keeps, own = _kept(selection)
        number, of_number = _has_number(selection)
        window_from, window_until = _window(recipe)
        values = {
            **parameters,
            **own,
            **of_number,
            "project_id": self._subject.project_id,
            "experiment_id": self._subject.experiment_id,
            "events_since": since - MOST_AHEAD,
            "event_types": list(selection.event_types) or None,
            "window_from": window_from,
            "window_until": window_until,
        }
        (row,) = await self._rows(who + _SENT.format(keeps=keeps, number=number), values)
        return Sent(event_types=selection.event_types, **row)

    async def _rows(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        return [dict(row) for row in (await self._connection.execute(text(sql), parameters)).mappings()]


def _fields(action: str, details: object) -> tuple[str, ...]:
    """Return the fields that a change set; of other actions the details are no fields, nor is what no object is."""
    if action != "experiment.changed" or not isinstance(details, dict):
        return ()
    return tuple(sorted(name for name in details if name != "version"))


def _kept(selection: Selection) -> tuple[str, dict[str, Any]]:
    conditions, parameters = [], dict[str, Any]()
    for place, wanted in enumerate(selection.filters):
        condition, own = hot_filters.condition(wanted, f"filter_{place}")
        conditions.append(condition)
        parameters |= own
    return f"({' AND '.join(conditions)})" if conditions else "true", parameters


def _has_number(selection: Selection) -> tuple[str, dict[str, Any]]:
    match selection.source:
        case ValueSource.ONE:
            return "true", {}
        case ValueSource.VALUE:
            return "(happened.value IS NOT NULL)", {}
        case ValueSource.PROPERTY:
            return f"(({hot_filters.number_of('number')}) IS NOT NULL)", {"number": selection.property}


def _window(recipe: Recipe) -> tuple[timedelta, timedelta | None]:
    if recipe.kind is Kind.RETENTION and recipe.first_day is not None and recipe.last_day is not None:
        return timedelta(days=recipe.first_day), timedelta(days=recipe.last_day + 1)
    until = None if recipe.window_s is None else timedelta(seconds=recipe.window_s)
    return timedelta(seconds=recipe.window_from_s), until
