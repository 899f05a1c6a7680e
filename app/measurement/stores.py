"""PostgreSQL and ClickHouse as they measure: a statement for all metrics, and another one for quantiles' bounds.

The bounds of a quantile are order statistics whose ranks follow from what the first statement counts. Metrics of which
little is left in an arm beside one absurd value are measured once more, by themselves, and only then (see `precision`).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.clickhouse import ClickHouse, SentRows
from app.measurement import cold_statement, hot_statement, hot_values
from app.measurement import tail as tail_tables
from app.measurement.answers import measured, with_bounds
from app.measurement.plan import Finer, Plan, compiled
from app.measurement.precision import MOST_LOOKS, once_more, units_of
from app.measurement.reading import read_cold, read_hot
from app.measurement.tail_size import refuse_too_large, sizing
from app.measurement.values import Asked, Exposed, Measured
from app.metrics.values import Recipe
from app.stats.quantiles import Ranks, quantile_ranks

# Copies of a redelivered row carry the same ingestion time, so they never lie in different partitions. Reading every
# value exactly is what makes parameters mean what was asked.
SETTINGS: Mapping[str, Any] = {
    "do_not_merge_across_partitions_select_final": 1,
    # Users are few beside their events, and one table of them is built faster than one for each thread.
    "join_algorithm": "hash",
    "join_use_nulls": 0,
    "group_by_use_nulls": 0,
    "prefer_column_name_to_alias": 1,
    "precise_float_parsing": 1,
}
# A statement of this kind needs memory for a hash of all users; its plan must not depend on statistics that a bulk
# load has left behind, and parallel workers would take the processors that assignment needs.
PREPARING = (
    "SELECT set_config('work_mem', '96MB', true), set_config('plan_cache_mode', 'force_custom_plan', true),"
    " set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true),"
    " set_config('max_parallel_workers_per_gather', '0', true)"
)
PREPARE = text(PREPARING)

_WAITING_EVENTS = (
    " FROM events WHERE ingested_at >= :watermark AND project_id = :project_id"
    " AND (experiment_id IS NULL OR experiment_id = :experiment_id)"
    " AND (CAST(:event_types AS text[]) IS NULL OR event_type = ANY (CAST(:event_types AS text[])))"
    " LIMIT :most_rows"
)
_TAIL_EVENTS = text(
    "SELECT CAST(json_build_object('event_id', event_id, 'user_id', user_id, 'event_type', event_type, 'ts', ts,"
    f" 'value', value, 'properties', coalesce(CAST(properties AS text), '{{}}')) AS text) AS line{_WAITING_EVENTS}"
)
_SIZE_OF_TAIL_EVENTS = sizing("properties", _WAITING_EVENTS)

_Key = tuple[int, int]
# Carries out a plan.
_Measure = Callable[[Plan], Awaitable[Measured]]
# Asks ClickHouse.
_Ask = Callable[[str, Mapping[str, Any]], Awaitable[list[dict[str, Any]]]]


async def measure_hot(
    connection: AsyncConnection,
    recipes: Mapping[str, Recipe],
    asked: Asked,
    exposed: Exposed,
    *,
    confidence: float = 0.95,
) -> Measured:
    """Measure in PostgreSQL, in the connection's transaction.

    Where a recipe is of values, several statements may have to see the same: the transaction must be REPEATABLE READ.
    """
    await connection.execute(PREPARE)
    plan = compiled(recipes)
    if not plan.measures:
        return Measured({})
    seen = await _finely(_by_postgres(connection, asked, exposed), plan)
    ranks = _ranks(plan, seen, confidence)
    if not ranks:
        return seen
    sql, parameters = hot_values.bounding(plan, asked, exposed, _known(ranks))
    found = {
        (int(row["metric"]), int(row["variant_id"])): (row["lower"], row["upper"])
        for row in await _rows(connection, (sql, parameters))
    }
    return with_bounds(seen, _bounds(plan, ranks, found))


async def measure_cold(
    clickhouse: ClickHouse,
    recipes: Mapping[str, Recipe],
    asked: Asked,
    exposed: Exposed,
    watermark: datetime,
    *,
    tail: Sequence[bytes] | None = None,
    confidence: float = 0.95,
) -> Measured:
    """Measure in ClickHouse what was ingested before the watermark, and the events of `tail`, made by `tail_events`.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: the history's tables are not there, or not as expected.
    """
    plan = compiled(recipes)
    if not plan.measures:
        return Measured({})
    ask = _asking(clickhouse, exposed, watermark, tail)
    with_tail = tail is not None
    seen = await _finely(_by_clickhouse(ask, asked, exposed, with_tail=with_tail), plan)
    ranks = _ranks(plan, seen, confidence)
    if not ranks:
        return seen
    second = await ask(*cold_statement.bounding(plan, asked, exposed, _known(ranks), with_tail=with_tail))
    found = {
        (index, variant_id): (row[f"q{index}_lower"], row[f"q{index}_upper"])
        for row in second
        for index, variant_id in ranks
        if variant_id == row["variant_id"]
    }
    return with_bounds(seen, _bounds(plan, ranks, found))


async def finer_hot(
    connection: AsyncConnection, recipes: Mapping[str, Recipe], asked: Asked, exposed: Exposed, variant_id: int
) -> Finer:
    """Return in which units a variant's users have to be counted by themselves where totals of values are limited.

    Metrics that are not there are counted in units that suit the largest value. The transaction must be REPEATABLE
    READ.
    """
    plan = _limited(recipes, variant_id)
    if not plan.measures:
        return {}
    await connection.execute(PREPARE)
    return units_of(plan, await _finely(_by_postgres(connection, asked, exposed), plan))


async def finer_cold(
    clickhouse: ClickHouse,
    recipes: Mapping[str, Recipe],
    asked: Asked,
    exposed: Exposed,
    watermark: datetime,
    variant_id: int,
) -> Finer:
    """Return the same for ClickHouse.

    Raises:
        ClickHouseUnavailable: it cannot be reached.
        ClickHouseRefused: the history's tables are not there, or not as expected.
    """
    plan = _limited(recipes, variant_id)
    if not plan.measures:
        return {}
    ask = _asking(clickhouse, exposed, watermark, None)
    return units_of(plan, await _finely(_by_clickhouse(ask, asked, exposed, with_tail=False), plan))


def _limited(recipes: Mapping[str, Recipe], variant_id: int) -> Plan:
    plan = compiled(recipes)
    return plan.only(one.index for one in plan.measures if one.is_limited and one.refinable).among([variant_id])


async def _finely(measure: _Measure, plan: Plan, looks: int = MOST_LOOKS) -> Measured:
    """Measure, and once more, up to so many times, what is lost in rounding beside far larger values."""
    seen = await measure(plan)
    for again in once_more(plan, seen) if looks else ():
        seen = seen.with_later(await _finely(measure, again, looks - 1))
    return seen


def _by_postgres(connection: AsyncConnection, asked: Asked, exposed: Exposed) -> _Measure:
    async def measure(plan: Plan) -> Measured:
        rows = await _rows(connection, hot_statement.measuring(plan, asked, exposed))
        return measured(plan, asked, read_hot(plan, rows))

    return measure


def _by_clickhouse(ask: _Ask, asked: Asked, exposed: Exposed, *, with_tail: bool) -> _Measure:
    async def measure(plan: Plan) -> Measured:
        rows = await ask(*cold_statement.measuring(plan, asked, exposed, with_tail=with_tail))
        return measured(plan, asked, read_cold(plan, rows))

    return measure


def _asking(clickhouse: ClickHouse, exposed: Exposed, watermark: datetime, tail: Sequence[bytes] | None) -> _Ask:
    tables = {name: SentRows(table.structure, table.lines) for name, table in exposed.tables.items()}
    if tail is not None:
        tables[tail_tables.EVENTS] = tail_tables.table_of(tail)

    async def ask(sql: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await clickhouse.rows(sql, {**parameters, "watermark": watermark}, settings=SETTINGS, tables=tables)

    return ask


async def tail_events(
    connection: AsyncConnection, recipes: Mapping[str, Recipe], asked: Asked, watermark: datetime, *, most_rows: int
) -> list[bytes]:
    """Return PostgreSQL's events from the watermark on that may matter to the recipes; `most_rows` are too many.

    Raises:
        TailTooLarge: they are too many, or their properties too large, to travel with a query.
    """
    parameters = {
        "watermark": watermark,
        "project_id": asked.project_id,
        "experiment_id": asked.experiment_id,
        "event_types": list(compiled(recipes).event_types) or None,
        "most_rows": most_rows,
    }
    await refuse_too_large(connection, _SIZE_OF_TAIL_EVENTS, parameters)
    return [line.encode() for line in (await connection.execute(_TAIL_EVENTS, parameters)).scalars()]


async def _rows(connection: AsyncConnection, statement: tuple[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(row) for row in (await connection.execute(text(statement[0]), statement[1])).mappings()]


def bounding_ranks(plan: Plan, seen: Measured, confidence: float) -> Mapping[_Key, tuple[int, int]]:
    """Return the two ranks that the second statement asks for, by metric's index and variant id.

    seen: what the first statement measured, of the plan's metrics.
    """
    return _known(_ranks(plan, seen, confidence))


def _ranks(plan: Plan, seen: Measured, confidence: float) -> Mapping[_Key, Ranks]:
    """Return the ranks that bound the quantiles, by metric's index and variant id."""
    found: dict[_Key, Ranks] = {}
    for measure in plan.measures:
        for variant_id, arm in seen.metrics[measure.key].items():
            if measure.quantile is None or arm.quantile is None:
                continue
            counts = arm.quantile.counts
            ranks = quantile_ranks(
                measure.quantile,
                users=counts.users,
                values=counts.values,
                below=counts.below,
                below_squares=counts.below_squares,
                value_squares=counts.value_squares,
                products=counts.products,
                confidence=confidence,
            )
            if (ranks.lower, ranks.upper) != (None, None):
                found[measure.index, variant_id] = ranks
    return found


def _known(ranks: Mapping[_Key, Ranks]) -> Mapping[_Key, tuple[int, int]]:
    """Ask for the first value where a bound is not among the values; it is left out again."""
    return {key: (found.lower or 1, found.upper or 1) for key, found in ranks.items()}


def _bounds(
    plan: Plan, ranks: Mapping[_Key, Ranks], found: Mapping[_Key, tuple[float, float]]
) -> Mapping[tuple[str, int], tuple[float | None, float | None]]:
    keys = {measure.index: measure.key for measure in plan.measures}
    # Adding 0 makes a zero of either sign the same one.
    return {
        (keys[index], variant_id): (
            None if own.lower is None else found[index, variant_id][0] + 0.0,
            None if own.upper is None else found[index, variant_id][1] + 0.0,
        )
        for (index, variant_id), own in ranks.items()
    }
