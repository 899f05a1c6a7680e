"""What ClickHouse observes: the history below a watermark, alone or together with PostgreSQL's rows above it.

What counts is defined here and, in the same words, in `hot`; a property test holds the two equal to the last bit.
A history row ingested at or after the watermark is never read, so no row is counted on both sides, and a user seen on
both sides is one user, because the rows of both sides are joined before anything is counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.core.clickhouse import ClickHouse
from app.measurement.stores import measure_cold
from app.measurement.values import Days, Exposed, Measured
from app.results import exposed_cold, rolled_up
from app.results import tail as tail_tables
from app.results.measuring import asked_of, days_of
from app.results.observed import (
    EPOCH,
    FOREVER,
    LATE,
    P95,
    Row,
    observations_of,
    segments_of,
    with_measured,
    with_segments,
)
from app.results.values import NOTHING_WANTED, Observations, Question, Subject, Tail, Wanted
from app.rollups.steps import ORIGIN, Step

# Copies of a redelivered row carry the same ingestion time, so they never lie in different partitions.
SETTINGS: Mapping[str, Any] = {
    "do_not_merge_across_partitions_select_final": 1,
    "join_use_nulls": 0,
    "group_by_use_nulls": 0,
    # `sum(events) AS events` must not change what `events` means elsewhere in the same query.
    "prefer_column_name_to_alias": 1,
    "force_grouping_standard_compatibility": 1,
    "precise_float_parsing": 1,
}

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_CONDITIONS = """ WHERE project_id = {project_id:Int64}
      AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})
      AND ingested_at < {watermark:DateTime64(6, 'UTC')}"""
# Of all who are assigned, which is found once for the whole statement.
_INGESTED_SINCE_EXPOSURES = """
      AND ingested_at >= (SELECT min(exposed_at) FROM stored) - toIntervalMicrosecond({most_ahead_us:Int64})"""
_INGESTED_SINCE_OVERRIDES = """
      AND ingested_at >= (
        SELECT min(exposed_at) FROM (SELECT exposed_at FROM stored UNION ALL SELECT exposed_at FROM overridden)
      ) - toIntervalMicrosecond({most_ahead_us:Int64})"""
_INGESTED_SINCE = """
      AND ingested_at >= {since:DateTime64(6, 'UTC')} - toIntervalMicrosecond({most_ahead_us:Int64})"""
_SINCE = """ AND ts >= {since:DateTime64(6, 'UTC')}"""
_UNTIL = """ AND ts < {until:DateTime64(6, 'UTC')}"""
_OF_TYPES = """ AND event_type IN ({event_types:Array(String)})"""
_COUNTED_HEAD = """
), counted AS (
    SELECT exposed.variant_id AS variant_id, exposed.unit AS unit, happened.event_type AS event_type,
        toUnixTimestamp64Micro(happened.ts)
            - (toUnixTimestamp64Micro(happened.ts) - {origin_us:Int64}) % {width_us:Int64} AS bucket_us,
        happened.late AS late
    FROM (
        SELECT user_id, event_type, ts,
            toUnixTimestamp64Micro(ingested_at) - toUnixTimestamp64Micro(ts) > {late_us:Int64} AS late
        FROM events FINAL"""
# Copies of a redelivered row are alike, so those without a value may be left out before copies are dropped.
_VALUED_HEAD = """
), valued AS (
    SELECT exposed.variant_id AS variant_id, exposed.unit AS unit, assumeNotNull(happened.value) AS value
    FROM (
        SELECT user_id, ts, value FROM events FINAL PREWHERE value IS NOT NULL"""
# Copies do not move a maximum.
_VALUED_WITH_COPIES_HEAD = """
), valued_with_copies AS (
    SELECT happened.value AS value
    FROM (
        SELECT user_id, ts, value FROM events PREWHERE value IS NOT NULL"""
_AND_EVENTS_TAIL = f"""
        UNION ALL SELECT user_id, event_type, ts, late FROM {tail_tables.EVENTS} WHERE true"""  # noqa: S608  # Made of constants.
_AND_VALUES_TAIL = f"""
        UNION ALL SELECT user_id, ts, value FROM {tail_tables.EVENTS} WHERE value IS NOT NULL"""  # noqa: S608  # Made of constants.
# Users get a number, because bitmaps of numbers are far cheaper than sets of text.
_WITH_UNITS_TAIL = """
    ) AS happened INNER JOIN (
        SELECT user_id, variant_id, exposed_at, toUInt32(row_number() OVER ()) AS unit FROM exposed
    ) AS exposed ON happened.user_id = exposed.user_id
    WHERE happened.ts >= exposed.exposed_at"""
_WITHOUT_UNITS_TAIL = """
    ) AS happened INNER JOIN exposed ON happened.user_id = exposed.user_id
    WHERE happened.ts >= exposed.exposed_at"""
# Once by arm, for the metrics, and once by bucket, for the time series, in the same pass.
_PER_ARM_AND_BUCKET = """
), tallied AS (
    SELECT variant_id, event_type, bucket_us, grouping(bucket_us) = 1 AS of_arm, groupBitmap(unit) AS users,
        count() AS events, countIf(late) AS late
    FROM counted GROUP BY GROUPING SETS ((variant_id), (variant_id, event_type, bucket_us))"""
_PER_ARM = """
), tallied AS (
    SELECT variant_id, '' AS event_type, toInt64(0) AS bucket_us, true AS of_arm, groupBitmap(unit) AS users,
        count() AS events, countIf(late) AS late
    FROM counted GROUP BY variant_id"""
# The exponent field of a double is read from its bits: no logarithm rounds as reliably. Two factors, because one
# power of two may be beyond a double's range where their product applied one by one is not.
_SUMS = """
), (
    SELECT 1084 - toInt32(bitAnd(bitShiftRight(reinterpretAsUInt64(coalesce(max(abs(value)), 0.)), 52), 2047))
    FROM valued_with_copies
) AS scale, sums AS (
    SELECT variant_id, sum(amount) AS valued, sum(toUInt256(amount) * toUInt256(amount)) AS valued_squares,
        sum(toInt256(units)) AS total, sum(toInt256(units) * toInt256(units)) AS total_squares,
        sum(toInt256(units) * toInt256(amount)) AS products
    FROM (
        SELECT variant_id, count() AS amount,
            sum(toInt128(coalesce(toInt64(roundBankers(
                value * exp2(intDiv(scale, 2)) * exp2(scale - intDiv(scale, 2)))), 0))) AS units
        FROM valued GROUP BY variant_id, unit
    ) GROUP BY variant_id"""
# Who entered before the first event that can count is as good as entered then. Who is left out has no bucket.
_ENTERED = """
), entered AS (
    SELECT reason, variant_id, if(reason = 0,
        entered_us - (entered_us - {origin_us:Int64}) % {entry_width_us:Int64}, 0) AS bucket_us,
        count() AS users, sum(planned) AS planned
    FROM (
        SELECT reason, variant_id, planned, greatest(toUnixTimestamp64Micro(exposed_at), {since_us:Int64}) AS entered_us
        FROM judged
    ) GROUP BY reason, variant_id, bucket_us"""
_LEFT_OUT = """
), left_out AS (
    SELECT reason, variant_id, toInt64(0) AS bucket_us, count() AS users, sum(planned) AS planned
    FROM judged GROUP BY reason, variant_id"""
_NO_TOTALS = """toUInt64(0) AS valued, toUInt256(0) AS valued_squares, toInt256(0) AS total,
        toInt256(0) AS total_squares, toInt256(0) AS products, 0 AS exponent, 0 AS position, 0. AS value"""
_NO_EVENTS = f"""toUInt64(0) AS events, CAST(NULL, 'Nullable(UInt64)') AS late, {_NO_TOTALS}"""
_ANSWER = f"""
)
SELECT * FROM (
    SELECT if(reason = 0, 'entry', 'excluded') AS kind, variant_id, {exposed_cold.REASONS}[reason + 1] AS label,
        bucket_us, users, planned, {_NO_EVENTS}
    FROM entered"""  # noqa: S608  # Made of constants.
_ARMS_ANSWER = f"""
    UNION ALL
    SELECT if(of_arm, 'arm', 'slot') AS kind, variant_id, event_type AS label, bucket_us, users, 0 AS planned, events,
        late, {_NO_TOTALS}
    FROM tallied
    LIMIT {{most_slots:UInt64}} BY of_arm"""  # noqa: S608  # Made of constants.
# An arm without values is without a row among the sums, which makes them 0.
_ARMS_WITH_SUMS_ANSWER = """
    UNION ALL
    SELECT if(of_arm, 'arm', 'slot') AS kind, tallied.variant_id AS variant_id, event_type AS label, bucket_us, users,
        0 AS planned, events, late, sums.valued AS valued, sums.valued_squares AS valued_squares, sums.total AS total,
        sums.total_squares AS total_squares, sums.products AS products, scale AS exponent, 0 AS position, 0. AS value
    FROM tallied LEFT JOIN sums ON tallied.variant_id = sums.variant_id
    LIMIT {most_slots:UInt64} BY of_arm"""
_P95_ANSWER = f"""
    UNION ALL
    SELECT 'p95' AS kind, variant_id, '' AS label, toInt64(0) AS bucket_us, toUInt64(0) AS users, 0 AS planned,
        toUInt64(0) AS events, CAST(NULL, 'Nullable(UInt64)') AS late, length(sorted) AS valued,
        toUInt256(0) AS valued_squares, toInt256(0) AS total, toInt256(0) AS total_squares, toInt256(0) AS products,
        0 AS exponent,
        arrayJoin(if(rank + 1 < valued, [0, 1], [0])) AS position,
        sorted[rank + 1 + position] AS value
    FROM (
        SELECT variant_id, arraySort(groupArray(value)) AS sorted,
            intDiv({P95[0]} * (length(sorted) - 1), {P95[1]}) AS rank
        FROM valued GROUP BY variant_id
    )"""  # noqa: S608  # Made of constants.
_LEFT_OUT_ANSWER = f"""
    UNION ALL
    SELECT 'excluded' AS kind, variant_id, {exposed_cold.REASONS}[reason + 1] AS label,
        bucket_us, users, planned, {_NO_EVENTS}
    FROM left_out"""  # noqa: S608  # Made of constants.
_ASSIGNED_ANSWER = f"""
    UNION ALL
    SELECT 'assigned' AS kind, variant_id, '' AS label, toInt64(0) AS bucket_us, users, 0 AS planned, {_NO_EVENTS}
    FROM assigned"""  # noqa: S608  # Made of constants.
_SEGMENTS_ANSWER = f"""
    UNION ALL
    SELECT 'segment' AS kind, toInt64(arrayJoin(arrayEnumerate(largest))) AS variant_id, largest[variant_id] AS label,
        toInt64(0) AS bucket_us, toUInt64(0) AS users, 0 AS planned, {_NO_EVENTS}"""
_COHORTS_ANSWER = f"""
    UNION ALL
    SELECT 'cohort' AS kind, toInt64(arrayJoin(arrayEnumerate(newest))) AS variant_id, '' AS label,
        newest[variant_id] AS bucket_us, toUInt64(0) AS users, 0 AS planned, {_NO_EVENTS}"""
_END = """
)"""

_US = timedelta(microseconds=1)


class ColdStore:
    """ClickHouse as a source of observations."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    async def observe(
        self,
        subject: Subject,
        question: Question,
        watermark: datetime,
        *,
        most_slots: int,
        tail: Tail | None = None,
        steps: Sequence[Step] = (),
        wanted: Wanted = NOTHING_WANTED,
        until: datetime | None = None,
    ) -> Observations:
        """Return what counts for the question among the rows below the watermark and those of `tail`.

        steps: of rollups that are exact for the question (see `rolled_up`); none: they are not used. until: the moment
        that the tail reaches to. At most `most_slots` entries of the time series are returned, in no order; as many as
        that mean there may be more.

        Raises:
            ClickHouseUnavailable: it cannot be reached.
            ClickHouseRefused: the history's tables are not there, or not as expected.
        """
        plain = question.undivided
        whole = await self._rows(subject, plain, watermark, most_slots=most_slots, tail=tail, steps=steps)
        seen = observations_of(whole, with_series=question.with_series)
        if wanted.recipes:
            days = days_of(seen, plain, wanted, until or watermark)
            seen = with_measured(seen, await self._measured(subject, plain, wanted, watermark, tail, days))
        if not question.is_divided:
            return seen
        # Rollups know no contexts, and no days of exposures.
        asked, cells = replace(question, with_series=False), None
        rows = await self._rows(subject, asked, watermark, most_slots=most_slots, tail=tail, steps=())
        if wanted.recipes:
            cells = await self._measured(subject, asked, wanted, watermark, tail, None)
        return with_segments(seen, segments_of(rows, cells))

    async def _measured(
        self,
        subject: Subject,
        question: Question,
        wanted: Wanted,
        watermark: datetime,
        tail: Tail | None,
        days: Days | None,
    ) -> Measured:
        """Measure what is wanted; where the users are divided, in the cells of variant and part."""
        who = exposed_cold.exposed_in_clickhouse(subject, question, watermark, with_tail=tail is not None)
        return await measure_cold(
            self._clickhouse,
            wanted.recipes,
            asked_of(subject, question, days),
            Exposed(*who, tail_tables.tables_for(subject, tail)),
            watermark,
            tail=None if tail is None else tail.measured,
            confidence=question.confidence,
        )

    async def _rows(
        self,
        subject: Subject,
        question: Question,
        watermark: datetime,
        *,
        most_slots: int,
        tail: Tail | None,
        steps: Sequence[Step],
    ) -> Sequence[Row]:
        sql, parameters = statement_for(
            subject, question, watermark, most_slots=most_slots, with_tail=tail is not None, steps=steps
        )
        tables = tail_tables.tables_for(subject, tail)
        return await self._clickhouse.rows(sql, parameters, settings=SETTINGS, tables=tables)


