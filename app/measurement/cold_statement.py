"""The statement by which ClickHouse measures: one pass over the events for all metrics.

What a metric says of a user is worked out in the user's row (see `cold_rows`), and added up here by arm and day. What
counts is defined in both and, in the same words, in `hot_statement`; a property test holds the two equal.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.measurement.cold_events import ColdEvents, day_of
from app.measurement.cold_lists import filtered
from app.measurement.cold_rows import accumulated, known_before, squared_in
from app.measurement.plan import Measure, Plan, Shape
from app.measurement.values import Asked, Exposed


def measuring(plan: Plan, asked: Asked, exposed: Exposed, *, with_tail: bool) -> tuple[str, Mapping[str, Any]]:
    """Return the statement that answers with a row for each arm; `read_cold` says with which columns."""
    events = ColdEvents(plan, asked, exposed, with_tail=with_tail)
    known = known_before(events, plan)
    rows = accumulated(events, plan, known)
    answers = [answer for measure in plan.measures for answer in _answers(measure, events, rows.names)]
    summed = f"\nSELECT {', '.join(['variant_id', *answers])}\nFROM ({rows.sql})\nGROUP BY variant_id"
    entries = f"variant_id, countResample(0, {events.days}, 1)({day_of('exposed_us')}) AS entries"
    sides = [(measure, side) for measure in plan.measures for side in measure.scaled]
    units = [f"{known.exponent_of(events, measure, side)} AS {side}{measure.index}_exponent" for measure, side in sides]
    sql = f"""{exposed.sql}{known.scalars}
