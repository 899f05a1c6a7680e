"""From what either store counted to measured metrics. Plain values, no I/O.

Both stores count changes by day: how much the sums over an arm's users grew on a day. What a sum was at the end of a
day is the sum of its changes until then, and the whole is what it was in the end.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from app.measurement.plan import Measure, Plan, Shape
from app.measurement.values import ArmMeasured, Asked, DailySums, Measured, QuantileSeen, Sums

# A day's number within the series, and how much a sum of units grew on it.
Changes = Mapping[int, int]

# The changes that are counted on the day of an event; the covariate's are counted on the day of the exposure.
OF_EVENTS = ("users", "x", "xx", "y", "yy", "xy", "xz")
OF_ENTRIES = ("z", "zz")

# The exponent that both stores choose where the largest value is 0, or below what a double can keep in full.
_OF_NOTHING = 1084


@dataclass
class Tally:
    """What a store counted for one metric in one arm, in units."""

    changes: dict[str, Changes] = field(default_factory=dict)
    events: int = 0
    # By step, from 0; of a funnel alone.
    reached: dict[int, int] = field(default_factory=dict)
    quantile: QuantileSeen | None = None


@dataclass
class Tallies:
    """What a store counted: users by arm and day of exposure, tallies by metric and arm, exponents by metric and side.

    Units that the store chose are 2 to the power of minus the exponent.
    """

    entries: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))
    tallies: dict[tuple[int, int], Tally] = field(default_factory=lambda: defaultdict(Tally))
    exponents: dict[tuple[int, str], int] = field(default_factory=dict)


def changes_of(values: Sequence[int]) -> Changes:
    """Keep what is not 0."""
    return {day: int(value) for day, value in enumerate(values) if value}


def measured(plan: Plan, asked: Asked, seen: Tallies) -> Measured:
    """Add everything up."""
    return Measured(
        {
            measure.key: {
                variant_id: _arm(plan, measure, asked, seen, variant_id, entries)
                for variant_id, entries in seen.entries.items()
            }
            for measure in plan.measures
        }
    )


def _arm(plan: Plan, measure: Measure, asked: Asked, seen: Tallies, variant_id: int, entries: Changes) -> ArmMeasured:
    tally = seen.tallies[measure.index, variant_id]
    if measure.shape is Shape.VALUES:
        users = Sums(n=sum(entries.values()))
        events = 0 if tally.quantile is None else tally.quantile.counts.values
        return ArmMeasured(sums=users, events=events, quantile=tally.quantile)
    units = _units(measure, seen.exponents)
    days = range(asked.days.number) if asked.days is not None else range(1)
    ends = list(_cumulative(days, entries, tally.changes))
    sums = [_sums(end, units) for end in ends]
    return ArmMeasured(
        sums=sums[-1],
        events=tally.events,
        reached=_reached(measure, tally.reached),
        daily=() if asked.days is None else tuple(map(DailySums, map(asked.days.__getitem__, days), sums)),
        unit=_chosen(measure, seen.exponents, "x"),
        denominator_unit=_chosen(measure, seen.exponents, "y"),
        covariate_unit=_chosen(measure, seen.exponents, "z"),
        finer=measure.finer_by("x"),
        denominator_finer=measure.finer_by("y"),
        covariate_finer=measure.finer_by("z"),
        among=plan.arms,
    )


def _chosen(measure: Measure, exponents: Mapping[tuple[int, str], int], side: str) -> Fraction | None:
    """Return the unit that the store chose for a side, `None` where it chose none or no value is other than 0."""
    of_nothing = _OF_NOTHING + measure.finer_by(side)
    exponent = exponents.get((measure.index, side), of_nothing)
    return None if side not in measure.scaled or exponent == of_nothing else Fraction(2) ** -exponent


def _reached(measure: Measure, reached: Mapping[int, int]) -> tuple[int, ...]:
    if measure.shape is not Shape.CHAIN:
        return ()
    return tuple(reached.get(step, 0) for step in range(len(measure.tracks)))


def _cumulative(days: Iterable[int], entries: Changes, changes: Mapping[str, Changes]) -> Iterable[Mapping[str, int]]:
    names = (*OF_EVENTS, *OF_ENTRIES)
    end = dict.fromkeys(("n", *names), 0)
    for day in days:
        end["n"] += entries.get(day, 0)
        for name in names:
            end[name] += changes.get(name, {}).get(day, 0)
        yield dict(end)


def _units(measure: Measure, exponents: Mapping[tuple[int, str], int]) -> tuple[Fraction, Fraction, Fraction]:
    """Return what a unit of the numerator, the denominator and the covariate is."""

    def of(side: str, known: Fraction) -> Fraction:
        return Fraction(2) ** -exponents.get((measure.index, side), 0) if side in measure.scaled else known

    whole = measure.unit or Fraction(1)
    return of("x", whole), of("y", Fraction(1)), of("z", whole)


def _sums(end: Mapping[str, int], units: tuple[Fraction, Fraction, Fraction]) -> Sums:
    x, y, z = units
    return Sums(
        n=end["n"],
        users=end["users"],
        numerator=end["x"] * x,
        numerator_squares=end["xx"] * x * x,
        denominator=end["y"] * y,
        denominator_squares=end["yy"] * y * y,
        products=end["xy"] * x * y,
        covariate=end["z"] * z,
        covariate_squares=end["zz"] * z * z,
        covariate_products=end["xz"] * x * z,
    )


def with_bounds(seen: Measured, bounds: Mapping[tuple[str, int], tuple[float | None, float | None]]) -> Measured:
    """Put the order statistics that bound the quantiles beside them, by metric and variant id."""
    return Measured(
        {
            key: {variant_id: _bounded(arm, bounds.get((key, variant_id))) for variant_id, arm in arms.items()}
            for key, arms in seen.metrics.items()
        }
    )


def _bounded(arm: ArmMeasured, bounds: tuple[float | None, float | None] | None) -> ArmMeasured:
    if arm.quantile is None or bounds is None:
        return arm
    return replace(arm, quantile=replace(arm.quantile, lower=bounds[0], upper=bounds[1]))
