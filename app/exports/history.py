"""Events out of ClickHouse, page by page, for PostgreSQL to write out.

An export may take as long as its reader likes, and no query of ClickHouse's should. So it is asked for one stretch of
the sorting key at a time: short queries, each of which fits into memory. What is asked for was ingested before a moment
below the watermark. Such rows neither come nor change, so the pages belong together although they are read one by one.
"""

import itertools
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from app.core.clickhouse import ClickHouse, SentRows

# As lines of TabSeparated, which COPY reads as its own text. No event has an empty object for its properties: who sends
# none, and who sends an empty one, has nothing stored, which travels as `{}`.
COLUMNS = "project_id, event_id, experiment_id, user_id, event_type, ts, value, properties, ingested_at"
_PAGE = """
SELECT project_id, event_id, experiment_id, user_id, event_type, ts, value, nullIf(properties, '{{}}'), ingested_at
FROM events FINAL WHERE {conditions}"""
# A row marks the beginning of a stretch with a chance in proportion to its length, so that there is a mark in so many
# bytes on average, whatever the rows are like. Ids are of the callers' choice, and what is drawn must not follow from
# them: without a mark all would be one page.
_MARK_EVERY_BYTES = 256 * 1024
_MARKS = """
SELECT DISTINCT event_type, user_id, ts, event_id FROM events WHERE {conditions}
  AND sipHash64(event_id, {{salt:UInt64}}) % {{mark_every_bytes:UInt64}}
    < 100 + length(user_id) + length(event_type) + length(properties)
ORDER BY event_type, user_id, ts, event_id"""
_MARKS_IN_PAGE = 16

_CONDITIONS = """project_id = {project_id:Int64} AND ingested_at < {before:DateTime64(6, 'UTC')}"""
_OF_EXPERIMENT = """
  AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})"""
_NAMING_EXPERIMENT = """
  AND experiment_id = {experiment_id:Int64}"""
_INGESTED_SINCE = """
  AND ingested_at >= {ingested_since:DateTime64(6, 'UTC')}"""
_SINCE = """
  AND ts >= {since:DateTime64(6, 'UTC')}"""
_UNTIL = """
  AND ts < {until:DateTime64(6, 'UTC')}"""
_OF_TYPES = """
  AND event_type IN ({event_types:Array(String)})"""
_FROM = """
  AND event_type >= {from_type:String} AND (event_type > {from_type:String}
    OR user_id >= {from_user:String} AND (user_id > {from_user:String}
    OR ts >= {from_ts:DateTime64(6, 'UTC')} AND (ts > {from_ts:DateTime64(6, 'UTC')}
    OR event_id >= {from_id:UUID})))"""
_TO = """
  AND event_type <= {to_type:String} AND (event_type < {to_type:String}
    OR user_id <= {to_user:String} AND (user_id < {to_user:String}
    OR ts <= {to_ts:DateTime64(6, 'UTC')} AND (ts < {to_ts:DateTime64(6, 'UTC')}
    OR event_id < {to_id:UUID})))"""
# Of a page's users, so that no more of them are in memory than the page has, however many the experiment has.
_OF_MEMBERS = """
  AND user_id IN (
    SELECT user_id FROM exposures WHERE experiment_id = {{experiment_id:Int64}}{between}
      AND user_id IN (SELECT user_id FROM events WHERE {conditions})
    UNION ALL SELECT user_id FROM {table})"""
_BETWEEN = """
      AND user_id >= {from_user:String} AND user_id <= {to_user:String}"""
_LATE_MEMBERS = "export_late_members"

_SETTINGS: Mapping[str, Any] = {
    # Copies of a redelivered row carry the same ingestion time, so they never lie in different partitions.
    "do_not_merge_across_partitions_select_final": 1,
    # Nobody waits for an export as for an answer.
    "max_threads": 1,
}


