"""One row a user in ClickHouse: what the events that count for each metric add up to.

Two things have to be known before a metric's totals are: the unit of its values, and the quantile at which totals are
cut; each is a look at the events of those metrics alone that need it. Columns that are the same for several metrics are
worked out once (see `Rows`).

Columns of a user's row, besides those of its lists (see `cold_lists`), by metric: `d` the days of what is added,
ascending, `x`, `y` what is added to numerator and denominator, `e` the days of a denominator that is counted by itself,
`p` the days of both sides packed, `z` the covariate, `g` and `h` the totals after each addition, `gg` the limited ones
before it, `w` the covariate within its limits, `n` the number of events, `u` that of the denominator's, `c` when each
step was done, `q` the values.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.measurement.cold_events import ColdEvents, day_of, joined
from app.measurement.cold_lists import filtered
from app.measurement.plan import NO_LIMIT_BITS, PIECE_BITS, Cap, Measure, Plan, Shape

# The exponent field of a double is read from its bits: no logarithm rounds as reliably.
_PEAK = "maxIf(abs(assumeNotNull({number})), {counts})"
_SCALE = f"1084 - toInt32(bitAnd(bitShiftRight(reinterpretAsUInt64({_PEAK}), 52), 2047))"
# Two factors, because one power of two may be beyond a double's range where their product applied one by one is not.
_UNITS = (
    "arrayMap(number -> toInt128(coalesce(toInt64(roundBankers("
    "number * exp2(intDiv({scale}, 2)) * exp2({scale} - intDiv({scale}, 2)))), 0)), {numbers})"
)
# In finer units, what each number has left below those of the pieces before, in units of the next piece. The difference
# of a double and its nearest whole number is exact.
_SCALED = "arrayMap(number -> number * exp2(intDiv({scale}, 2)) * exp2({scale} - intDiv({scale}, 2)), {numbers})"
_LEFT = f"arrayMap(left -> (left - roundBankers(left)) * {2**PIECE_BITS}, {{before}})"
_PIECE = "toInt256(coalesce(toInt64(roundBankers({left})), 0))"
_CAP_IN_UNITS = (
    "multiIf({shift} > {most}, bitShiftLeft(toInt256(1), {no_limit}),"
    " {shift} >= 0, bitShiftLeft({mantissa}, toUInt8(least(greatest({shift}, 0), {most}))),"
    " bitShiftRight({mantissa}, toUInt8(least(greatest(-({shift}), 0), 60))))"
)
# The smallest total that at least this share of all users' totals does not exceed, and not below 0. Who has no events
# has a total of 0. It is looked for from the end that is nearer to it, because no more than that has to be sorted.
_CUT = (
    "greatest(toInt256({sort}({place}, arrayResize(groupArray({total}), assumeNotNull(users)))[{place}]), toInt256(0))"
)
_RANK = (
    "toInt64(greatest(intDiv("
    "toInt128('{over}') * assumeNotNull(users) + toInt128('{under}') - 1, toInt128('{under}')), 1))"
)
_RANK_FROM_ABOVE = f"greatest(toInt64(assumeNotNull(users)) - {_RANK} + 1, 1)"


# A name and the expression it stands for.
Column = tuple[str, str]


class Rows:
    """A query that has a row for each user. Columns that are alike are one, whichever metrics they belong to."""

    def __init__(self, sql: str, names: Mapping[str, str] | None = None) -> None:
        self.sql = sql
        # The columns to read for every metric's own ones.
        self.names: Mapping[str, str] = names or {}

    def wider(self, columns: Iterable[Column], *, keep: Iterable[str] = ("*",)) -> "Rows":
        """Return the rows with more columns; nothing is worked out twice."""
        first: dict[str, str] = {}
        names = dict(self.names)
        for name, expression in columns:
            names[name] = first.setdefault(expression, name)
        selected = [*keep, *(f"{expression} AS {name}" for expression, name in first.items())]
        return Rows(f"\nSELECT {', '.join(selected)} FROM ({self.sql})", names)


@dataclass(frozen=True, slots=True)
class Known:
    """What a statement has to know before it looks at users' rows: the scalars that say so, and their expressions."""

    scalars: str
    # By list: the exponent of its unit.
    scales: Mapping[int, str]
    # By metric's index and side: what totals are cut at.
    cuts: Mapping[tuple[int, str], str]

    def exponent_of(self, events: ColdEvents, measure: Measure, side: str) -> str:
        """Return the exponent of a side whose unit is chosen here; it begins alike for sides of the same events."""
        scale, finer = self.scales[events.place(*measure.lists[side])], measure.finer_by(side)
        return f"{scale} + {finer}" if finer else scale


