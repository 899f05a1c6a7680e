"""The statement by which ClickHouse measures: one pass over the events for all metrics.

What a metric says of a user is worked out in the user's row (see `cold_rows`), and added up here by arm and day. What
counts is defined in both and, in the same words, in `hot_statement`; a property test holds the two equal.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.measurement.cold_rows import PEOPLE, Source, accumulated, day_of, filtered, is_plain, squared_in
from app.measurement.plan import Measure, Plan, Shape
from app.measurement.values import Asked, Exposed


def measuring(plan: Plan, asked: Asked, exposed: Exposed, *, with_tail: bool) -> tuple[str, Mapping[str, Any]]:
    """Return the statement that answers with a row for each arm; `read_cold` says with which columns."""
    source = Source(plan, asked, exposed, with_tail=with_tail)
    rows = accumulated(source, plan, "main")
    answers = [answer for measure in plan.measures for answer in _answers(measure, source.days)]
    summed = f"\nSELECT {', '.join(['variant_id', *answers])}\nFROM ({rows})\nGROUP BY variant_id"
    entries = f"variant_id, countResample(0, {source.days}, 1)({day_of('exposed_us')}) AS entries"
    units = [f"{scale} AS {side}{index}_exponent" for (index, side), scale in source.scales.items()]
    sql = f"""{exposed.sql}{source.scalars}
