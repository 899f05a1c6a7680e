"""The statement by which ClickHouse lists the values that quantiles are taken of. Plain functions, no I/O."""
# ruff: noqa: S608  # The statement is made of constants and numbers.

from collections.abc import Mapping
from typing import Any

from app.measurement.cold_events import ColdEvents
from app.measurement.cold_lists import filtered
from app.measurement.plan import Plan
from app.measurement.values import Asked, Exposed


def valuing(plan: Plan, asked: Asked, exposed: Exposed) -> tuple[str, Mapping[str, Any]]:
    """Return the statement with a row for each value of the plan's quantiles: `metric`, `variant_id`, `value`."""
    events = ColdEvents(plan, asked, exposed, with_tail=False)
    rows = filtered(events, plan, "main")
    lists = (
        f"arrayMap(value -> ({measure.index}, value), a{events.place(*measure.lists['x'])})"
        for measure in plan.measures
    )
    sql = f"""{exposed.sql}
SELECT variant_id, found.1 AS metric, found.2 AS value
FROM (SELECT variant_id, arrayJoin(arrayConcat({", ".join(lists)})) AS found FROM ({rows}))"""
    return sql, events.parameters()
