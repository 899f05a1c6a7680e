"""What has to be computed for some recipes, in terms that both stores can carry out. Plain values, no I/O.

Every recipe becomes a measure: which events matter to it, when, and how a user's events become the user's numbers.
Numbers are whole multiples of a unit. Of ones and delays the unit is known here; of values it is a power of two that
the stores choose so that the largest value counted just fits 62 bits, in the same way both.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import TypeAlias

from app.measurement.values import Asked, Days
from app.metrics.values import Kind, PropertyFilter, Recipe, Selection, ValueSource

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
US = timedelta(microseconds=1)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
# Longer than any history, and still small enough to be added to a moment.
FOREVER_US = 2**60
# A cap that is no whole number of ones is kept to a 2**40th.
_MOST_BITS = 40
# No user has so many units of the largest value: 2**38 events of 2**62 each.
NO_LIMIT_BITS = 100
# What a number has below the unit that suits the largest value is looked at in pieces of so many bits: each of them,
# and what it is taken from, is exact as a double and as a whole number of 64 bits.
PIECE_BITS = 60

# By a metric's index and side: by how many bits its unit is finer than the one that suits the largest value.
Finer: TypeAlias = Mapping[tuple[int, str], int]


class Shape(StrEnum):
    """How a user's events become numbers."""

    FIRST = "first"  # 1 from the first event on.
    DELAY = "delay"  # Microseconds to the first event; the denominator is 1 from then on.
    CHAIN = "chain"  # 1 from the last step on.
    AMOUNTS = "amounts"  # Each event adds to the numerator, the denominator, or both.
    VALUES = "values"  # The numbers themselves are looked at.


@dataclass(frozen=True, slots=True)
class Track:
    """The events that a selection keeps. Other sources than `ONE` keep those alone that carry a number."""

    event_types: tuple[str, ...]
    filters: tuple[PropertyFilter, ...]
    source: ValueSource
    property_name: str | None

    @property
    def has_numbers(self) -> bool:
        return self.source is not ValueSource.ONE


@dataclass(frozen=True, slots=True)
class Side:
    """What adds to a number: the events of a track, by their own numbers or by one each."""

    track: Track
    by_number: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """Offsets from the exposure between which events count, the second excluded; `in_question`: not outside it."""

    from_us: int
    until_us: int
    in_question: bool


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap of numbers whose unit the stores choose: `mantissa * 2**exponent`."""

    mantissa: int
    exponent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One recipe, compiled."""

    index: int
    key: str
    shape: Shape
    # Of a chain its steps, otherwise the tracks of the sides.
    tracks: tuple[Track, ...]
    numerator: Side
    denominator: Side | None
    stretch: Stretch
    covariate: Stretch | None
    # How many units one event is, where it is not counted by its own number.
    one: int
    # What a unit is, `None` where the stores choose it.
    unit: Fraction | None
    # In units, or to be brought to units; `None`: no cap.
    cap: int | Cap | None
    # The quantile as numerator and denominator; `None`: not winsorized.
    winsorize: tuple[int, int] | None
    quantile: Fraction | None
    # By side: by how many bits its unit is finer than the stores choose it, a multiple of `PIECE_BITS`.
    finer: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_denominator(self) -> bool:
        return self.denominator is not None or self.shape is Shape.DELAY

    @property
    def scaled(self) -> tuple[str, ...]:
        """The sides whose unit the stores choose: `x` numerator, `y` denominator, `z` covariate."""
        x = self.numerator.by_number and self.shape is Shape.AMOUNTS
        y = self.denominator is not None and self.denominator.by_number
        return tuple(side for side, is_so in (("x", x), ("y", y), ("z", x and self.covariate is not None)) if is_so)

    @property
    def lists(self) -> dict[str, tuple[Track, Stretch]]:
        """The events that count for each side; of a chain for each step, `s0` and so on."""
        if self.shape is Shape.CHAIN:
            return {f"s{step}": (track, self.stretch) for step, track in enumerate(self.tracks)}
        found = {"x": (self.numerator.track, self.stretch)}
        if self.denominator is not None:
            found["y"] = self.denominator.track, self.stretch
        if self.covariate is not None:
            found["z"] = self.numerator.track, self.covariate
        return found

    @property
    def listed(self) -> tuple[tuple[Track, Stretch], ...]:
        """The lists of which the first event and the number of events are not enough."""
        match self.shape:
            case Shape.FIRST | Shape.DELAY:
                needed: tuple[str, ...] = ()
            case Shape.CHAIN:
                needed = tuple(self.lists)[1:]
            case Shape.AMOUNTS | Shape.VALUES:
                needed = tuple(side for side in self.lists if side != "z" or self.numerator.by_number)
        return tuple(self.lists[side] for side in needed)

    @property
    def limited(self) -> tuple[str, ...]:
        """The sides that cap and winsorize apply to."""
        return ("x",) if self.covariate is None else ("x", "z")

    @property
    def is_limited(self) -> bool:
        return self.cap is not None or self.winsorize is not None

    @property
    def refinable(self) -> tuple[str, ...]:
        """The sides whose unit may be finer than the largest value of all arms lets it be."""
        return self.scaled

    def finer_by(self, side: str) -> int:
        """Return by how many bits the unit of a side is finer than the one that suits the largest value."""
        return self.finer.get(side, 0)

    @property
    def is_plain(self) -> bool:
        """Whether totals are numbers of events, so that their squares grow by 1, 3, 5 and so on."""
        return not (self.scaled or self.is_limited or self.has_denominator)

    @property
    def is_counted_ratio(self) -> bool:
        """Whether both sides are numbers of events, of two lists; then each side grows as if it were alone."""
        if self.shape is not Shape.AMOUNTS or self.denominator is None or self.scaled or self.is_limited:
            return False
        return self.lists["x"] != self.lists["y"]

    @property
    def is_number(self) -> bool:
        """Whether totals are numbers of events, and more than one may be counted."""
        return self.shape is Shape.AMOUNTS and (self.is_plain or self.is_counted_ratio)


