"""One row a user in ClickHouse: the events that count for each metric, and what they add up to.

Events are joined with who is exposed and gathered into arrays. Two things have to be known before a metric's totals
are: the unit of its values, and the quantile at which totals are cut; each is a look at the events of those metrics
alone that need it.

Columns of a user's row: by list, `first` moment and `number` of the events that count, and, where that is not enough,
`f` their moments and `a` their numbers; by metric, `d` the days of what is added, ascending, `x`, `y` what is added to
numerator and denominator, `z` the covariate, `g` and `h` the totals after each addition, `gg` and `hh` before it, `w`
the covariate within its limits, `n` the number of events, `c` when each step was done, `q` the values.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterator, Mapping
from typing import Any

from app.events.messages import MOST_AHEAD
from app.measurement import cold_filters
from app.measurement.plan import (
    DAY_US,
    FOREVER_US,
    NO_LIMIT_BITS,
    US,
    Cap,
    Measure,
    Plan,
    Shape,
    Stretch,
    Track,
    bounds_us,
    days_of,
)
from app.measurement.tail import EVENTS as TAIL_EVENTS
from app.measurement.values import Asked, Exposed
from app.metrics.values import ValueSource

# The conditions on ingestion times follow from those on the events' own, and spare partitions that are too old.
_IN_HISTORY = """
            WHERE project_id = {project_id:Int64}
              AND (experiment_id IS NULL OR experiment_id = {experiment_id:Int64})
              AND ingested_at < {watermark:DateTime64(6, 'UTC')}
              AND ingested_at >= (SELECT min(exposed_at) FROM exposed)
                  - toIntervalMicrosecond({most_ahead_us:Int64} + {look_back_us:Int64})"""
_TAIL = f"""
            FROM {TAIL_EVENTS} WHERE true"""
_OF_TYPES = """
              AND event_type IN ({{{name}:Array(String)}})"""
_UNTIL = """
              AND ts < {until:DateTime64(6, 'UTC')}"""
_SINCE = """
              AND ts >= {since:DateTime64(6, 'UTC')}"""
# Users get a number, because grouping by numbers is far cheaper than grouping by text.
PEOPLE = (
    "SELECT user_id, variant_id, toUnixTimestamp64Micro(exposed_at) AS exposed_us,"
    " toUInt32(row_number() OVER ()) AS unit FROM exposed"
)
# The day's number within the series; what lies outside it counts in its first or last day.
_DAY = f"toUInt16(least(greatest(intDiv({{us}}, {DAY_US}) - {{{{first_day:Int64}}}}, 0), {{{{days:Int64}}}} - 1))"
# The exponent field of a double is read from its bits: no logarithm rounds as reliably.
_SCALE = "1084 - toInt32(bitAnd(bitShiftRight(reinterpretAsUInt64(max({peak})), 52), 2047))"
_PEAK = "arrayMax(arrayMap(number -> abs(number), {numbers}))"
# Two factors, because one power of two may be beyond a double's range where their product applied one by one is not.
_UNITS = (
    "arrayMap(number -> toInt128(coalesce(toInt64(roundBankers("
    "number * exp2(intDiv({scale}, 2)) * exp2({scale} - intDiv({scale}, 2)))), 0)), {numbers})"
)
_CAP_IN_UNITS = (
    f"multiIf({{shift}} > 60, bitShiftLeft(toInt256(1), {NO_LIMIT_BITS}),"
    " {shift} >= 0, bitShiftLeft({mantissa}, toUInt8(least(greatest({shift}, 0), 60))),"
    " bitShiftRight({mantissa}, toUInt8(least(greatest(-({shift}), 0), 60))))"
)
# The smallest total that at least this share of all users' totals does not exceed, and not below 0. Who has no events
# has a total of 0.
_CUT = (
    "greatest(arraySort(arrayResize(groupArray({total}), assumeNotNull(users)))"
    "[toInt64(greatest(intDiv("
    "toInt128({over}) * assumeNotNull(users) + toInt128({under}) - 1, toInt128({under})), 1))],"
    " toInt256(0))"
)


class Source:
    """Where users' rows come from, and what is known before they are looked at."""

    def __init__(self, plan: Plan, asked: Asked, exposed: Exposed, *, with_tail: bool) -> None:
        self._plan = plan
        self._asked = asked
        self._exposed = exposed
        self._places = {found: place for place, found in enumerate(plan.lists)}
        self.with_tail = with_tail
        self.first_day, self.days = days_of(asked)
        self.in_order = asked.days is not None
        self.until = asked.end is not None
        # Covariates are from before the question's time.
        self.has_start = asked.start is not None
        self.since = self.has_start and not any(measure.covariate for measure in plan.measures)
        self._bound: dict[str, Any] = {}
        self.scalars = ""
        self.scales: dict[tuple[int, str], str] = {}
        self.cuts: dict[tuple[int, str], str] = {}
        self._know_scales()
        self._know_cuts()

    def place(self, track: Track, stretch: Stretch) -> int:
        """Return the number of a list of events."""
        return self._places[track, stretch]

    def _know_scales(self) -> None:
        scaled = [(measure, side) for measure in self._plan.measures for side in measure.scaled]
        if not scaled:
            return
        some = self._plan.only(measure.index for measure, _ in scaled)
        found = [_SCALE.format(peak=_PEAK.format(numbers=f"a{self.place(*m.lists[side])}")) for m, side in scaled]
        self.scalars += f",\n(SELECT tuple({', '.join(found)}) FROM ({filtered(self, some, 'scales')})) AS scales"
        self.scales = {
            (m.index, side): f"assumeNotNull(tupleElement(scales, {i}))" for i, (m, side) in enumerate(scaled, start=1)
        }

    def _know_cuts(self) -> None:
        cut = [(measure, side) for measure in self._plan.measures if measure.winsorize for side in measure.limited]
        if not cut:
            return
        some = self._plan.only(measure.index for measure, _ in cut)
        found = []
        for measure, side in cut:
            over, under = measure.winsorize or (1, 1)
            total = f"toInt256({f'arrayCumSum(x{measure.index})[-1]' if side == 'x' else f'z{measure.index}'})"
            found.append(_CUT.format(total=total, over=f"'{over}'", under=f"'{under}'"))
        self.scalars += ",\n(SELECT count() FROM exposed) AS users"
        self.scalars += f",\n(SELECT tuple({', '.join(found)}) FROM ({_in_units(self, some, 'cuts')})) AS cuts"
        self.cuts = {
            (m.index, side): f"assumeNotNull(tupleElement(cuts, {i}))" for i, (m, side) in enumerate(cut, start=1)
        }

    def bind(self, name: str, value: object) -> str:
        """Bind a parameter and return its name; the same name always has the same value."""
        self._bound[name] = value
        return name

    def parameters(self) -> Mapping[str, Any]:
        start_us, _ = bounds_us(self._asked)
        bound: dict[str, Any] = {
            "project_id": self._asked.project_id,
            "experiment_id": self._asked.experiment_id,
            "most_ahead_us": MOST_AHEAD // US,
            "look_back_us": self._plan.look_back_us,
            "start_us": start_us,
            "first_day": self.first_day,
            "days": self.days,
        }
        if self._asked.start is not None:
            bound["since"] = self._asked.start
        if self._asked.end is not None:
            bound["until"] = self._asked.end
        return {**self._exposed.parameters, **bound, **self._bound}