SELECT {", ".join(["*", *units])}
FROM (SELECT {entries} FROM ({PEOPLE}) GROUP BY variant_id) AS entered
LEFT JOIN ({_with_quantiles(plan, summed)}) AS summed ON entered.variant_id = summed.variant_id"""
    return sql, source.parameters()


def bounding(
    plan: Plan, asked: Asked, exposed: Exposed, ranks: Mapping[tuple[int, int], tuple[int, int]], *, with_tail: bool
) -> tuple[str, Mapping[str, Any]]:
    """Return the statement for the order statistics at two ranks, from 1, by metric's index and variant id.

    It answers with a row for each arm.
    """
    some = plan.only(index for index, _ in ranks)
    source = Source(some, asked, exposed, with_tail=with_tail)
    rows = filtered(source, some, "main")
    columns, parameters = ["variant_id"], dict(source.parameters())
    for measure in some.measures:
        own = {variant_id: found for (index, variant_id), found in ranks.items() if index == measure.index}
        names = tuple(f"r{measure.index}_{what}" for what in ("arms", "lower", "upper"))
        values = (list(own), [found[0] for found in own.values()], [found[1] for found in own.values()])
        parameters |= dict(zip(names, values, strict=True))
        place = f"indexOf({{{names[0]}:Array(Int64)}}, variant_id)"
        columns += [
            f"arraySort(arrayFlatten(groupArray(a{source.place(*measure.lists['x'])})))[{{{name}:Array(Int64)}}[{place}]]"
            f" AS q{measure.index}_{which}"
            for name, which in zip(names[1:], ("lower", "upper"), strict=True)
        ]
    return f"{exposed.sql}\nSELECT {', '.join(columns)}\nFROM ({rows})\nGROUP BY variant_id", parameters


def _answers(measure: Measure, days: int) -> Iterator[str]:
    i = measure.index
    if measure.shape is Shape.VALUES:
        yield f"groupArrayIf(q{i}, notEmpty(q{i})) AS q{i}_lists"
        return
    yield f"sum(n{i}) AS m{i}_events"
    if measure.shape is Shape.CHAIN:
        reached = (f"countIf(notEmpty(c{i}s{step}))" for step in range(len(measure.tracks)))
        yield f"[{', '.join(reached)}] AS m{i}_reached"
    if measure.covariate is not None:
        wide = squared_in(measure)
        for name, amount in (("z", f"w{i}"), ("zz", f"{wide}(w{i}) * w{i}")):
            yield f"sumResample(0, {days}, 1)({amount}, {day_of('exposed_us')}) AS m{i}_{name}"
    if is_plain(measure):
        yield f"sumResample(0, {days}, 1)(toInt64(notEmpty(d{i})), d{i}[1]) AS m{i}_users"
    for name, change in (_plain_changes if is_plain(measure) else _changes)(measure).items():
        yield f"sumResampleArray(0, {days}, 1)(arrayMap({change}), d{i}) AS m{i}_{name}"


def _plain_changes(measure: Measure) -> Mapping[str, str]:
    i = measure.index
    changes = {"x": f"day -> toInt64(1), d{i}", "xx": f"nth -> 2 * toInt64(nth) - 1, arrayEnumerate(d{i})"}
    return changes if measure.covariate is None else {**changes, "xz": f"day -> w{i}, d{i}"}


def _changes(measure: Measure) -> Mapping[str, str]:
    i, wide = measure.index, squared_in(measure)
    changes = {
        "users": f"(now, old) -> toInt64(now != 0) - toInt64(old != 0), g{i}, gg{i}",
        "x": f"(now, old) -> now - old, g{i}, gg{i}",
        "xx": f"(now, old) -> {wide}(now) * now - {wide}(old) * old, g{i}, gg{i}",
    }
    if measure.has_denominator:
        changes |= {
            "y": f"(now, old) -> now - old, h{i}, hh{i}",
            "yy": f"(now, old) -> {wide}(now) * now - {wide}(old) * old, h{i}, hh{i}",
            "xy": f"(now, old, under, before) -> {wide}(now) * under - {wide}(old) * before, g{i}, gg{i}, h{i}, hh{i}",
        }
    if measure.covariate is not None:
        changes["xz"] = f"(now, old) -> {wide}(now - old) * w{i}, g{i}, gg{i}"
    return changes


def _with_quantiles(plan: Plan, summed: str) -> str:
    """Wrap the answer, in which `q0_lists` and the like hold the values of an arm's users, to look up the quantiles."""
    quantiles = [(measure.index, measure.quantile) for measure in plan.measures if measure.quantile is not None]
    if not quantiles:
        return summed
    named: list[str] = []
    columns = [f"* EXCEPT ({', '.join(f'q{index}_lists' for index, _ in quantiles)})"]
    for i, level in quantiles:
        named += _sorted_quantile(i, level.numerator, level.denominator)
        columns += [
            f"length(q{i}_lists) AS q{i}_users, length(sorted{i}) AS q{i}_values",
            f"low{i} AS q{i}_low, sorted{i}[least(rank{i} + 2, length(sorted{i}))] AS q{i}_high",
            f"{_sum_of(f'below{i}')} AS q{i}_below, {_sum_of(f'arrayMap(n -> n * n, below{i})')} AS q{i}_below_squares",
            f"{_sum_of(f'arrayMap(n -> n * n, sizes{i})')} AS q{i}_value_squares",
            f"{_sum_of(f'arrayMap((n, m) -> n * m, below{i}, sizes{i})')} AS q{i}_products",
        ]
    # Named in a query of their own, so that nothing is worked out twice.
    return f"SELECT * FROM (WITH {', '.join(named)}\nSELECT {', '.join(columns)} FROM (\n{summed}\n))"


def _sorted_quantile(i: int, over: int, under: int) -> Iterable[str]:
    last = f"greatest(toInt64(length(sorted{i})) - 1, 0)"
    return (
        f"arraySort(arrayFlatten(q{i}_lists)) AS sorted{i}",
        f"toInt64(intDiv(toInt128('{over}') * {last}, toInt128('{under}'))) AS rank{i}",
        f"sorted{i}[rank{i} + 1] AS low{i}",
        f"arrayMap(own -> toInt64(arrayCount(number -> number <= low{i}, own)), q{i}_lists) AS below{i}",
        f"arrayMap(own -> toInt64(length(own)), q{i}_lists) AS sizes{i}",
    )


def _sum_of(numbers: str) -> str:
    return f"arraySum({numbers})"