def known_before(events: ColdEvents, plan: Plan) -> Known:
    """Return what has to be known of the plan's metrics."""
    scalars, scales = _scales(events, plan)
    cut_scalars, cuts = _cuts(events, plan, scales)
    return Known(scalars + cut_scalars, scales, cuts)


def _scales(events: ColdEvents, plan: Plan) -> tuple[str, Mapping[int, str]]:
    scaled = {measure.lists[side]: measure.index for measure in plan.measures for side in measure.scaled}
    if not scaled:
        return "", {}
    some = plan.only(scaled.values())
    found, scales = [], {}
    for place, (track, stretch) in enumerate(scaled, start=1):
        index = some.tracks.index(track)
        counts = f"keeps{index} AND {events.inside(track, stretch)}"
        found.append(_SCALE.format(number=f"amount{index}", counts=counts))
        scales[events.place(track, stretch)] = f"assumeNotNull(tupleElement(scales, {place}))"
    return f",\n(SELECT tuple({', '.join(found)}) FROM {joined(events, some, 'scales')}) AS scales", scales


def _cuts(events: ColdEvents, plan: Plan, scales: Mapping[int, str]) -> tuple[str, Mapping[tuple[int, str], str]]:
    cut = [(measure, side) for measure in plan.measures if measure.winsorize for side in measure.limited]
    if not cut:
        return "", {}
    some = plan.only(measure.index for measure, _ in cut)
    rows = _in_units(events, some, scales, "cuts")
    found = []
    for measure, side in cut:
        over, under = measure.winsorize or (1, 1)
        own = rows.names[f"{side}{measure.index}"]
        total = f"arrayCumSum({own})[-1]" if side == "x" else own
        sort, rank = ("Reverse", _RANK_FROM_ABOVE) if 2 * over > under else ("", _RANK)
        place = rank.format(over=over, under=under)
        found.append(_CUT.format(sort=f"arrayPartial{sort}Sort", place=place, total=total))
    scalars = (
        f",\n(SELECT count() FROM exposed{events.of_arms}) AS users",
        f",\n(SELECT tuple({', '.join(found)}) FROM ({rows.sql})) AS cuts",
    )
    cuts = {(m.index, side): f"assumeNotNull(tupleElement(cuts, {i}))" for i, (m, side) in enumerate(cut, start=1)}
    return "".join(scalars), cuts


def _type_of(measure: Measure) -> str:
    """Return the type of numerators: 64 bits are enough for numbers of events, 128 for sums of values and delays."""
    if measure.one > 1 or measure.finer_by("x"):
        return "toInt256"
    return "toInt128" if measure.scaled or measure.shape is Shape.DELAY else "toInt64"


def squared_in(measure: Measure) -> str:
    """Return the type in which products of totals are worked out."""
    return "toInt256" if measure.scaled or measure.is_limited or measure.shape is Shape.DELAY else "toInt64"


def _in_units(events: ColdEvents, plan: Plan, scales: Mapping[int, str], name: str) -> Rows:
    """Return users' rows with what each event adds, in units and by ascending days."""
    own = {events.place(*one) for one in plan.lists}
    rows = Rows(filtered(events, plan, name)).wider((_scale(place), scales[place]) for place in scales if place in own)
    kept = [_scale(place) for place in scales if place in own]
    found = [column for measure in plan.measures for column in _additions(events, measure)]
    return rows.wider(found, keep=("variant_id", "exposed_us", *kept))


def _scale(place: int) -> str:
    return f"scale{place}"