def day_of(us: str) -> str:
    return _DAY.format(us=us)


def _type_of(measure: Measure) -> str:
    """Return the type of numerators: 64 bits are enough for numbers of events, 128 for sums of values and delays."""
    if measure.one > 1:
        return "toInt256"
    return "toInt128" if measure.scaled or measure.shape is Shape.DELAY else "toInt64"


def squared_in(measure: Measure) -> str:
    """Return the type in which products of totals are worked out."""
    return "toInt256" if measure.scaled or measure.is_limited or measure.shape is Shape.DELAY else "toInt64"


def filtered(source: Source, plan: Plan, name: str) -> str:
    """Return the rows of users who have events, with the moments and numbers of those that count."""
    types = plan.event_types
    of_types = _OF_TYPES.format(name=source.bind(f"types_{name}", list(types))) if types else ""
    condition = of_types + (_UNTIL if source.until else "") + (_SINCE if source.since else "")
    tracks, listed = plan.tracks, plan.listed
    # Copies do not move a maximum.
    final = "" if name == "scales" else " FINAL"
    streams = [_stream(source, tracks, name, f" FROM events{final}{_IN_HISTORY}{condition}")]
    if source.with_tail:
        streams.append(_stream(source, tracks, name, _TAIL + condition))
    columns = ["any(variant_id) AS variant_id", "any(exposed_us) AS exposed_us"]
    for track, stretch in plan.lists:
        index, own = tracks.index(track), source.place(track, stretch)
        counts = f"keeps{index} AND {_inside(source, stretch, own)}"
        columns += [f"minIf(moment, {counts}) AS first{own}", f"countIf({counts}) AS number{own}"]
        if (track, stretch) in listed:
            columns.append(f"groupArrayIf(moment, {counts}) AS f{own}")
        if track.has_numbers:
            columns.append(f"groupArrayIf(assumeNotNull(amount{index}), {counts}) AS a{own}")
    scales = [
        f"any({source.scales[key]}) AS {_scale(*key)}"
        for measure in plan.measures
        for key in ((measure.index, side) for side in measure.scaled)
        if key in source.scales
    ]
    return f"""
    SELECT {", ".join([*columns, *scales])} FROM ({" UNION ALL ".join(streams)}) AS happened
    INNER JOIN ({PEOPLE}) AS people ON happened.user_id = people.user_id
    WHERE happened.moment >= people.exposed_us - {{look_back_us:Int64}}
    GROUP BY people.unit"""


