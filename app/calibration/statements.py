"""The statements that say every user's numbers, made of those by which results are measured. Plain functions, no I/O.

Measuring adds up over the users of an arm. Here every user of the control is an arm of their own, so that what comes
out is every user's numbers, by the very rules of the results. `reading` says what the lines are.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from app.calibration.reading import COVARIATE, EXPONENT, NUMBERS, USER, VALUE
from app.measurement import cold_statement, cold_values, hot_statement, hot_values
from app.measurement.plan import Measure, Plan
from app.measurement.values import Asked, Exposed
from app.results import exposed_cold, exposed_hot
from app.results.exposed_cold import exposed_in_clickhouse
from app.results.exposed_hot import exposed_in_postgres
from app.results.values import Question, Subject

Statement = tuple[str, Mapping[str, Any]]

_KEY = "CAST(CAST('x' || left(md5({text}), 16) AS bit(64)) AS bigint)"
_CONTROL = """{group}, control AS MATERIALIZED (
    SELECT {key} AS unit, exposed.user_id, exposed.exposed_at, {split_with} AS split_with, {of_group} AS of_group
    FROM exposed{join} WHERE exposed.variant_id = CAST(:control_id AS bigint)
)"""
_USER_KEY = _KEY.format(text="exposed.user_id")
# A group is a value of a breakdown. Who has none is alone. No user's name begins as a group's key does but by chance.
_GROUP = f""", grouped AS MATERIALIZED (
    SELECT user_id, {exposed_hot.TEXT_OF_ATTRIBUTE.format(context="context", name=":split_by")} AS value
    FROM assignments WHERE experiment_id = CAST(:experiment_id AS bigint)
)"""
_GROUP_KEY = _KEY.format(text="'group ' || grouped.value")
_TOGETHER = f"CASE WHEN grouped.value IS NULL THEN {_USER_KEY} ELSE {_GROUP_KEY} END"
_OF_GROUP = "CAST(grouped.value IS NOT NULL AS int)"
_JOIN_GROUP = " LEFT JOIN grouped ON grouped.user_id = exposed.user_id"
_EVERY_USER_AN_ARM = "WITH exposed AS MATERIALIZED (SELECT unit, user_id, unit AS variant_id, exposed_at FROM control)"
_LINES = f"""
SELECT {USER} AS about, 0 AS metric, unit AS key, split_with AS other, CAST(of_group AS numeric) AS first, 0 AS second
FROM control
UNION ALL
SELECT CASE kind WHEN 'day' THEN {NUMBERS} WHEN 'exponent' THEN {EXPONENT} ELSE {COVARIATE} END, metric,
    CASE kind WHEN 'exponent' THEN position ELSE variant_id END, 0,
    CASE kind WHEN 'day' THEN n2 ELSE n1 END, CASE kind WHEN 'day' THEN coalesce(n4, 0) ELSE 0 END
