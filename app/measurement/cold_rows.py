"""One row a user in ClickHouse: the events that count for each metric, and what they add up to.

Events are joined with who is exposed and gathered into arrays. Two things have to be known before a metric's totals
are: the unit of its values, and the quantile at which totals are cut; each is a look at the events of those metrics
alone that need it. Columns that are the same for several metrics are worked out once (see `Rows`).

Columns of a user's row: by list, `first` moment and `number` of the events that count, and, where that is not enough,
`f` their moments and `a` their numbers; by metric, `d` the days of what is added, ascending, `x`, `y` what is added to
numerator and denominator, `e` the days of a denominator that is counted by itself, `p` the days of both sides packed,
`z` the covariate, `g` and `h` the totals after each addition, `gg` the limited ones before it, `w` the covariate within
its limits, `n` the number of events, `u` that of the denominator's, `c` when each step was done, `q` the values.
"""
# ruff: noqa: S608  # All statements are made of constants and numbers.

from collections.abc import Iterable, Iterator, Mapping
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
_VALUED = """
              AND value IS NOT NULL"""
_OF_USER = ("variant_id", "exposed_us")
# Users get a number, because grouping by numbers is far cheaper than grouping by text.
PEOPLE = (
    "SELECT user_id, variant_id, toUnixTimestamp64Micro(exposed_at) AS exposed_us,"
    " toUInt32(row_number() OVER ()) AS unit FROM exposed"
)
# The day's number within the series; what lies outside it counts in its first or last day.
_DAY = f"toUInt16(least(greatest(intDiv({{us}}, {DAY_US}) - {{{{first_day:Int64}}}}, 0), {{{{days:Int64}}}} - 1))"
# The exponent field of a double is read from its bits: no logarithm rounds as reliably.
_PEAK = "maxIf(abs(assumeNotNull({number})), {counts})"
_SCALE = f"1084 - toInt32(bitAnd(bitShiftRight(reinterpretAsUInt64({_PEAK}), 52), 2047))"
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
        # By list.
        self.scales: dict[int, str] = {}
        self.cuts: dict[tuple[int, str], str] = {}
        self._know_scales()
        self._know_cuts()

    def place(self, track: Track, stretch: Stretch) -> int:
        """Return the number of a list of events."""
        return self._places[track, stretch]

    def scale_of(self, measure: Measure, side: str) -> str:
        """Return the exponent of a side whose unit is chosen here; sides of the same events have the same."""
        return self.scales[self.place(*measure.lists[side])]

    def _know_scales(self) -> None:
        scaled = {measure.lists[side]: measure.index for measure in self._plan.measures for side in measure.scaled}
        if not scaled:
            return
        some = self._plan.only(scaled.values())
        tracks = some.tracks
        found = []
        for track, stretch in scaled:
            index, place = tracks.index(track), self.place(track, stretch)
            counts = f"keeps{index} AND {_inside(self, stretch, place)}"
            found.append(_SCALE.format(number=f"amount{index}", counts=counts))
            self.scales[place] = f"assumeNotNull(tupleElement(scales, {len(found)}))"
        self.scalars += f",\n(SELECT tuple({', '.join(found)}) FROM {_joined(self, some, 'scales')}) AS scales"

    def _know_cuts(self) -> None:
        cut = [(measure, side) for measure in self._plan.measures if measure.winsorize for side in measure.limited]
        if not cut:
            return
        some = self._plan.only(measure.index for measure, _ in cut)
        rows = _in_units(self, some, "cuts")
        found = []
        for measure, side in cut:
            over, under = measure.winsorize or (1, 1)
            own = rows.names[f"{side}{measure.index}"]
            total = f"arrayCumSum({own})[-1]" if side == "x" else own
            sort, rank = ("Reverse", _RANK_FROM_ABOVE) if 2 * over > under else ("", _RANK)
            place = rank.format(over=over, under=under)
            found.append(_CUT.format(sort=f"arrayPartial{sort}Sort", place=place, total=total))
        self.scalars += ",\n(SELECT count() FROM exposed) AS users"
        self.scalars += f",\n(SELECT tuple({', '.join(found)}) FROM ({rows.sql})) AS cuts"
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
    """Return the rows of users who have events, with the moments and numbers of those that count.

    Events that several lists look at are gathered once and told apart in the user's row: there are far fewer users
    than events, and for every event each aggregate costs something, also where it does not take it.
    """
    listed, ordered = _listed(source, plan), _ordered(source, plan) if name == "main" else frozenset()
    grouped, rows, lists = [f"any({own}) AS {own}" for own in _OF_USER], list(_OF_USER), list(_OF_USER)
    for index, track in enumerate(plan.tracks):
        own = {one: source.place(*one) for one in plan.lists if one[0] == track}
        together = len(own) > 1 and not listed.isdisjoint(own)
        for one, place in own.items():
            inside = _inside(source, one[1], place)
            counts = f"keeps{index} AND {inside}"
            if together:
                lists += _picked(track, f"t{index}", place, inside, is_listed=one in listed)
            elif one in listed or track.has_numbers:
                grouped += _gathered(track, index, f"l{place}", counts)
                rows += _in_order(track, f"l{place}", is_ordered=one in ordered)
                lists += _whole(track, f"l{place}", place)
            else:
                grouped += [f"minIf(moment, {counts}) AS first{place}", f"countIf({counts}) AS number{place}"]
                rows += [f"first{place}", f"number{place}"]
                lists += [f"first{place}", f"number{place}"]
        if together:
            grouped += _gathered(track, index, f"t{index}", f"keeps{index}")
            rows += _in_order(track, f"t{index}", is_ordered=not ordered.isdisjoint(own))
    lists += [f"{scale} AS {_scale(place)}" for place, scale in source.scales.items()]
    return f"""
    SELECT {", ".join(lists)} FROM (
    SELECT {", ".join(rows)} FROM (
    SELECT {", ".join(grouped)} FROM {_joined(source, plan, name)}
    GROUP BY unit))"""


