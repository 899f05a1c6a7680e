"""Counting with rollups: what they have counted already, and raw rows for the rest.

A pair of an event and an exposure that counts is in the rollups when both were ingested before `rolled_until`. So

    answer = rolled up + recent events of known users + all events of fresh users - what barred users have

where recent events and fresh users (exposures) are those ingested later, up to the watermark or in PostgreSQL's tail,
and known users are the others; barred users are those whom a rule leaves out. Users are counted as bits of bitmaps:
known ones have numbers that were dealt out with the rollups, fresh ones get numbers from the other end.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from app.results import tail
from app.results.observed import EPOCH
from app.results.rollup_use import is_within_bounds
from app.results.values import Granularity, Question
from app.rollups.steps import DAY, Step, built_until

_US = timedelta(microseconds=1)

_RAW = """PREWHERE ingested_at >= {rolled_until:DateTime64(6, 'UTC')}
        AND ingested_at < {watermark:DateTime64(6, 'UTC')}"""
_FRESH = f"""
), fresh AS (
    SELECT user_id, variant_id, exposed_at FROM (
        SELECT user_id, variant_id, exposed_at FROM exposures FINAL {_RAW}
        WHERE experiment_id = {{experiment_id:Int64}}"""
_AND_TAIL_EXPOSURES = f"""
        UNION ALL SELECT user_id, variant_id, exposed_at FROM {tail.EXPOSURES}"""
_FRESH_TAIL = """
    ) WHERE user_id NOT IN (SELECT user_id FROM barred)"""
_BEFORE_END = """ AND exposed_at < {until:DateTime64(6, 'UTC')}"""
_KNOWN = """
), known AS (
    SELECT user_id, variant_id, exposed_at, number FROM rollup_units FINAL
    WHERE experiment_id = {experiment_id:Int64} AND step IN {steps:Array(UInt64)}
), excluded AS (
    SELECT user_id, variant_id, exposed_at, number FROM known WHERE user_id IN (SELECT user_id FROM barred)
), (
    SELECT groupBitmapState(number) FROM excluded
) AS excluded_numbers"""

_HAPPENED = "SELECT user_id, event_type, ts FROM events FINAL"
_OF_PROJECT = """
        WHERE project_id = {project_id:Int64} AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})"""
_AND_TAIL_EVENTS = f"""
        UNION ALL SELECT user_id, event_type, ts FROM {tail.EVENTS} WHERE true"""

_ROLLED = """
    FROM rollups FINAL
    WHERE experiment_id = {experiment_id:Int64}
      AND (width = 'day' AND step IN {day_steps:Array(UInt64)}
        OR width = 'hour' AND step IN {hour_steps:Array(UInt64)})"""
_BUCKETS_BEFORE_END = """ AND bucket_us < {until_us:Int64}"""
_BUCKETS_SINCE = """ AND bucket_us >= {since_us:Int64}"""
_OF_TYPES = """ AND event_type IN ({event_types:Array(String)})"""

_BUCKET = """toUnixTimestamp64Micro(happened.ts)
            - (toUnixTimestamp64Micro(happened.ts) - {origin_us:Int64}) % {width_us:Int64}"""
_PIECES = f""", pieces AS (
    SELECT variant_id, event_type, bucket_us - (bucket_us - {{origin_us:Int64}}) % {{width_us:Int64}} AS bucket_us,
        toInt64(events) AS events, users{_ROLLED} AND event_type <> ''"""
_COUNTED_HEAD = f"""
    UNION ALL
    SELECT variant_id, event_type, bucket_us, toInt64(count()) AS events, groupBitmapState(number) AS users
    FROM (
        SELECT units.variant_id AS variant_id, units.number AS number, happened.event_type AS event_type,
            {_BUCKET} AS bucket_us
        FROM ("""
_COUNTED_TAIL = """ AS units ON happened.user_id = units.user_id
        WHERE happened.ts >= units.exposed_at
    ) GROUP BY variant_id, event_type, bucket_us"""
# Few events and perhaps many users: the smaller side is the one to hold in memory.
_RECENT_HEAD = f"""
    UNION ALL
    SELECT variant_id, event_type, bucket_us, toInt64(count()) AS events, groupBitmapState(number) AS users
    FROM (
        SELECT units.variant_id AS variant_id, units.number AS number, happened.event_type AS event_type,
            {_BUCKET} AS bucket_us
        FROM (
            SELECT user_id, variant_id, exposed_at, number FROM known
            WHERE user_id NOT IN (SELECT user_id FROM barred)
        ) AS units INNER JOIN (
        {_HAPPENED} {_RAW}{_OF_PROJECT}"""
_RECENT_TAIL = """
        ) AS happened ON happened.user_id = units.user_id
        WHERE happened.ts >= units.exposed_at
    ) GROUP BY variant_id, event_type, bucket_us"""
# All copies of a redelivered row are of the same user, so rows may be chosen by it before copies are dropped.
# No event is older than its time by more than the clocks' difference.
_OF_FRESH = f"""
        {_HAPPENED} PREWHERE ingested_at < {{watermark:DateTime64(6, 'UTC')}}
            AND ingested_at >= (SELECT minOrNull(exposed_at) FROM fresh)
                - toIntervalMicrosecond({{most_ahead_us:Int64}})
            AND user_id IN (SELECT user_id FROM fresh){_OF_PROJECT}"""
_FRESH_UNITS = """
        ) AS happened INNER JOIN (
            SELECT user_id, variant_id, exposed_at, toUInt32(4294967295 - row_number() OVER ()) AS number FROM fresh
        )"""
_EXCLUDED_HEAD = _COUNTED_HEAD.replace("toInt64(count())", "-toInt64(count())")
_OF_EXCLUDED = f"""
        {_HAPPENED} PREWHERE ingested_at < {{rolled_until:DateTime64(6, 'UTC')}}
            AND ingested_at >= (SELECT minOrNull(exposed_at) FROM excluded)
                - toIntervalMicrosecond({{most_ahead_us:Int64}})
            AND user_id IN (SELECT user_id FROM excluded){_OF_PROJECT}"""
_EXCLUDED_UNITS = """
        ) AS happened INNER JOIN excluded"""

_TALLY = """
), tallied AS (
    SELECT variant_id, {of}, bitmapAndnotCardinality(groupBitmapMergeState(users), excluded_numbers) AS users,
        toUInt64(sum(events)) AS events, CAST(NULL, 'Nullable(UInt64)') AS late
    FROM pieces GROUP BY {by} HAVING sum(events) > 0"""
_PER_ARM_AND_BUCKET = _TALLY.format(
    of="event_type, bucket_us, grouping(bucket_us) = 1 AS of_arm",
    by="GROUPING SETS ((variant_id), (variant_id, event_type, bucket_us))",
)
_PER_ARM = _TALLY.format(of="'' AS event_type, toInt64(0) AS bucket_us, true AS of_arm", by="variant_id")
_ENTRY_BUCKET = "entered_us - (entered_us - {origin_us:Int64}) % {entry_width_us:Int64} AS bucket_us"
_ENTERED = f"""
), entered AS (
    SELECT 0 AS reason, variant_id, bucket_us, sum(users) AS users, sum(users) AS planned FROM (
        SELECT variant_id, {_ENTRY_BUCKET},
            bitmapAndnotCardinality(groupBitmapMergeState(users), excluded_numbers) AS users
        FROM (
            SELECT variant_id, users, greatest(bucket_us, {{since_us:Int64}}) AS entered_us
            {_ROLLED} AND event_type = ''"""
_AND_FRESH_ENTERED = f"""
        ) GROUP BY variant_id, bucket_us
        UNION ALL
        SELECT variant_id, {_ENTRY_BUCKET}, count() AS users
        FROM (
            SELECT variant_id, greatest(toUnixTimestamp64Micro(exposed_at), {{since_us:Int64}}) AS entered_us FROM fresh
        ) GROUP BY variant_id, bucket_us
    ) GROUP BY variant_id, bucket_us HAVING sum(users) > 0"""


def counting(question: Question, conditions: str, *, with_tail: bool) -> tuple[str, ...]:
    """Return the parts of a statement that define `tallied` and `entered` behind `barred`.

    conditions: the question's, on an event's columns.
    """
    until = question.end is not None
    of_buckets = "".join(
        (
            _BUCKETS_SINCE if question.start is not None else "",
            _BUCKETS_BEFORE_END if until else "",
            _OF_TYPES if question.event_types else "",
        )
    )
    events_of_tail = (_AND_TAIL_EVENTS, conditions) if with_tail else ()
    return (
        *(_FRESH, _AND_TAIL_EXPOSURES if with_tail else "", _FRESH_TAIL, _BEFORE_END if until else "", _KNOWN),
        *(_PIECES, of_buckets),
        *(_RECENT_HEAD, conditions, *events_of_tail, _RECENT_TAIL),
        *(_COUNTED_HEAD, _OF_FRESH, conditions, *events_of_tail, _FRESH_UNITS, _COUNTED_TAIL),
        *(_EXCLUDED_HEAD, _OF_EXCLUDED, conditions, _EXCLUDED_UNITS, _COUNTED_TAIL),
        _PER_ARM_AND_BUCKET if question.with_series else _PER_ARM,
        *(_ENTERED, _BUCKETS_BEFORE_END if until else "", _AND_FRESH_ENTERED),
    )


def parameters_for(question: Question, steps: Sequence[Step]) -> Mapping[str, Any]:
    """Return what the parts of `counting` need besides the parameters of every statement."""
    by_days = is_within_bounds(question, DAY) and (question.granularity is Granularity.DAY or not question.with_series)
    of_days = [step.id for step in steps if by_days and step.has_days]
    parameters: dict[str, Any] = {
        "rolled_until": built_until(steps),
        "steps": [step.id for step in steps],
        "day_steps": of_days,
        "hour_steps": [step.id for step in steps if step.id not in of_days],
    }
    if question.end is not None:
        parameters["until_us"] = (question.end - EPOCH) // _US
    return parameters
