"""The statements that count rollups.

What counts is defined here in the same words as in `app.results.cold`; a property test holds the two equal.
"""
# ruff: noqa: S608  # All statements are made of constants.

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, Any] = {
    "do_not_merge_across_partitions_select_final": 1,
    "join_use_nulls": 0,
    "prefer_column_name_to_alias": 1,
    # Over a cluster each row is sent to the shard of its user, wherever it was read.
    "parallel_distributed_insert_select": 0,
    # Nobody waits for it, and others want the processors.
    "max_threads": 2,
}

# Copies of a redelivered row carry the same ingestion time, so rows may be chosen by it before copies are dropped.
_INGESTED = """PREWHERE ingested_at >= {since:DateTime64(6, 'UTC')} AND ingested_at < {until:DateTime64(6, 'UTC')}"""
_SLICE = """cityHash64(user_id) % {slices:UInt32} = {slice:UInt32}"""

ROWS_BY_DAY = """
SELECT day, sum(n) AS rows FROM (
    SELECT toStartOfDay(ingested_at) AS day, count() AS n FROM events
    WHERE ingested_at >= {since:DateTime64(6, 'UTC')} GROUP BY day
    UNION ALL
    SELECT toStartOfDay(ingested_at) AS day, count() AS n FROM exposures
    WHERE ingested_at >= {since:DateTime64(6, 'UTC')} GROUP BY day
) GROUP BY day
"""
ROWS_BY_HOUR = f"""
SELECT hour, sum(n) AS rows FROM (
    SELECT toStartOfHour(ingested_at) AS hour, count() AS n FROM events FINAL {_INGESTED} GROUP BY hour
    UNION ALL
    SELECT toStartOfHour(ingested_at) AS hour, count() AS n FROM exposures FINAL {_INGESTED} GROUP BY hour
) GROUP BY hour
"""
UNKNOWN = f"""
SELECT DISTINCT experiment_id FROM exposures {_INGESTED}
WHERE experiment_id NOT IN (SELECT experiment_id FROM experiments) ORDER BY experiment_id
"""

# Numbers go on above those of the earlier steps, in an order that is the same each time.
UNITS = f"""
INSERT INTO rollup_units (step, experiment_id, project_id, user_id, variant_id, exposed_at, number)
SELECT {{step:UInt64}} AS step, entered.experiment_id, known.project_id, entered.user_id, entered.variant_id,
    entered.exposed_at, toUInt32(numbered.highest + row_number() OVER (
        PARTITION BY entered.experiment_id ORDER BY entered.ingested_at, entered.user_id)) AS number
FROM (
    SELECT experiment_id, user_id, variant_id, exposed_at, ingested_at FROM exposures FINAL {_INGESTED}
) AS entered
INNER JOIN (
    SELECT experiment_id, project_id FROM experiments FINAL
) AS known ON entered.experiment_id = known.experiment_id
LEFT JOIN (
    SELECT experiment_id, max(number) AS highest FROM rollup_units WHERE step IN {{earlier:Array(UInt64)}}
    GROUP BY experiment_id
) AS numbered ON entered.experiment_id = numbered.experiment_id
"""

_INTO = "INSERT INTO rollups (step, experiment_id, width, variant_id, event_type, bucket_us, part, events, users)"


def _start(moment: str) -> str:
    return f"{moment} - ({moment} - {{origin_us:Int64}}) % {{width_us:Int64}}"


ENTRIES = f"""
{_INTO}
SELECT {{step:UInt64}}, experiment_id, 'hour', variant_id, '', bucket_us, 0, count(), groupBitmapState(number)
FROM (
    SELECT experiment_id, variant_id, number, {_start("toUnixTimestamp64Micro(exposed_at)")} AS bucket_us
    FROM rollup_units FINAL WHERE step = {{step:UInt64}}
) GROUP BY experiment_id, variant_id, bucket_us
"""
_PAIRS_HEAD = f"""
{_INTO}
SELECT {{step:UInt64}}, experiment_id, 'hour', variant_id, event_type, bucket_us, {{part:UInt32}}, count(),
    groupBitmapState(number)
FROM (
    SELECT exposed.experiment_id AS experiment_id, exposed.variant_id AS variant_id, exposed.number AS number,
        happened.event_type AS event_type, {_start("toUnixTimestamp64Micro(happened.ts)")} AS bucket_us
    FROM ("""
_PAIRS_MIDDLE = f"""
    ) AS happened INNER JOIN (
        SELECT experiment_id, project_id, user_id, variant_id, exposed_at, number FROM rollup_units FINAL
        WHERE {_SLICE}"""
_PAIRS_TAIL = """
    ) AS exposed ON happened.user_id = exposed.user_id AND happened.project_id = exposed.project_id
    WHERE happened.ts >= exposed.exposed_at
      AND (happened.named IS NULL OR happened.named = exposed.experiment_id)
) GROUP BY experiment_id, variant_id, event_type, bucket_us
"""
_HAPPENED = "SELECT project_id, user_id, experiment_id AS named, event_type, ts FROM events FINAL"
# The step's events with its exposures and all earlier ones.
NEW_EVENTS = f"""{_PAIRS_HEAD}
        {_HAPPENED} {_INGESTED} AND {_SLICE}{_PAIRS_MIDDLE} AND step IN {{steps:Array(UInt64)}}
          AND user_id IN (SELECT user_id FROM events {_INGESTED} AND {_SLICE}){_PAIRS_TAIL}"""
# Earlier events that may count for the step's exposures. No event is older than its time by more than the clocks'
# difference.
OLD_ROWS_BY_DAY = """
SELECT toStartOfDay(ingested_at) AS day, count() AS rows FROM events
PREWHERE ingested_at < {since:DateTime64(6, 'UTC')} AND ingested_at >= (
    SELECT minOrNull(exposed_at) FROM rollup_units WHERE step = {step:UInt64}
) - toIntervalMicrosecond({most_ahead_us:Int64})
GROUP BY day
"""
# Those of some days, with the step's exposures.
OLD_EVENTS = f"""{_PAIRS_HEAD}
        {_HAPPENED}
        PREWHERE ingested_at >= {{first_day:DateTime64(6, 'UTC')}} AND ingested_at < {{end_day:DateTime64(6, 'UTC')}}
            AND ingested_at < {{since:DateTime64(6, 'UTC')}}
            AND {_SLICE} AND user_id IN (SELECT user_id FROM rollup_units WHERE step = {{step:UInt64}} AND {_SLICE})
        {_PAIRS_MIDDLE} AND step = {{step:UInt64}}{_PAIRS_TAIL}"""

MERGED_UNITS = """
INSERT INTO rollup_units (step, experiment_id, project_id, user_id, variant_id, exposed_at, number)
SELECT {step:UInt64} AS step, experiment_id, project_id, user_id, variant_id, exposed_at, number
FROM rollup_units FINAL WHERE step IN {steps:Array(UInt64)}
"""
MERGED = f"""
{_INTO}
SELECT {{step:UInt64}}, experiment_id, {{width:String}}, variant_id, event_type, start_us, 0, sum(events),
    groupBitmapMergeState(users)
FROM (
    SELECT experiment_id, variant_id, event_type, {_start("bucket_us")} AS start_us, events, users
    FROM rollups FINAL WHERE step IN {{steps:Array(UInt64)}} AND width = 'hour'
) GROUP BY experiment_id, variant_id, event_type, start_us
"""

TABLES = ("rollups", "rollup_units")
STORED_STEPS = "SELECT step FROM rollups GROUP BY step UNION DISTINCT SELECT step FROM rollup_units GROUP BY step"