def _additions(events: ColdEvents, measure: Measure) -> Iterator[Column]:
    i, one = measure.index, _one(measure)
    places = {side: events.place(*found) for side, found in measure.lists.items()}
    own = places["x" if "x" in places else "s0"]
    first = f"d{i}", f"if(number{own} = 0, [], [{day_of(f'first{own}')}])"
    number = f"n{i}", f"number{own}"
    match measure.shape:
        case Shape.AMOUNTS:
            yield number
            yield from _amounts(events, measure, places)
        case Shape.FIRST:
            yield from (first, (f"x{i}", f"if(number{own} = 0, [], [{one}])"), number)
            if measure.covariate is not None:
                yield f"z{i}", f"if(number{places['z']} = 0, {_type_of(measure)}(0), {one})"
        case Shape.DELAY:
            delay = f"{_type_of(measure)}(first{own} - exposed_us)"
            yield from (first, (f"x{i}", f"if(number{own} = 0, [], [{delay}])"), number)
            yield f"y{i}", f"if(number{own} = 0, [], [toInt64(1)])"
        case Shape.CHAIN:
            yield from _chain(measure, list(places.values()))
        case Shape.VALUES:
            yield f"q{i}", f"a{own}"


def _one(measure: Measure) -> str:
    return f"{_type_of(measure)}('{measure.one}')" if measure.one > 1 else f"{_type_of(measure)}(1)"


def _amounts(events: ColdEvents, measure: Measure, places: Mapping[str, int]) -> Iterator[Column]:
    i, days = measure.index, _days_of(places["x"])
    if "z" in measure.scaled:
        yield f"z{i}", f"arrayCumSum({_added(measure, 'z', places)})[-1]"
    elif measure.covariate is not None:
        yield f"z{i}", f"{_one(measure)} * toInt64(number{places['z']})"
    if measure.is_number and not events.in_order:
        if "y" in places:
            yield f"u{i}", f"number{places['y']}"
    elif measure.denominator is None or places["x"] == places["y"]:
        yield f"d{i}", days
        yield f"x{i}", _added(measure, "x", places)
        if measure.denominator is not None:
            # The same events add to both.
            yield f"y{i}", _added(measure, "y", places)
    elif measure.is_counted_ratio:
        yield f"d{i}", days
        yield f"e{i}", _days_of(places["y"])
        yield f"p{i}", _packed(events, places)
    elif not measure.scaled:
        packed = _packed(events, places)
        yield f"d{i}", f"arrayMap(packed -> toUInt16(intDiv(packed, 2)), {packed})"
        yield f"x{i}", f"arrayMap(packed -> {_one(measure)} * (packed % 2), {packed})"
        yield f"y{i}", f"arrayMap(packed -> toInt64(1 - packed % 2), {packed})"
    else:
        both = f"arrayConcat({days}, {_days_of(places['y'])})"
        zeros = "toInt128(0)" if "y" in measure.scaled else "toInt64(0)"
        if measure.finer_by("y"):
            zeros = "toInt256(0)"
        y = f"arrayConcat(arrayMap(moment -> {zeros}, f{places['x']}), {_added(measure, 'y', places)})"
        x = _added(measure, "x", places)
        x = f"arrayConcat({x}, arrayMap(moment -> {_type_of(measure)}(0), f{places['y']}))"
        yield f"d{i}", _sorted(events, both, both)
        yield f"x{i}", _sorted(events, x, both)
        yield f"y{i}", _sorted(events, y, both)


def _days_of(place: int) -> str:
    return f"arrayMap(moment -> {day_of('moment')}, f{place})"


def _packed(events: ColdEvents, places: Mapping[str, int]) -> str:
    """Pack each event's day and side into one number: numbers are sorted far faster than one array by another."""
    packed = (
        f"arrayConcat(arrayMap(moment -> toUInt32({day_of('moment')}) * 2 + 1, f{places['x']}),"
        f" arrayMap(moment -> toUInt32({day_of('moment')}) * 2, f{places['y']}))"
    )
    return _sorted(events, packed, packed)


def _added(measure: Measure, side: str, places: Mapping[str, int]) -> str:
    """Return what each event of a side adds to it."""
    if side in measure.scaled:
        return _whole(_scale(places[side]), f"a{places[side]}", measure.finer_by(side))
    return f"arrayMap(moment -> {'toInt64(1)' if side == 'y' else _one(measure)}, f{places[side]})"