def _stream(source: Source, tracks: tuple[Track, ...], name: str, rows: str) -> str:
    columns = ["user_id", "toUnixTimestamp64Micro(ts) AS moment"]
    for index, track in enumerate(tracks):
        keeps = _keeps(source, track, f"{name}{index}")
        if track.has_numbers:
            columns.append(f"{_number(source, track, f'{name}{index}')} AS amount{index}")
            keeps += f" AND amount{index} IS NOT NULL"
        columns.append(f"{keeps} AS keeps{index}")
    if any(track.filters or track.source is ValueSource.PROPERTY for track in tracks):
        rows = f" FROM (SELECT user_id, event_type, ts, value, {cold_filters.PROPERTIES} AS properties{rows})"
    return f"""
        SELECT {", ".join(columns)}{rows}"""


def _keeps(source: Source, track: Track, name: str) -> str:
    conditions = []
    if track.event_types:
        parameter = source.bind(f"types_{name}", list(track.event_types))
        conditions.append(f"event_type IN ({{{parameter}:Array(String)}})")
    for place, wanted in enumerate(track.filters):
        condition, parameters = cold_filters.condition(wanted, f"filter_{name}_{place}")
        for parameter, value in parameters.items():
            source.bind(parameter, value)
        conditions.append(condition)
    return f"({' AND '.join(conditions)})" if conditions else "true"


def _number(source: Source, track: Track, name: str) -> str:
    if track.source is ValueSource.VALUE:
        return "value"
    return cold_filters.number_of(source.bind(f"number_{name}", track.property_name))


def _scale(index: int, side: str) -> str:
    return f"scale{index}{side}"


def _inside(source: Source, stretch: Stretch, place: int) -> str:
    """Return the condition that an event counts for a list; rows from the question's end on are not read at all."""
    conditions = [f"moment - exposed_us >= {{{source.bind(f'list{place}_from', stretch.from_us)}:Int64}}"]
    if stretch.until_us < FOREVER_US:
        until_us = source.bind(f"list{place}_until", stretch.until_us)
        conditions.append(f"moment - exposed_us < {{{until_us}:Int64}}")
    if stretch.in_question and source.has_start:
        conditions.append("moment >= {start_us:Int64}")
    return " AND ".join(conditions)


def _in_units(source: Source, plan: Plan, name: str) -> str:
    """Return users' rows with what each event adds, in units and by ascending days."""
    columns = ["variant_id", "exposed_us"]
    for measure in plan.measures:
        columns += [*_additions(source, measure), *(_scale(measure.index, side) for side in measure.scaled)]
    return f"\nSELECT {', '.join(columns)} FROM ({filtered(source, plan, name)})"