def statement_for(
    subject: Subject,
    question: Question,
    watermark: datetime,
    *,
    most_slots: int,
    with_tail: bool,
    steps: Sequence[Step] = (),
) -> tuple[str, Mapping[str, Any]]:
    """Put the statement together from constant parts, leaving out what the question does not need.

    Where the users are divided it is about the parts alone. steps: of the rollups, where these count.
    """
    conditions = _conditions(question)
    assigned = exposed_cold.assigned(subject, question)
    parts = (
        *exposed_cold.leading(subject, question, with_tail=with_tail),
        exposed_cold.exposed(subject, question),
        *(
            _counting_with_rollups(subject, question, conditions, with_tail=with_tail)
            if steps
            else _counting(subject, question, conditions, with_tail=with_tail)
        ),
        *_values(question, with_tail=with_tail),
        *((assigned,) if assigned else ()),
        _ANSWER,
        _ARMS_WITH_SUMS_ANSWER if question.wants_sums else _ARMS_ANSWER,
        _P95_ANSWER if question.wants_p95 else "",
        _LEFT_OUT_ANSWER if steps else "",
        _ASSIGNED_ANSWER if assigned else "",
        _SEGMENTS_ANSWER if question.breakdown is not None else "",
        _COHORTS_ANSWER if question.cohorts is not None else "",
        _END,
    )
    parameters = {
        **exposed_cold.parameters_for(subject, question, watermark),
        **_parameters(question, most_slots=most_slots),
        **(rolled_up.parameters_for(question, steps) if steps else {}),
    }
    return "".join(parts), parameters