def _whole(scale: str, numbers: str, finer: int) -> str:
    """Return the numbers in whole units; finer ones are put together from pieces."""
    if not finer:
        return _UNITS.format(scale=scale, numbers=numbers)
    lefts = [_SCALED.format(scale=scale, numbers=numbers)]
    whole = _PIECE.format(left="left0")
    for place in range(1, finer // PIECE_BITS + 1):
        lefts.append(_LEFT.format(before=lefts[-1]))
        whole = f"({whole}) * toInt256('{2**PIECE_BITS}') + {_PIECE.format(left=f'left{place}')}"
    names = ", ".join(f"left{place}" for place in range(len(lefts)))
    return f"arrayMap(({names}) -> {whole}, {', '.join(lefts)})"


def _sorted(events: ColdEvents, amounts: str, days: str) -> str:
    """Sort by day; all sorts by the same days agree, and within a day the order does not matter."""
    if not events.in_order:
        return amounts
    return f"arraySort({amounts})" if amounts == days else f"arraySort((amount, day) -> day, {amounts}, {days})"


def _chain(measure: Measure, places: list[int]) -> Iterator[Column]:
    """Take each step as early as may be after the one before; a step that is not reached is an empty array."""
    i = measure.index
    yield f"c{i}s0", f"if(number{places[0]} = 0, [], [first{places[0]}])"
    for step, place in enumerate(places[1:], start=1):
        later = f"arrayFilter(moment -> notEmpty(c{i}s{step - 1}) AND moment >= c{i}s{step - 1}[1], f{place})"
        yield f"c{i}s{step}", f"if(empty({later}), [], [arrayMin({later})])"
    last = f"c{i}s{len(places) - 1}"
    yield f"d{i}", f"arrayMap(moment -> {day_of('moment')}, {last})"
    yield f"x{i}", f"arrayMap(moment -> {_one(measure)}, {last})"
    # An event that fits two steps is an event of each.
    yield f"n{i}", " + ".join(f"number{place}" for place in places)


def accumulated(events: ColdEvents, plan: Plan, known: Known) -> Rows:
    """Return users' rows with their totals after each addition and before it."""
    rows = _in_units(events, plan, known.scales, "main")
    rows = rows.wider(limit for measure in plan.measures for limit in _limits(events, measure, known))
    rows = rows.wider(total for measure in plan.measures for total in _totals(measure, rows.names))
    return rows.wider(before for measure in plan.measures for before in _before(measure, rows.names))


def _totals(measure: Measure, names: Mapping[str, str]) -> Iterator[Column]:
    i = measure.index
    if measure.covariate is not None:
        yield f"w{i}", _limited(measure, "z", names[f"z{i}"], names)
    if measure.shape is Shape.VALUES or measure.is_plain or measure.is_counted_ratio:
        return
    yield f"g{i}", _each_limited(measure, f"arrayCumSum({names[f'x{i}']})", names)
    if measure.has_denominator:
        yield f"h{i}", f"arrayCumSum({names[f'y{i}']})"


def _before(measure: Measure, names: Mapping[str, str]) -> Iterator[Column]:
    """Return the limited totals before each addition; others are known from what is added."""
    if measure.is_limited and measure.shape is not Shape.VALUES:
        total = names[f"g{measure.index}"]
        yield f"gg{measure.index}", f"arrayResize(arrayPushFront({total}, 0), length({total}))"


def _limits(events: ColdEvents, measure: Measure, known: Known) -> Iterator[Column]:
    """Return what a user's numerator and covariate are cut at, and their cap, as columns."""
    for side in measure.limited:
        cap = f"cap{measure.index}{side}"
        if measure.winsorize is not None:
            yield f"cut{measure.index}{side}", known.cuts[measure.index, side]
        if isinstance(measure.cap, Cap):
            finer, mantissa = measure.finer_by(side), f"toInt256('{measure.cap.mantissa}')"
            shift = f"({_scale(events.place(*measure.lists[side]))} + {measure.cap.exponent + finer})"
            most, no_limit = 60 + finer, NO_LIMIT_BITS + finer
            yield cap, _CAP_IN_UNITS.format(shift=shift, mantissa=mantissa, most=most, no_limit=no_limit)
        elif measure.cap is not None:
            yield cap, f"toInt256('{measure.cap}')"


def _each_limited(measure: Measure, totals: str, names: Mapping[str, str]) -> str:
    if not measure.is_limited:
        return totals
    return f"arrayMap(total -> {_limited(measure, 'x', 'total', names)}, {totals})"


def _limited(measure: Measure, side: str, total: str, names: Mapping[str, str]) -> str:
    limited = total
    if measure.winsorize is not None:
        limited = f"least(toInt256({limited}), {names[f'cut{measure.index}{side}']})"
    if measure.cap is not None:
        cap = names[f"cap{measure.index}{side}"]
        limited = f"greatest(least(toInt256({limited}), {cap}), -{cap})"
    return limited