SELECT {", ".join(["*", *units])}
FROM (SELECT {entries} FROM ({events.people}) GROUP BY variant_id) AS entered
LEFT JOIN ({_with_quantiles(plan, summed)}) AS summed ON entered.variant_id = summed.variant_id"""
    return sql, events.parameters()


def bounding(
    plan: Plan, asked: Asked, exposed: Exposed, ranks: Mapping[tuple[int, int], tuple[int, int]], *, with_tail: bool
) -> tuple[str, Mapping[str, Any]]:
    """Return the statement for the order statistics at two ranks, from 1, by metric's index and variant id.

    It answers with a row for each arm.
    """
    some = plan.only(index for index, _ in ranks)
    events = ColdEvents(some, asked, exposed, with_tail=with_tail)
    rows = filtered(events, some, "main")
    columns, parameters = ["variant_id"], dict(events.parameters())
    for measure in some.measures:
        own = {variant_id: found for (index, variant_id), found in ranks.items() if index == measure.index}
        names = tuple(f"r{measure.index}_{what}" for what in ("arms", "lower", "upper"))
        values = (list(own), [found[0] for found in own.values()], [found[1] for found in own.values()])
        parameters |= dict(zip(names, values, strict=True))
        place = f"indexOf({{{names[0]}:Array(Int64)}}, variant_id)"
        columns += [
            f"arraySort(arrayFlatten(groupArray(a{events.place(*measure.lists['x'])})))[{{{name}:Array(Int64)}}[{place}]]"
            f" AS q{measure.index}_{which}"
            for name, which in zip(names[1:], ("lower", "upper"), strict=True)
        ]
    return f"{exposed.sql}\nSELECT {', '.join(columns)}\nFROM ({rows})\nGROUP BY variant_id", parameters


def _answers(measure: Measure, events: ColdEvents, names: Mapping[str, str]) -> Iterator[str]:
    i, days = measure.index, events.days
    if measure.shape is Shape.VALUES:
        values = names[f"q{i}"]
        yield f"groupArrayIf({values}, notEmpty({values})) AS q{i}_lists"
        return
    yield f"sum({names[f'n{i}']}) AS m{i}_events"
    if measure.shape is Shape.CHAIN:
        reached = (f"countIf(notEmpty({names[f'c{i}s{step}']}))" for step in range(len(measure.tracks)))
        yield f"[{', '.join(reached)}] AS m{i}_reached"
    if measure.covariate is not None:
        w, wide = names[f"w{i}"], squared_in(measure)
        for name, amount in (("z", w), ("zz", f"{wide}({w}) * {w}")):
            yield f"sumResample(0, {days}, 1)({amount}, {day_of('exposed_us')}) AS m{i}_{name}"
    if measure.is_number and not events.in_order:
        yield from _numbers(measure, names)
        return
    if measure.is_plain or measure.is_counted_ratio:
        yield from _counted(measure, days, names)
        return
    for name, changes in (_limited_changes if measure.is_limited else _changes)(measure, names).items():
        yield f"sumResampleArray(0, {days}, 1)({changes}, {names[f'd{i}']}) AS m{i}_{name}"


def _numbers(measure: Measure, names: Mapping[str, str]) -> Iterator[str]:
    """Return the sums of numbers of events of all time."""
    i = measure.index
    x = f"toInt64({names[f'n{i}']})"
    sums = {"users": f"{x} != 0", "x": x, "xx": f"{x} * {x}"}
    if measure.covariate is not None:
        sums["xz"] = f"{x} * {names[f'w{i}']}"
    if measure.has_denominator:
        y = f"toInt64({names[f'u{i}']})"
        sums |= {"y": y, "yy": f"{y} * {y}", "xy": f"{x} * {y}"}
    yield from (f"[sum({amount})] AS m{i}_{name}" for name, amount in sums.items())


def _counted(measure: Measure, days: int, names: Mapping[str, str]) -> Iterator[str]:
    """Return the sums of numbers of events, whose squares grow by 1, 3, 5 and so on."""
    i = measure.index
    day = names[f"d{i}"]
    yield f"sumResample(0, {days}, 1)(toInt64(notEmpty({day})), {day}[1]) AS m{i}_users"
    yield from (f"{sums} AS m{i}_{name}" for name, sums in zip(("x", "xx"), _of_numbers(day, days), strict=True))
    if measure.covariate is not None:
        yield f"sumResampleArray(0, {days}, 1)(arrayMap(day -> {names[f'w{i}']}, {day}), {day}) AS m{i}_xz"
    if measure.has_denominator:
        under, packed = _of_numbers(names[f"e{i}"], days), names[f"p{i}"]
        yield from (f"{sums} AS m{i}_{name}" for name, sums in zip(("y", "yy"), under, strict=True))
        # Each event of a side is multiplied by the events of the other one before it.
        products = (
            f"arrayMap((packed, over, nth) -> toInt64(if(packed % 2 = 1, nth - over, over)), {packed},"
            f" arrayCumSum(arrayMap(packed -> packed % 2, {packed})), arrayEnumerate({packed}))"
        )
        of_days = f"arrayMap(packed -> toUInt16(intDiv(packed, 2)), {packed})"
        yield f"sumResampleArray(0, {days}, 1)({products}, {of_days}) AS m{i}_xy"


def _of_numbers(day: str, days: int) -> tuple[str, str]:
    """Return by how much the number of events grew on each day, and its square."""
    number = f"countResampleArray(0, {days}, 1)({day})"
    numbers = f"sumResampleArray(0, {days}, 1)(arrayEnumerate({day}), {day})"
    return number, f"arrayMap((nths, number) -> 2 * toInt64(nths) - toInt64(number), {numbers}, {number})"


def _changes(measure: Measure, names: Mapping[str, str]) -> Mapping[str, str]:
    """Return what each addition changes: `add` to the total `now` of the numerator, `more` to `under` below it."""
    i, wide = measure.index, squared_in(measure)
    x, g = names[f"x{i}"], names[f"g{i}"]
    changes = {
        "users": f"arrayMap((add, now) -> toInt64(now != 0) - toInt64(now != add), {x}, {g})",
        "x": x,
        "xx": f"arrayMap((add, now) -> {wide}(add) * (2 * now - add), {x}, {g})",
    }
    if measure.has_denominator:
        y, h = names[f"y{i}"], names[f"h{i}"]
        product = f"{wide}(add) * under + {wide}(more) * (now - add)"
        changes |= {
            "y": y,
            "yy": f"arrayMap((more, under) -> {wide}(more) * (2 * under - more), {y}, {h})",
            "xy": f"arrayMap((add, now, more, under) -> {product}, {x}, {g}, {y}, {h})",
        }
    if measure.covariate is not None:
        changes["xz"] = f"arrayMap(add -> {wide}(add) * {names[f'w{i}']}, {x})"
    return changes


def _limited_changes(measure: Measure, names: Mapping[str, str]) -> Mapping[str, str]:
    """Return the same where totals are limited, `now` after an addition and `old` before it."""
    i, wide = measure.index, squared_in(measure)
    g, gg = names[f"g{i}"], names[f"gg{i}"]
    changes = {
        "users": f"arrayMap((now, old) -> toInt64(now != 0) - toInt64(old != 0), {g}, {gg})",
        "x": f"arrayMap((now, old) -> now - old, {g}, {gg})",
        "xx": f"arrayMap((now, old) -> {wide}(now) * now - {wide}(old) * old, {g}, {gg})",
    }
    if measure.has_denominator:
        y, h = names[f"y{i}"], names[f"h{i}"]
        product = f"{wide}(now) * under - {wide}(old) * (under - more)"
        changes |= {
            "y": y,
            "yy": f"arrayMap((more, under) -> {wide}(more) * (2 * under - more), {y}, {h})",
            "xy": f"arrayMap((now, old, more, under) -> {product}, {g}, {gg}, {y}, {h})",
        }
    if measure.covariate is not None:
        changes["xz"] = f"arrayMap((now, old) -> {wide}(now - old) * {names[f'w{i}']}, {g}, {gg})"
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