def _listed(source: Source, plan: Plan) -> frozenset[tuple[Track, Stretch]]:
    """Return the lists of which every event is needed: without a series numbers of events are known by counting."""
    if source.in_order:
        return plan.listed
    return plan.only(measure.index for measure in plan.measures if not is_number(measure)).listed


def _ordered(source: Source, plan: Plan) -> frozenset[tuple[Track, Stretch]]:
    """Return the lists whose events are added up day by day."""
    if not source.in_order:
        return frozenset()
    amounts = (measure for measure in plan.measures if measure.shape is Shape.AMOUNTS)
    return frozenset(found for measure in amounts for side, found in measure.lists.items() if side != "z")


def _gathered(track: Track, index: int, name: str, counts: str) -> Iterator[str]:
    yield f"groupArrayIf(moment, {counts}) AS moments_{name}"
    if track.has_numbers:
        yield f"groupArrayIf(assumeNotNull(amount{index}), {counts}) AS numbers_{name}"


def _in_order(track: Track, name: str, *, is_ordered: bool) -> Iterator[str]:
    """Put the events in their order, once for all lists; at one moment it does not matter."""
    moments, numbers = f"moments_{name}", f"numbers_{name}"
    yield f"arraySort({moments}) AS f_{name}" if is_ordered else f"{moments} AS f_{name}"
    if track.has_numbers:
        yield f"{f'arraySort((number, moment) -> moment, {numbers}, {moments})' if is_ordered else numbers} AS a_{name}"


def _picked(track: Track, name: str, place: int, inside: str, *, is_listed: bool) -> Iterator[str]:
    """Return a list out of the events that several lists share."""
    found = f"arrayFilter(moment -> {inside}, f_{name})"
    yield f"arrayMin({found}) AS first{place}"
    yield f"{f'length({found})' if is_listed else f'arrayCount(moment -> {inside}, f_{name})'} AS number{place}"
    if is_listed:
        yield f"{found} AS f{place}"
    if track.has_numbers:
        yield f"arrayFilter((number, moment) -> {inside}, a_{name}, f_{name}) AS a{place}"


def _whole(track: Track, name: str, place: int) -> Iterator[str]:
    # Moments and numbers are as many. Counting what is needed anyway keeps the other from being gathered.
    yield f"arrayMin(f_{name}) AS first{place}"
    yield f"length({'a' if track.has_numbers else 'f'}_{name}) AS number{place}"
    yield f"f_{name} AS f{place}"
    if track.has_numbers:
        yield f"a_{name} AS a{place}"