@dataclass(frozen=True, slots=True)
class Plan:
    """All measures of a statement, and the tracks that they share.

    arms: the variants, by id, that alone are looked at, as if there were no others; none: all are.
    """

    measures: tuple[Measure, ...]
    arms: tuple[int, ...] = ()

    @property
    def tracks(self) -> tuple[Track, ...]:
        return tuple(dict.fromkeys(track for measure in self.measures for track in measure.tracks))

    @property
    def lists(self) -> tuple[tuple[Track, Stretch], ...]:
        """The events that count for some measure: which, and when. Measures share them."""
        return tuple(dict.fromkeys(one for measure in self.measures for one in measure.lists.values()))

    @property
    def listed(self) -> frozenset[tuple[Track, Stretch]]:
        """The lists of which every event is needed; of the others the first one and their number will do."""
        return frozenset(one for measure in self.measures for one in measure.listed)

    @property
    def event_types(self) -> tuple[str, ...]:
        """Every type that matters, sorted; none: all do."""
        types = [track.event_types for track in self.tracks]
        return () if () in types else tuple(sorted({name for names in types for name in names}))

    @property
    def look_back_us(self) -> int:
        """How long before the exposure an event may matter."""
        return max((-measure.covariate.from_us for measure in self.measures if measure.covariate), default=0)

    def only(self, indexes: Iterable[int]) -> "Plan":
        wanted = set(indexes)
        return replace(self, measures=tuple(measure for measure in self.measures if measure.index in wanted))

    def refined(self, finer: Finer) -> "Plan":
        """Return the plan of these metrics alone, with units that are so much finer."""
        return self.only(index for index, _ in finer).with_units(finer)

    def among(self, arms: Iterable[int]) -> "Plan":
        """Return the plan with these arms alone, in units that suit the largest value of these."""
        return replace(self.with_units({}), arms=tuple(sorted(arms)))

    def with_units(self, finer: Finer) -> "Plan":
        """Return the plan of the same metrics in units that are so much finer, and no finer elsewhere."""
        measures = (
            replace(measure, finer={side: bits for (index, side), bits in finer.items() if index == measure.index})
            for measure in self.measures
        )
        return replace(self, measures=tuple(measures))


def compiled(recipes: Mapping[str, Recipe]) -> Plan:
    """Compile the recipes in their order.

    Raises:
        ValueError: a recipe lacks what its kind needs, or has something that its kind cannot have.
    """
    return Plan(tuple(_measure(index, key, recipe) for index, (key, recipe) in enumerate(recipes.items())))


def look_back(recipes: Mapping[str, Recipe]) -> timedelta:
    """Return how long before the earliest exposure a store has to reach for these recipes."""
    return compiled(recipes).look_back_us * US


def bounds_us(asked: Asked) -> tuple[int, int]:
    """Return the question's bounds in microseconds since 1970."""
    start = -FOREVER_US if asked.start is None else (asked.start - EPOCH) // US
    return start, FOREVER_US if asked.end is None else (asked.end - EPOCH) // US


def days_of(asked: Asked) -> tuple[int, int]:
    """Return the first day, counted from 1970, and the number of days; one for all time without a series."""
    days = asked.days or Days(EPOCH.date(), 1)
    return (days.first - date(1970, 1, 1)).days, days.number