def _additions(source: Source, measure: Measure) -> Iterator[str]:
    i, one = measure.index, _one(measure)
    places = {side: source.place(*found) for side, found in measure.lists.items()}
    own = places["x" if "x" in places else "s0"]
    first = f"if(number{own} = 0, [], [{day_of(f'first{own}')}]) AS d{i}"
    match measure.shape:
        case Shape.AMOUNTS:
            yield from _amounts(source, measure, places)
        case Shape.FIRST:
            yield from (first, f"if(number{own} = 0, [], [{one}]) AS x{i}", f"number{own} AS n{i}")
            if measure.covariate is not None:
                yield f"if(number{places['z']} = 0, {_type_of(measure)}(0), {one}) AS z{i}"
        case Shape.DELAY:
            delay = f"{_type_of(measure)}(first{own} - exposed_us)"
            yield from (first, f"if(number{own} = 0, [], [{delay}]) AS x{i}", f"number{own} AS n{i}")
            yield f"if(number{own} = 0, [], [toInt64(1)]) AS y{i}"
        case Shape.CHAIN:
            yield from _chain(measure, list(places.values()))
        case Shape.VALUES:
            yield f"a{own} AS q{i}"


def _one(measure: Measure) -> str:
    return f"{_type_of(measure)}('{measure.one}')" if measure.one > 1 else f"{_type_of(measure)}(1)"


def _amounts(source: Source, measure: Measure, places: Mapping[str, int]) -> Iterator[str]:
    i = measure.index
    x, days = _added(measure, "x", places), f"arrayMap(moment -> {day_of('moment')}, f{places['x']})"
    yield f"number{places['x']} AS n{i}"
    if "z" in measure.scaled:
        yield f"arrayCumSum({_added(measure, 'z', places)})[-1] AS z{i}"
    elif measure.covariate is not None:
        yield f"{_one(measure)} * toInt64(number{places['z']}) AS z{i}"
    if measure.denominator is None:
        yield f"{_sorted(source, days, days)} AS d{i}"
        yield f"{_sorted(source, x, days) if measure.numerator.by_number else x} AS x{i}"
    elif places["x"] == places["y"]:
        # The same events add to both.
        yield f"{_sorted(source, days, days)} AS d{i}"
        yield f"{_sorted(source, x, days)} AS x{i}"
        yield f"{_sorted(source, _added(measure, 'y', places), days)} AS y{i}"
    elif not measure.scaled:
        yield from _ones_by_ones(source, measure, places)
    else:
        under = f"arrayMap(moment -> {day_of('moment')}, f{places['y']})"
        both = f"arrayConcat({days}, {under})"
        zeros = "toInt128(0)" if "y" in measure.scaled else "toInt64(0)"
        y = f"arrayConcat(arrayMap(moment -> {zeros}, f{places['x']}), {_added(measure, 'y', places)})"
        x = f"arrayConcat({x}, arrayMap(moment -> {_type_of(measure)}(0), f{places['y']}))"
        yield f"{_sorted(source, both, both)} AS d{i}"
        yield f"{_sorted(source, x, both)} AS x{i}"
        yield f"{_sorted(source, y, both)} AS y{i}"


def _ones_by_ones(source: Source, measure: Measure, places: Mapping[str, int]) -> Iterator[str]:
    """Pack each event's day and side into one number: numbers are sorted far faster than one array by another."""
    packed = (
        f"arrayConcat(arrayMap(moment -> toUInt32({day_of('moment')}) * 2 + 1, f{places['x']}),"
        f" arrayMap(moment -> toUInt32({day_of('moment')}) * 2, f{places['y']}))"
    )
    packed = _sorted(source, packed, packed)
    yield f"arrayMap(packed -> toUInt16(intDiv(packed, 2)), {packed}) AS d{measure.index}"
    yield f"arrayMap(packed -> {_one(measure)} * (packed % 2), {packed}) AS x{measure.index}"
    yield f"arrayMap(packed -> toInt64(1 - packed % 2), {packed}) AS y{measure.index}"


def _added(measure: Measure, side: str, places: Mapping[str, int]) -> str:
    """Return what each event of a side adds to it."""
    if side in measure.scaled:
        return _UNITS.format(scale=_scale(measure.index, side), numbers=f"a{places[side]}")
    return f"arrayMap(moment -> {'toInt64(1)' if side == 'y' else _one(measure)}, f{places[side]})"