def _counting_with_rollups(
    subject: Subject, question: Question, conditions: str, *, with_tail: bool
) -> tuple[str, ...]:
    return (
        exposed_cold.barred(subject),
        *rolled_up.counting(question, conditions, with_tail=with_tail),
        exposed_cold.judged(subject, question, only_left_out=True),
        _LEFT_OUT,
    )


def _counting(subject: Subject, question: Question, conditions: str, *, with_tail: bool) -> tuple[str, ...]:
    return (
        *(_COUNTED_HEAD, _in_history(question)),
        *((_AND_EVENTS_TAIL, conditions) if with_tail else ()),
        _WITH_UNITS_TAIL,
        _PER_ARM_AND_BUCKET if question.with_series else _PER_ARM,
        exposed_cold.judged(subject, question),
        _ENTERED,
    )


def _conditions(question: Question) -> str:
    return "".join(
        (
            _SINCE if question.start is not None else "",
            _UNTIL if question.end is not None else "",
            _OF_TYPES if question.event_types else "",
        )
    )


def _in_history(question: Question) -> str:
    return "".join(
        (
            _CONDITIONS,
            _INGESTED_SINCE_OVERRIDES if question.include_overrides else _INGESTED_SINCE_EXPOSURES,
            _INGESTED_SINCE if question.start is not None else "",
            _conditions(question),
        )
    )


def _values(question: Question, *, with_tail: bool) -> tuple[str, ...]:
    history, tail = _in_history(question), (_AND_VALUES_TAIL, _conditions(question)) if with_tail else ()
    valued = (_VALUED_HEAD, history, *tail, _WITH_UNITS_TAIL)
    with_copies = (_VALUED_WITH_COPIES_HEAD, history, *tail, _WITHOUT_UNITS_TAIL)
    return (
        *(valued if question.wants_sums or question.wants_p95 else ()),
        *((*with_copies, _SUMS) if question.wants_sums else ()),
    )


def _parameters(question: Question, *, most_slots: int) -> Mapping[str, Any]:
    parameters: dict[str, Any] = {
        "origin_us": (ORIGIN - EPOCH) // _US,
        "since_us": ((question.start or ORIGIN) - EPOCH) // _US,
        "width_us": question.granularity.width // _US,
        "entry_width_us": (question.granularity.width if question.with_series else FOREVER) // _US,
        "late_us": LATE // _US,
        "most_slots": most_slots,
    }
    if question.event_types:
        parameters["event_types"] = list(question.event_types)
    return parameters