def _measure(index: int, key: str, recipe: Recipe) -> Measure:
    shape = _SHAPES[recipe.kind]
    if recipe.cap is not None and not recipe.cap >= 0:
        raise ValueError(f"{key}: cap: must not be below 0, which nobody without an event could have")
    numerator, denominator = _sides(key, recipe)
    tracks = (
        tuple(_track(step, ValueSource.ONE) for step in recipe.selections)
        if shape is Shape.CHAIN
        else tuple(side.track for side in (numerator, denominator) if side is not None)
    )
    measure = Measure(
        index=index,
        key=key,
        shape=shape,
        tracks=tracks,
        numerator=numerator,
        denominator=denominator,
        stretch=_stretch(key, recipe),
        covariate=_covariate(key, recipe),
        one=1,
        unit=Fraction(1),
        cap=None,
        winsorize=None if recipe.winsorize is None else _ratio(recipe.winsorize),
        quantile=_quantile(key, recipe) if shape is Shape.VALUES else None,
    )
    return _with_units(measure, recipe.cap)


def _with_units(measure: Measure, cap: float | None) -> Measure:
    if "x" in measure.scaled:
        return replace(measure, unit=None, cap=None if cap is None else _as_cap(cap))
    if measure.shape is Shape.DELAY:
        return replace(measure, unit=Fraction(1, SECOND_US), cap=_in_units(cap, SECOND_US))
    bits = 0 if cap is None else min(_MOST_BITS, Fraction(cap).denominator.bit_length() - 1)
    return replace(measure, one=2**bits, unit=Fraction(1, 2**bits), cap=_in_units(cap, 2**bits))


def _in_units(cap: float | None, units: int) -> int | None:
    # What nobody reaches need not be larger.
    return None if cap is None else min(math.floor(Fraction(cap) * units), 2**NO_LIMIT_BITS)


def _as_cap(cap: float) -> Cap:
    mantissa, exponent = math.frexp(cap)
    return Cap(int(mantissa * 2**53), exponent - 53)


def _sides(key: str, recipe: Recipe) -> tuple[Side, Side | None]:
    if not recipe.selections:
        raise ValueError(f"{key}: selections: at least one is needed")
    selection = recipe.selections[0]
    match recipe.kind:
        case Kind.SUM | Kind.QUANTILE:
            return _amount(selection), None
        case Kind.MEAN:
            return _amount(selection), Side(_track(selection, selection.source), by_number=False)
        case Kind.RATIO:
            if recipe.denominator is None:
                raise ValueError(f"{key}: denominator: a ratio needs one")
            return _amount(selection), _amount(recipe.denominator)
        case Kind.CONVERSION | Kind.COUNT | Kind.RETENTION | Kind.FUNNEL | Kind.TIME_TO_FIRST:
            return Side(_track(selection, ValueSource.ONE), by_number=False), None


def _amount(selection: Selection) -> Side:
    return Side(_track(selection, selection.source), by_number=selection.source is not ValueSource.ONE)


def _track(selection: Selection, source: ValueSource) -> Track:
    return Track(
        tuple(sorted(set(selection.event_types))),
        selection.filters,
        source,
        selection.property if source is ValueSource.PROPERTY else None,
    )


def _stretch(key: str, recipe: Recipe) -> Stretch:
    if recipe.kind is not Kind.RETENTION:
        until_us = FOREVER_US if recipe.window_s is None else recipe.window_s * SECOND_US
        return Stretch(recipe.window_from_s * SECOND_US, until_us, in_question=True)
    if recipe.first_day is None or recipe.last_day is None:
        raise ValueError(f"{key}: first_day, last_day: retention needs both")
    return Stretch(recipe.first_day * DAY_US, (recipe.last_day + 1) * DAY_US, in_question=True)


def _covariate(key: str, recipe: Recipe) -> Stretch | None:
    if recipe.covariate_days is None:
        return None
    if recipe.kind not in {Kind.CONVERSION, Kind.COUNT, Kind.SUM}:
        raise ValueError(f"{key}: covariate_days: a {recipe.kind} has no number before the exposure; leave it out")
    return Stretch(-recipe.covariate_days * DAY_US, 0, in_question=False)


def _quantile(key: str, recipe: Recipe) -> Fraction:
    if recipe.quantile is None:
        raise ValueError(f"{key}: quantile: which one is needed")
    if recipe.selections[0].source is ValueSource.ONE:
        raise ValueError(f"{key}: value: ones have no quantiles; take the event's value or a property")
    return Fraction(*_ratio(recipe.quantile))


def _ratio(level: float) -> tuple[int, int]:
    """Return the level as it is written in decimals: 0.95 is 19/20, not the double beside it."""
    return Fraction(repr(float(level))).as_integer_ratio()


_SHAPES = {
    Kind.CONVERSION: Shape.FIRST,
    Kind.COUNT: Shape.AMOUNTS,
    Kind.SUM: Shape.AMOUNTS,
    Kind.MEAN: Shape.AMOUNTS,
    Kind.RATIO: Shape.AMOUNTS,
    Kind.QUANTILE: Shape.VALUES,
    Kind.RETENTION: Shape.FIRST,
    Kind.FUNNEL: Shape.CHAIN,
    Kind.TIME_TO_FIRST: Shape.DELAY,
}