class Mark(NamedTuple):
    """A row's place in the sorting key."""

    event_type: str
    user_id: str
    ts: str
    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events of the history: all that may matter, so more than those that are exported.

    before: the ingestion time that they are older than; `ingested_since`: and not older than this one. of_experiment:
    those that name no other experiment; `naming_experiment`: those that name this one. late_members: users of the
    experiment whom the history may not know; with them the events of others are left out, `None` keeps these.
    """

    project_id: int
    experiment_id: int
    before: datetime
    ingested_since: datetime | None = None
    since: datetime | None = None
    until: datetime | None = None
    event_types: Sequence[str] = ()
    of_experiment: bool = False
    naming_experiment: bool = False
    late_members: Sequence[str] | None = None


_decode_mark = msgspec.json.Decoder(Mark).decode


class HistoryPages:
    """Reads pages."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def read(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """Yield the events once each, as lines of `COLUMNS`; a page is some megabytes, and none is empty.

        Raises:
            ClickHouseUnavailable: it cannot be reached, or took too long.
        """
        tables: dict[str, SentRows] = {}
        if wanted.late_members is not None:
            lines = [msgspec.json.encode({"user_id": user_id}) for user_id in wanted.late_members]
            tables[_LATE_MEMBERS] = SentRows("user_id String", lines)
        bounds = [None, *(await self._marks(wanted))[_MARKS_IN_PAGE - 1 :: _MARKS_IN_PAGE], None]
        for start, end in itertools.pairwise(bounds):
            sql, parameters = page_statement(wanted, start, end)
            if page := await self._clickhouse.lines(sql, parameters, settings=_SETTINGS, tables=tables):
                yield page

    async def _marks(self, wanted: Wanted) -> list[Mark]:
        parameters = {**_parameters(wanted), "salt": secrets.randbits(64), "mark_every_bytes": _MARK_EVERY_BYTES}
        sql = _MARKS.format(conditions=_conditions(wanted))
        lines = await self._clickhouse.lines(sql, parameters, form="JSONCompactEachRow", settings=_SETTINGS)
        return [_decode_mark(line) for line in lines.splitlines()]


def page_statement(wanted: Wanted, start: Mark | None, end: Mark | None) -> tuple[str, Mapping[str, Any]]:
    """Return the query for the events from one mark on up to another one, excluded; `None`: all there are."""
    conditions = _conditions(wanted) + (_FROM if start else "") + (_TO if end else "")
    parameters = {**_parameters(wanted), **_bound("from", start), **_bound("to", end)}
    if wanted.late_members is None:
        return _PAGE.format(conditions=conditions), parameters
    is_of_one_type = start is not None and end is not None and start.event_type == end.event_type
    of_members = _OF_MEMBERS.format(
        between=_BETWEEN if is_of_one_type else "", conditions=conditions, table=_LATE_MEMBERS
    )
    return _PAGE.format(conditions=conditions + of_members), parameters


def _conditions(wanted: Wanted) -> str:
    return "".join(
        (
            _CONDITIONS,
            _OF_EXPERIMENT if wanted.of_experiment else "",
            _NAMING_EXPERIMENT if wanted.naming_experiment else "",
            _INGESTED_SINCE if wanted.ingested_since is not None else "",
            _SINCE if wanted.since is not None else "",
            _UNTIL if wanted.until is not None else "",
            _OF_TYPES if wanted.event_types else "",
        )
    )


def _parameters(wanted: Wanted) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "project_id": wanted.project_id,
        "experiment_id": wanted.experiment_id,
        "before": wanted.before,
        "ingested_since": wanted.ingested_since,
        "since": wanted.since,
        "until": wanted.until,
        "event_types": list(wanted.event_types) or None,
    }
    return {name: value for name, value in parameters.items() if value is not None}


def _bound(prefix: str, mark: Mark | None) -> dict[str, str]:
    if mark is None:
        return {}
    return {
        f"{prefix}_type": mark.event_type,
        f"{prefix}_user": mark.user_id,
        f"{prefix}_ts": mark.ts,
        f"{prefix}_id": mark.event_id,
    }