FROM ({{measured}}) AS seen WHERE kind IN ('day', 'exponent', 'covariate')"""
_VALUES = f"""
SELECT {VALUE} AS about, metric, variant_id AS key, 1 AS other, value AS first, 0 AS second
FROM ({{measured}}) AS seen"""

_COLD_KEY = "reinterpretAsInt64(reverse(substring(MD5({text}), 1, 8)))"
_COLD_CONTROL = """, control AS (
    SELECT {key} AS unit, exposed.user_id AS user_id, exposed.exposed_at AS exposed_at, {split_with} AS split_with,
        {of_group} AS of_group
    FROM exposed{join} WHERE exposed.variant_id = {{control_id:Int64}}
)"""
_COLD_USER_KEY = _COLD_KEY.format(text="exposed.user_id")
_COLD_GROUP_KEY = _COLD_KEY.format(text="concat('group ', assumeNotNull(grouped.value))")
_COLD_TOGETHER = f"if(isNull(grouped.value), {_COLD_USER_KEY}, {_COLD_GROUP_KEY})"
_COLD_OF_GROUP = "toUInt8(isNotNull(grouped.value))"
_COLD_VALUE = exposed_cold.TEXT_OF_ATTRIBUTE.format(context="context", name="{split_by:String}")
_COLD_JOIN_GROUP = f""" LEFT JOIN (
        SELECT user_id, {_COLD_VALUE} AS value FROM stored
    ) AS grouped ON grouped.user_id = exposed.user_id"""
_COLD_EVERY_USER_AN_ARM = "WITH exposed AS (SELECT user_id, unit AS variant_id, exposed_at FROM control)"
# Of very many lines some at a time, so that no answer is larger than this process can hold for a moment. What is found
# is cut, not who is looked at: units and the quantile at which totals are cut are of all of them.
_COLD_PART = " WHERE bitAnd({key}, {{parts:Int64}} - 1) = {{part:Int64}}"
# Few large rows: lines that come one by one would keep the process busy with each of them.
_COLD_TEXT = "arrayStringConcat(groupArray(line), '\\n') AS lines"
_COLD_SPREAD = "GROUP BY bitAnd(bitShiftRight({key}, 32), 63)"
_COLD_USERS = f"""
SELECT {_COLD_TEXT} FROM (
    SELECT unit, concat('{USER},0,', toString(unit), ',', toString(split_with), ',', toString(of_group), ',0') AS line
    FROM control{_COLD_PART.format(key="unit")}
) {_COLD_SPREAD.format(key="unit")}"""
_COLD_NUMBERS = f"""
SELECT {_COLD_TEXT}{{exponents}} FROM (
    SELECT variant_id, arrayJoin([{{lines}}]) AS line{{own_exponents}} FROM ({{measured}}) AS seen{{part}}
) WHERE line != '' {_COLD_SPREAD.format(key="variant_id")}"""
# Cut by value as well, and what repeats said once: a single user may have most of the values.
_COLD_PIECE = "reinterpretAsInt64(cityHash64(variant_id, value))"
_COLD_VALUES = f"""
SELECT {_COLD_TEXT} FROM (
    SELECT {_COLD_PIECE} AS piece,
        concat('{VALUE},{{metric}},', toString(variant_id), ',', toString(times), ',', toString(value), ',0') AS line
    FROM (
        SELECT variant_id, value, count() AS times FROM ({{measured}}) AS seen{{part}}
        GROUP BY variant_id, value
    )
) {_COLD_SPREAD.format(key="piece")}"""
_COLD_NUMBER_OF_VALUES = "\nSELECT count() AS number FROM ({measured}) AS seen"
_SIDES = "xyz"


def in_postgres(subject: Subject, control_id: int, plan: Plan, *, split_by: str | None) -> Iterator[Statement]:
    """Yield the statements whose rows are lines: of users and their numbers, and of the values of quantiles."""
    who, parameters = exposed_in_postgres(subject, Question())
    extra: dict[str, Any] = {**parameters, "control_id": control_id}
    control = _CONTROL.format(group="", key=_USER_KEY, split_with=_USER_KEY, of_group="0", join="")
    if split_by is not None:
        extra["split_by"] = split_by
        control = _CONTROL.format(
            group=_GROUP, key=_USER_KEY, split_with=_TOGETHER, of_group=_OF_GROUP, join=_JOIN_GROUP
        )
    numbers, values = _parts(plan)
    every = Exposed(_EVERY_USER_AN_ARM, {})
    measured, own = hot_statement.measuring(numbers, asked_of(subject), every)
    yield who + control + _LINES.format(measured=measured), {**own, **extra}
    if values.measures:
        measured, own = hot_values.valuing(values, asked_of(subject), every)
        yield who + control + _VALUES.format(measured=measured), {**own, **extra}


class InClickHouse:
    """The statements about the history below a watermark; of very many lines some at a time, `parts` in all."""

    def __init__(
        self,
        subject: Subject,
        control_id: int,
        plan: Plan,
        watermark: datetime,
        *,
        split_by: str | None,
    ) -> None:
        self._subject = subject
        self._plan = plan
        who, parameters = exposed_in_clickhouse(subject, Question(), watermark, with_tail=False)
        self._parameters: dict[str, Any] = {**parameters, "control_id": control_id}
        control = _COLD_CONTROL.format(key=_COLD_USER_KEY, split_with=_COLD_USER_KEY, of_group="0", join="")
        if split_by is not None:
            self._parameters["split_by"] = split_by
            control = _COLD_CONTROL.format(
                key=_COLD_USER_KEY,
                split_with=_COLD_TOGETHER,
                of_group=_COLD_OF_GROUP,
                join=_COLD_JOIN_GROUP,
            )
        self._who = who + control

    def counting(self) -> Statement:
        """Return the statement for the number of users."""
        return f"{self._who}\nSELECT count() AS number FROM control", self._parameters

    def counting_values(self, measure: Measure) -> Statement:
        """Return the statement for the number of values that a quantile is taken of."""
        plan, every = self._plan.only([measure.index]), Exposed(_COLD_EVERY_USER_AN_ARM, {})
        measured, own = cold_values.valuing(plan, asked_of(self._subject), every)
        return self._who + _COLD_NUMBER_OF_VALUES.format(measured=measured), {**own, **self._parameters}

    def users(self, part: int, parts: int) -> Statement:
        """Return the statement for the users' lines: rows of `lines`."""
        return self._who + _COLD_USERS, self._of_part(part, parts)

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self._plan.measures

    def numbers(self, measure: Measure, part: int, parts: int) -> Statement:
        """Return the statement for the lines of one metric's numbers or values.

        Its rows have `lines` and, for each side whose unit ClickHouse chose, an exponent named like the side.
        """
        plan, asked = self._plan.only([measure.index]), asked_of(self._subject)
        every = Exposed(_COLD_EVERY_USER_AN_ARM, {})
        if measure.quantile is not None:
            measured, own = cold_values.valuing(plan, asked, every)
            of_part = _COLD_PART.format(key=_COLD_PIECE)
            sql = _COLD_VALUES.format(metric=measure.index, measured=measured, part=of_part)
        else:
            measured, own = cold_statement.measuring(plan, asked, every, with_tail=False)
            sql = _COLD_NUMBERS.format(
                lines=", ".join(_cold_lines(measure)),
                exponents="".join(f", any({side}) AS {side}" for side in measure.scaled),
                own_exponents="".join(f", {side}{measure.index}_exponent AS {side}" for side in measure.scaled),
                measured=measured,
                part=_COLD_PART.format(key="variant_id"),
            )
        return self._who + sql, {**own, **self._of_part(part, parts)}

    def _of_part(self, part: int, parts: int) -> dict[str, Any]:
        return {**self._parameters, "part": part, "parts": parts}