def _joined(source: Source, plan: Plan, name: str) -> str:
    """Return the events that may matter, with the user of each."""
    types, tracks = plan.event_types, plan.tracks
    of_types = _OF_TYPES.format(name=source.bind(f"types_{name}", list(types))) if types else ""
    condition = of_types + (_UNTIL if source.until else "") + (_SINCE if source.since else "")
    # Copies are alike, so that events without a value may be left out before copies are.
    if all(track.source is ValueSource.VALUE for track in tracks):
        condition += _VALUED
    # Copies do not move a maximum.
    final = "" if name == "scales" else " FINAL"
    streams = [_stream(source, tracks, name, f" FROM events{final}{_IN_HISTORY}{condition}")]
    if source.with_tail:
        streams.append(_stream(source, tracks, name, _TAIL + condition))
    return f"""({" UNION ALL ".join(streams)}) AS happened
    INNER JOIN ({PEOPLE}) AS people ON happened.user_id = people.user_id
    WHERE happened.moment >= people.exposed_us - {{look_back_us:Int64}}"""


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


def _scale(place: int) -> str:
    return f"scale{place}"


def _inside(source: Source, stretch: Stretch, place: int) -> str:
    """Return the condition that an event counts for a list; rows from the question's end on are not read at all."""
    conditions = [f"moment - exposed_us >= {{{source.bind(f'list{place}_from', stretch.from_us)}:Int64}}"]
    if stretch.until_us < FOREVER_US:
        until_us = source.bind(f"list{place}_until", stretch.until_us)
        conditions.append(f"moment - exposed_us < {{{until_us}:Int64}}")
    if stretch.in_question and source.has_start:
        conditions.append("moment >= {start_us:Int64}")
    return " AND ".join(conditions)


def _in_units(source: Source, plan: Plan, name: str) -> Rows:
    """Return users' rows with what each event adds, in units and by ascending days."""
    rows = Rows(filtered(source, plan, name))
    found = [column for measure in plan.measures for column in _additions(source, measure)]
    return rows.wider(found, keep=("variant_id", "exposed_us", *map(_scale, source.scales)))


def _additions(source: Source, measure: Measure) -> Iterator[Column]:
    i, one = measure.index, _one(measure)
    places = {side: source.place(*found) for side, found in measure.lists.items()}
    own = places["x" if "x" in places else "s0"]
    first = f"d{i}", f"if(number{own} = 0, [], [{day_of(f'first{own}')}])"
    number = f"n{i}", f"number{own}"
    match measure.shape:
        case Shape.AMOUNTS:
            yield number
            yield from _amounts(source, measure, places)
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


def _amounts(source: Source, measure: Measure, places: Mapping[str, int]) -> Iterator[Column]:
    i, days = measure.index, _days_of(places["x"])
    if "z" in measure.scaled:
        yield f"z{i}", f"arrayCumSum({_added(measure, 'z', places)})[-1]"
    elif measure.covariate is not None:
        yield f"z{i}", f"{_one(measure)} * toInt64(number{places['z']})"
    if is_number(measure) and not source.in_order:
        if "y" in places:
            yield f"u{i}", f"number{places['y']}"
    elif measure.denominator is None or places["x"] == places["y"]:
        yield f"d{i}", days
        yield f"x{i}", _added(measure, "x", places)
        if measure.denominator is not None:
            # The same events add to both.
            yield f"y{i}", _added(measure, "y", places)
    elif is_counted_ratio(measure):
        yield f"d{i}", days
        yield f"e{i}", _days_of(places["y"])
        yield f"p{i}", _packed(source, places)
    elif not measure.scaled:
        packed = _packed(source, places)
        yield f"d{i}", f"arrayMap(packed -> toUInt16(intDiv(packed, 2)), {packed})"
        yield f"x{i}", f"arrayMap(packed -> {_one(measure)} * (packed % 2), {packed})"
        yield f"y{i}", f"arrayMap(packed -> toInt64(1 - packed % 2), {packed})"
    else:
        both = f"arrayConcat({days}, {_days_of(places['y'])})"
        zeros = "toInt128(0)" if "y" in measure.scaled else "toInt64(0)"
        y = f"arrayConcat(arrayMap(moment -> {zeros}, f{places['x']}), {_added(measure, 'y', places)})"
        x = _added(measure, "x", places)
        x = f"arrayConcat({x}, arrayMap(moment -> {_type_of(measure)}(0), f{places['y']}))"
        yield f"d{i}", _sorted(source, both, both)
        yield f"x{i}", _sorted(source, x, both)
        yield f"y{i}", _sorted(source, y, both)


