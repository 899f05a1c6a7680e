"""The statements by which PostgreSQL ranks and lists the values of quantiles. Plain functions, no I/O."""
# ruff: noqa: S608  # The statements are made of constants and numbers.

from collections.abc import Mapping
from typing import Any

from app.measurement.hot_events import HotEvents
from app.measurement.plan import Measure, Plan
from app.measurement.values import Asked, Exposed


def bounding(
    plan: Plan, asked: Asked, exposed: Exposed, ranks: Mapping[tuple[int, int], tuple[int, int]]
) -> tuple[str, Mapping[str, Any]]:
    """Return the statement for the order statistics at two ranks, from 1, by metric's index and variant id."""
    events = HotEvents(plan.only(index for index, _ in ranks), asked, exposed)
    ctes, answers = [events.happened()], []
    for measure in events.plan.measures:
        i, own = measure.index, [key for key in ranks if key[0] == measure.index]
        arms = events.bind(f"r{i}_arms", [variant_id for _, variant_id in own])
        lower = events.bind(f"r{i}_lower", [ranks[key][0] for key in own])
        upper = events.bind(f"r{i}_upper", [ranks[key][1] for key in own])
        ctes.append(ranked(events, measure))
        answers.append(
            f"""
SELECT {i} AS metric, ranked_{i}.variant_id, max(value) FILTER (WHERE place = lower_place) AS lower,
    max(value) FILTER (WHERE place = upper_place) AS upper
FROM ranked_{i} JOIN unnest(CAST(:{arms} AS bigint[]), CAST(:{lower} AS bigint[]), CAST(:{upper} AS bigint[]))
    AS wanted (arm, lower_place, upper_place) ON arm = ranked_{i}.variant_id AND place IN (lower_place, upper_place)
GROUP BY ranked_{i}.variant_id"""
        )
    return exposed.sql + "".join(ctes) + "\nUNION ALL".join(answers), events.parameters()


def valuing(plan: Plan, asked: Asked, exposed: Exposed) -> tuple[str, Mapping[str, Any]]:
    """Return the statement with a row for each value of the plan's quantiles: `metric`, `variant_id`, `value`."""
    events = HotEvents(plan, asked, exposed)
    ctes, answers = [events.happened()], []
    for measure in plan.measures:
        number = events.number(measure.numerator)
        answers.append(
            f"""
SELECT {measure.index} AS metric, variant_id, {number} AS value FROM happened
WHERE {events.inside(measure, measure.stretch)} AND {number} IS NOT NULL"""
        )
    return exposed.sql + "".join(ctes) + "\nUNION ALL".join(answers), events.parameters()


def ranked(events: HotEvents, measure: Measure) -> str:
    """Return the part of a statement that puts each arm's values in order."""
    number = events.number(measure.numerator)
    return f""", ranked_{measure.index} AS MATERIALIZED (
    SELECT variant_id, unit, {number} AS value, row_number() OVER (PARTITION BY variant_id ORDER BY {number}) AS place,
        count(*) OVER (PARTITION BY variant_id) AS number_of_values
    FROM happened WHERE {events.inside(measure, measure.stretch)} AND {number} IS NOT NULL
)"""
