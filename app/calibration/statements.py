"""The statement that says every user's numbers, made of those by which results are measured. Plain functions, no I/O.

Measuring adds up over the users of an arm. Here every user of the control is an arm of their own, so that what comes
out is every user's numbers, by the very rules of the results.
"""

from collections.abc import Mapping
from typing import Any

from app.calibration.reading import EXPONENT, NUMBERS, USER
from app.measurement.hot_statement import measuring
from app.measurement.plan import compiled
from app.measurement.values import Asked, Exposed
from app.metrics.values import Recipe
from app.results.exposed_hot import exposed_in_postgres
from app.results.values import Question, Subject

_CONTROL = """, control AS MATERIALIZED (
    SELECT exposed.unit, exposed.user_id, exposed.exposed_at, {group} AS split_with
    FROM exposed{join} WHERE exposed.variant_id = CAST(:control_id AS bigint)
)"""
_ALONE = "exposed.unit"
# Who has no such value is alone. Groups have numbers below 0, so that none is a user's.
_TOGETHER = (
    "CASE WHEN holding.context ->> CAST(:split_by AS text) IS NULL THEN exposed.unit"
    " ELSE -dense_rank() OVER (ORDER BY holding.context ->> CAST(:split_by AS text)) END"
)
_JOIN_CONTEXT = """ LEFT JOIN assignments AS holding
      ON holding.experiment_id = CAST(:experiment_id AS bigint) AND holding.user_id = exposed.user_id"""
_EVERY_USER_AN_ARM = "WITH exposed AS MATERIALIZED (SELECT unit, user_id, unit AS variant_id, exposed_at FROM control)"
_LINES = f"""
SELECT {USER} AS about, 0 AS metric, unit, CAST(split_with AS numeric) AS first, 0 AS second, 0 AS third FROM control
UNION ALL
SELECT CASE kind WHEN 'day' THEN {NUMBERS} ELSE {EXPONENT} END, metric, variant_id,
    CASE kind WHEN 'day' THEN n2 ELSE position END, CASE kind WHEN 'day' THEN coalesce(n4, 0) ELSE n1 END, 0
FROM ({{measured}}) AS seen WHERE kind IN ('day', 'exponent')"""  # noqa: S608  # Made of constants.


def user_lines(
    subject: Subject,
    question: Question,
    control_id: int,
    recipes: Mapping[str, Recipe],
    *,
    split_by: str | None,
) -> tuple[str, Mapping[str, Any]]:
    """Return the statement whose lines `reading` understands."""
    who, parameters = exposed_in_postgres(subject, question)
    asked = Asked(project_id=subject.project_id, experiment_id=subject.experiment_id)
    measured, own = measuring(compiled(recipes), asked, Exposed(_EVERY_USER_AN_ARM, {}))
    control = _CONTROL.format(
        group=_ALONE if split_by is None else _TOGETHER, join="" if split_by is None else _JOIN_CONTEXT
    )
    extra: dict[str, Any] = {"control_id": control_id}
    if split_by is not None:
        extra["split_by"] = split_by
    return who + control + _LINES.format(measured=measured), {**parameters, **own, **extra}