def _days_of(place: int) -> str:
    return f"arrayMap(moment -> {day_of('moment')}, f{place})"


def _packed(source: Source, places: Mapping[str, int]) -> str:
    """Pack each event's day and side into one number: numbers are sorted far faster than one array by another."""
    packed = (
        f"arrayConcat(arrayMap(moment -> toUInt32({day_of('moment')}) * 2 + 1, f{places['x']}),"
        f" arrayMap(moment -> toUInt32({day_of('moment')}) * 2, f{places['y']}))"
    )
    return _sorted(source, packed, packed)


def _added(measure: Measure, side: str, places: Mapping[str, int]) -> str:
    """Return what each event of a side adds to it."""
    if side in measure.scaled:
        return _UNITS.format(scale=_scale(places[side]), numbers=f"a{places[side]}")
    return f"arrayMap(moment -> {'toInt64(1)' if side == 'y' else _one(measure)}, f{places[side]})"


def _sorted(source: Source, amounts: str, days: str) -> str:
    """Sort by day; all sorts by the same days agree, and within a day the order does not matter."""
    if not source.in_order:
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


def accumulated(source: Source, plan: Plan, name: str) -> Rows:
    """Return users' rows with their totals after each addition and before it."""
    rows = _in_units(source, plan, name)
    rows = rows.wider(limit for measure in plan.measures for limit in _limits(source, measure))
    rows = rows.wider(total for measure in plan.measures for total in _totals(measure, rows.names))
    return rows.wider(before for measure in plan.measures for before in _before(measure, rows.names))


def _totals(measure: Measure, names: Mapping[str, str]) -> Iterator[Column]:
    i = measure.index
    if measure.covariate is not None:
        yield f"w{i}", _limited(measure, "z", names[f"z{i}"], names)
    if measure.shape is Shape.VALUES or is_plain(measure) or is_counted_ratio(measure):
        return
    yield f"g{i}", _each_limited(measure, f"arrayCumSum({names[f'x{i}']})", names)
    if measure.has_denominator:
        yield f"h{i}", f"arrayCumSum({names[f'y{i}']})"


def _before(measure: Measure, names: Mapping[str, str]) -> Iterator[Column]:
    """Return the limited totals before each addition; others are known from what is added."""
    if measure.is_limited and measure.shape is not Shape.VALUES:
        total = names[f"g{measure.index}"]
        yield f"gg{measure.index}", f"arrayResize(arrayPushFront({total}, 0), length({total}))"


def _limits(source: Source, measure: Measure) -> Iterator[Column]:
    """Return what a user's numerator and covariate are cut at, and their cap, as columns."""
    for side in measure.limited:
        cap = f"cap{measure.index}{side}"
        if measure.winsorize is not None:
            yield f"cut{measure.index}{side}", source.cuts[measure.index, side]
        if isinstance(measure.cap, Cap):
            shift = f"({_scale(source.place(*measure.lists[side]))} + {measure.cap.exponent})"
            yield cap, _CAP_IN_UNITS.format(shift=shift, mantissa=f"toInt256('{measure.cap.mantissa}')")
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


def is_plain(measure: Measure) -> bool:
    """Tell whether totals are numbers of events, so that their squares grow by 1, 3, 5 and so on."""
    return not (measure.scaled or measure.is_limited or measure.has_denominator)


def is_counted_ratio(measure: Measure) -> bool:
    """Tell whether both sides are numbers of events, of two lists; then each side grows as if it were alone."""
    is_ratio = measure.shape is Shape.AMOUNTS and measure.denominator is not None
    return is_ratio and not (measure.scaled or measure.is_limited) and measure.lists["x"] != measure.lists["y"]


def is_number(measure: Measure) -> bool:
    """Tell whether totals are numbers of events, and more than one may be counted."""
    return measure.shape is Shape.AMOUNTS and (is_plain(measure) or is_counted_ratio(measure))