def exponent_line(measure: Measure, side: str, exponent: int) -> str:
    """Return the line that says which unit ClickHouse chose for a side."""
    return f"{EXPONENT},{measure.index},{_SIDES.index(side)},0,{exponent},0"


def _cold_lines(measure: Measure) -> Iterator[str]:
    """Return what a user's lines are, '' for those that would say 0."""
    i = measure.index
    y = f"m{i}_y[1]" if measure.has_denominator else "0"
    yield (
        f"if(m{i}_x[1] = 0 AND {y} = 0, '', concat('{NUMBERS},{i},', toString(variant_id), ',0,',"
        f" toString(m{i}_x[1]), ',', toString({y})))"
    )
    if measure.covariate is not None:
        yield (
            f"if(m{i}_z[1] = 0, '', concat('{COVARIATE},{i},', toString(variant_id), ',0,', toString(m{i}_z[1]), ',0'))"
        )


def _parts(plan: Plan) -> tuple[Plan, Plan]:
    """Return the measures that are sums over users, and those that look at values."""
    values = {measure.index for measure in plan.measures if measure.quantile is not None}
    return plan.only({measure.index for measure in plan.measures} - values), plan.only(values)


def asked_of(subject: Subject) -> Asked:
    """Return the question: all that ever happened."""
    return Asked(project_id=subject.project_id, experiment_id=subject.experiment_id)
