"""SQL of what became of an empty metric's events, in ClickHouse with PostgreSQL's newest rows.

`sent_hot` says the same of PostgreSQL; a test holds the two equal.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app.core.clickhouse import ClickHouse
from app.diagnosis.facts import Sent
from app.diagnosis.sought import Sought, has_number, kept
from app.measurement import cold_filters
from app.measurement.stores import SETTINGS
from app.measurement.tail import EVENTS as TAIL_EVENTS
from app.measurement.tail import table_of
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.tail import tables_for
from app.results.values import Question, Subject, Tail

_US = timedelta(microseconds=1)
_HISTORY = """events FINAL
        WHERE project_id = {project_id:Int64}
          AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})
          AND ingested_at < {watermark:DateTime64(6, 'UTC')} AND ingested_at >= {events_since:DateTime64(6, 'UTC')}"""
_TAIL = f"""{TAIL_EVENTS} WHERE true"""
_OF_TYPES = """
          AND event_type IN ({event_types:Array(String)})"""
# Behind `exposed`. Each event is counted under the first that is true of it.
_SENT = """
SELECT countIf(NOT known) AS of_others, countIf(known AND early) AS early,
    countIf(known AND NOT early AND NOT inside) AS outside,
    countIf(known AND NOT early AND inside AND NOT kept) AS filtered,
    countIf(known AND NOT early AND inside AND kept AND NOT has_number) AS without_number,
    countIf(known AND NOT early AND inside AND kept AND has_number) AS usable
FROM (
    SELECT people.known AS known, happened.kept AS kept, happened.has_number AS has_number,
        happened.moment < people.exposed_us AS early,
        happened.moment >= people.exposed_us + {{window_from_us:Int64}}{until} AS inside
    FROM ({streams}) AS happened LEFT JOIN (
        SELECT user_id, toUnixTimestamp64Micro(exposed_at) AS exposed_us, true AS known FROM exposed
    ) AS people ON happened.user_id = people.user_id
)"""
_UNTIL = """ AND happened.moment < people.exposed_us + {window_until_us:Int64}"""


async def sent_in_history(
    clickhouse: ClickHouse,
    subject: Subject,
    wanted: Sought,
    since: datetime,
    watermark: datetime,
    tail: Tail,
    events: Sequence[bytes],
) -> Sent:
    """Tell what became of the events that were ingested from `since` until before the watermark, and of `events`.

    events: PostgreSQL's from the watermark on, made by `tail_events`.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: the history's tables are not there, or not as expected.
    """
    who, parameters = exposed_in_clickhouse(subject, Question(), watermark, with_tail=True)
    sql, own = _statement(wanted)
    bound = {**parameters, **own, "events_since": since}
    tables = {**tables_for(subject, tail), TAIL_EVENTS: table_of(events)}
    (row,) = await clickhouse.rows(who + sql, bound, settings=SETTINGS, tables=tables)
    return Sent(event_types=wanted.selection.event_types, **{name: int(number) for name, number in row.items()})


def _statement(wanted: Sought) -> tuple[str, dict[str, Any]]:
    selection = wanted.selection
    keeps, parameters = kept(selection, cold_filters.condition)
    number, of_number = has_number(selection, "value", cold_filters.number_of)
    parameters |= {**of_number, "window_from_us": wanted.since // _US}
    if selection.event_types:
        parameters["event_types"] = list(selection.event_types)
    if wanted.until is not None:
        parameters["window_until_us"] = wanted.until // _US
    of_types = _OF_TYPES if selection.event_types else ""
    streams = " UNION ALL ".join(_stream(keeps, number, rows + of_types) for rows in (_HISTORY, _TAIL))
    return _SENT.format(streams=streams, until=_UNTIL if wanted.until is not None else ""), parameters


def _stream(keeps: str, number: str, rows: str) -> str:
    return f"""
    SELECT user_id, moment, {keeps} AS kept, {number} AS has_number FROM (
        SELECT user_id, toUnixTimestamp64Micro(ts) AS moment, value, {cold_filters.PROPERTIES} AS properties
        FROM {rows}
    )"""