def _sorted(source: Source, amounts: str, days: str) -> str:
    """Sort by day; all sorts by the same days agree, and within a day the order does not matter."""
    if not source.in_order:
        return amounts
    return f"arraySort({amounts})" if amounts == days else f"arraySort((amount, day) -> day, {amounts}, {days})"


def _chain(measure: Measure, places: list[int]) -> Iterator[str]:
    """Take each step as early as may be after the one before; a step that is not reached is an empty array."""
    i = measure.index
    yield f"if(number{places[0]} = 0, [], [first{places[0]}]) AS c{i}s0"
    for step, place in enumerate(places[1:], start=1):
        later = f"arrayFilter(moment -> notEmpty(c{i}s{step - 1}) AND moment >= c{i}s{step - 1}[1], f{place})"
        yield f"if(empty({later}), [], [arrayMin({later})]) AS c{i}s{step}"
    last = f"c{i}s{len(places) - 1}"
    yield f"arrayMap(moment -> {day_of('moment')}, {last}) AS d{i}"
    yield f"arrayMap(moment -> {_one(measure)}, {last}) AS x{i}"
    # An event that fits two steps is an event of each.
    yield f"{' + '.join(f'number{place}' for place in places)} AS n{i}"


def accumulated(source: Source, plan: Plan, name: str) -> str:
    """Return users' rows with their totals after each addition and before it."""
    limits, totals, columns = ["*"], ["variant_id", "exposed_us"], ["variant_id", "exposed_us"]
    for measure in plan.measures:
        i = measure.index
        passed = [f"q{i}"] if measure.shape is Shape.VALUES else [f"n{i}", f"d{i}"]
        passed += [_scale(i, side) for side in measure.scaled]
        passed += [f"c{i}s{step}" for step in range(len(measure.tracks)) if measure.shape is Shape.CHAIN]
        totals += passed
        columns += passed
        if measure.shape is Shape.VALUES:
            continue
        limits += _limits(source, measure)
        if measure.covariate is not None:
            totals.append(f"{_limited(measure, 'z', f'z{i}')} AS w{i}")
            columns.append(f"w{i}")
        if is_plain(measure):
            continue
        totals.append(f"{_each_limited(measure, f'arrayCumSum(x{i})')} AS g{i}")
        columns += [f"g{i}", f"arrayResize(arrayPushFront(g{i}, 0), length(g{i})) AS gg{i}"]
        if measure.has_denominator:
            totals.append(f"arrayCumSum(y{i}) AS h{i}")
            columns += [f"h{i}", f"arrayResize(arrayPushFront(h{i}, 0), length(h{i})) AS hh{i}"]
    known = f"\nSELECT {', '.join(limits)} FROM ({_in_units(source, plan, name)})"
    inner = f"\nSELECT {', '.join(totals)} FROM ({known})"
    return f"\nSELECT {', '.join(columns)} FROM ({inner})"


def _limits(source: Source, measure: Measure) -> Iterator[str]:
    """Return what a user's numerator and covariate are cut at, and their cap, as columns."""
    for side in measure.limited:
        if measure.winsorize is not None:
            yield f"{source.cuts[measure.index, side]} AS cut{measure.index}{side}"
        if isinstance(measure.cap, Cap):
            shift = f"({_scale(measure.index, side)} + {measure.cap.exponent})"
            cap = _CAP_IN_UNITS.format(shift=shift, mantissa=f"toInt256('{measure.cap.mantissa}')")
            yield f"{cap} AS cap{measure.index}{side}"
        elif measure.cap is not None:
            yield f"toInt256('{measure.cap}') AS cap{measure.index}{side}"


def _each_limited(measure: Measure, totals: str) -> str:
    return f"arrayMap(total -> {_limited(measure, 'x', 'total')}, {totals})" if measure.is_limited else totals


def _limited(measure: Measure, side: str, total: str) -> str:
    limited = total
    if measure.winsorize is not None:
        limited = f"least(toInt256({limited}), cut{measure.index}{side})"
    if measure.cap is not None:
        cap = f"cap{measure.index}{side}"
        limited = f"greatest(least(toInt256({limited}), {cap}), -{cap})"
    return limited


def is_plain(measure: Measure) -> bool:
    """Tell whether totals are numbers of events, so that their squares grow by 1, 3, 5 and so on."""
    return not (measure.scaled or measure.is_limited or measure.has_denominator)
