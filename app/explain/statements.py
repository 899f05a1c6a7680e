"""The statements by which results are computed, as text to paste. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from app.explain.literals import (
    for_clickhouse,
    for_postgres,
    settings_for_clickhouse,
    settings_for_postgres,
)
from app.explain.values import Statement
from app.measurement import cold_statement, hot_statement
from app.measurement.plan import compiled
from app.measurement.stores import SETTINGS as MEASURING_SETTINGS
from app.measurement.values import Asked, Exposed
from app.metrics.values import Recipe
from app.results import cold, hot
from app.results.analysis import MOST_SERIES_ENTRIES
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.tail import EXCLUDED_USERS
from app.results.values import Metric, Question, Subject

_MOST_SLOTS = MOST_SERIES_ENTRIES + 1
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


@dataclass(frozen=True, slots=True)
class Numbers:
    """The metrics of a question: built-in ones have one statement, stored ones another."""

    built_in: tuple[Metric, ...]
    stored: Mapping[str, Recipe]


def in_postgres(subject: Subject, question: Question, numbers: Numbers) -> Statement:
    """Return the statements for PostgreSQL."""
    texts = []
    if numbers.built_in:
        sql, parameters = hot.statement_for(subject, question, most_slots=_MOST_SLOTS)
        texts.append(_headed(numbers.built_in, for_postgres(sql, parameters)))
    if numbers.stored:
        exposed = Exposed(*exposed_in_postgres(subject, question))
        sql, parameters = hot_statement.measuring(compiled(numbers.stored), _asked(subject, question), exposed)
        texts.append(_headed(tuple(numbers.stored), for_postgres(sql, parameters)))
    sql = settings_for_postgres(_POSTGRES_SETTINGS) + "".join(f"\n{text};\n" for text in texts)
    return Statement(sql, _POSTGRES_SETTINGS)


def in_clickhouse(subject: Subject, question: Question, numbers: Numbers, watermark: datetime) -> Statement:
    """Return the statements for ClickHouse, of what was ingested before the watermark."""
    texts, settings = [], list[Mapping[str, object]]()
    if numbers.built_in:
        sql, parameters = cold.statement_for(subject, question, watermark, most_slots=_MOST_SLOTS, with_tail=False)
        settings.append(cold.SETTINGS)
        texts.append(_headed(numbers.built_in, _clickhouse(subject, sql, parameters, cold.SETTINGS)))
    if numbers.stored:
        exposed = Exposed(*exposed_in_clickhouse(subject, question, watermark, with_tail=False))
        asked = _asked(subject, question)
        sql, own = cold_statement.measuring(compiled(numbers.stored), asked, exposed, with_tail=False)
        settings.append(MEASURING_SETTINGS)
        text = _clickhouse(subject, sql, {**own, "watermark": watermark}, MEASURING_SETTINGS)
        texts.append(_headed(tuple(numbers.stored), text))
    made = dict(chain.from_iterable(one.items() for one in settings))
    return Statement(
        "\n".join(f"{text};\n" for text in texts), {name: str(value) for name, value in sorted(made.items())}
    )


def _headed(metrics: Sequence[str], text: str) -> str:
    """Put the metrics' keys, which no line break can be in, above a statement."""
    return f"-- {', '.join(metrics)}\n{text.strip()}"


def _asked(subject: Subject, question: Question) -> Asked:
    return Asked(
        project_id=subject.project_id, experiment_id=subject.experiment_id, start=question.start, end=question.end
    )


def _clickhouse(subject: Subject, sql: str, parameters: Mapping[str, object], settings: Mapping[str, object]) -> str:
    # The list of users travels with the query as a table; what is pasted has to hold it itself.
    whole = sql.replace(f"FROM {EXCLUDED_USERS}", f"FROM {_LISTED_USERS}")
    listed = {"explained_users": list(subject.population.exclude_users)}
    return f"{for_clickhouse(whole, {**parameters, **listed}).strip()}\n{settings_for_clickhouse(settings)}"
