"""What stored metrics are, once more and as plainly as possible: loops over users and events in memory.

Nothing here knows of units: values are fractions, so histories have to be such that their sums are exact.
"""

import json
import operator as operator_module
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

from app.measurement.values import ArmMeasured, Asked, ClusterCounts, DailySums, Measured, QuantileSeen, Sums
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource
from tests.integration.measurement.stored import Happened, Stored
from tests.integration.results.world import Assigned

_DAY = timedelta(days=1)
_ALWAYS = timedelta(days=40_000)


def measured(stored: Stored, recipes: Mapping[str, Recipe], asked: Asked) -> Measured:
    """Measure all recipes; quantiles without their bounds."""
    return Measured({key: _Measuring(stored, recipe, asked).arms() for key, recipe in recipes.items()})


class _Measuring:
    def __init__(self, stored: Stored, recipe: Recipe, asked: Asked) -> None:
        self._stored = stored
        self._recipe = recipe
        self._asked = asked
        self._exposed = [row for row in stored.assignments if asked.end is None or row.at < asked.end]
        self._cut = _cut([self._total(user, self._counted(user)) for user in self._exposed], recipe)
        self._covariate_cut = _cut([self._raw_covariate(user) for user in self._exposed], recipe)

    def arms(self) -> dict[int, ArmMeasured]:
        variants = {self._stored.experiment.variants[user.variant].id for user in self._exposed}
        return {variant_id: self._arm(variant_id) for variant_id in variants}

    def _arm(self, variant_id: int) -> ArmMeasured:
        users = [user for user in self._exposed if self._stored.experiment.variants[user.variant].id == variant_id]
        if self._recipe.kind is Kind.QUANTILE:
            values = [own for user in users if (own := self._values(user))]
            return ArmMeasured(
                sums=Sums(n=len(users)), events=sum(map(len, values)), quantile=_quantile(values, self._recipe)
            )
        reached: tuple[int, ...] = ()
        if self._recipe.kind is Kind.FUNNEL:
            chains = [_chain(self._recipe, self._counted(user)) for user in users]
            reached = tuple(sum(len(chain) > step for chain in chains) for step in range(len(self._recipe.selections)))
        return ArmMeasured(
            sums=self._sums(users, None),
            events=sum(self._events(user) for user in users),
            reached=reached,
            daily=tuple(DailySums(day, self._sums(users, day)) for day in self._days()),
        )

    def _days(self) -> Iterable[date]:
        days = self._asked.days
        return [] if days is None else [days.first + timedelta(days=index) for index in range(days.number)]

    def _until(self, day: date | None) -> datetime | None:
        """Return the end of a day; the last one has no end."""
        days = self._asked.days
        if day is None or days is None or day == days.first + timedelta(days=days.number - 1):
            return None
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + _DAY

    def _sums(self, users: Sequence[Assigned], day: date | None) -> Sums:
        until = self._until(day)
        rows = [
            (self._limited(self._total(user, events), self._cut), self._denominator(events), self._covariate(user))
            for user in users
            if until is None or user.at < until
            for events in [[event for event in self._counted(user) if until is None or event.ts < until]]
        ]
        return Sums(
            n=len(rows),
            users=sum(x != 0 for x, _, _ in rows),
            numerator=_sum(x for x, _, _ in rows),
            numerator_squares=_sum(x * x for x, _, _ in rows),
            denominator=_sum(y for _, y, _ in rows),
            denominator_squares=_sum(y * y for _, y, _ in rows),
            products=_sum(x * y for x, y, _ in rows),
            covariate=_sum(z for _, _, z in rows),
            covariate_squares=_sum(z * z for _, _, z in rows),
            covariate_products=_sum(x * z for x, _, z in rows),
        )

    def _sent(self, user: Assigned) -> Iterator[Happened]:
        return (row for row in self._stored.events if row.user_id == user.user_id and row.names != "another")

    def _counted(self, user: Assigned) -> list[Happened]:
        """Return the events of a user in the recipe's window and in the question's time, whatever they are."""
        asked, recipe = self._asked, self._recipe
        first, last = timedelta(seconds=recipe.window_from_s), _ALWAYS
        if recipe.window_s is not None:
            last = timedelta(seconds=recipe.window_s)
        if recipe.first_day is not None and recipe.last_day is not None:
            first, last = recipe.first_day * _DAY, (recipe.last_day + 1) * _DAY
        return [
            event
            for event in self._sent(user)
            if first <= event.ts - user.at < last
            and (asked.start is None or event.ts >= asked.start)
            and (asked.end is None or event.ts < asked.end)
        ]

    def _total(self, user: Assigned, events: Sequence[Happened]) -> Fraction:
        recipe, selection = self._recipe, self._recipe.selections[0]
        chosen = [event for event in events if selects(selection, event)]
        match recipe.kind:
            case Kind.CONVERSION | Kind.RETENTION:
                return Fraction(bool(chosen))
            case Kind.COUNT:
                return Fraction(len(chosen))
            case Kind.FUNNEL:
                return Fraction(len(_chain(recipe, events)) == len(recipe.selections))
            case Kind.TIME_TO_FIRST:
                delays = [event.ts - user.at for event in chosen]
                return Fraction(min(delays) // timedelta(microseconds=1), 10**6) if delays else Fraction(0)
            case Kind.SUM | Kind.MEAN | Kind.RATIO:
                return _sum(_numbers(selection, events))
            case Kind.QUANTILE:
                return Fraction(0)

    def _denominator(self, events: Sequence[Happened]) -> Fraction:
        recipe, selection = self._recipe, self._recipe.selections[0]
        if recipe.kind is Kind.MEAN:
            return Fraction(len(_numbers(selection, events)))
        if recipe.kind is Kind.RATIO and recipe.denominator is not None:
            return _sum(_numbers(recipe.denominator, events))
        if recipe.kind is Kind.TIME_TO_FIRST:
            return Fraction(any(selects(selection, event) for event in events))
        return Fraction(0)

    def _events(self, user: Assigned) -> int:
        recipe, events = self._recipe, self._counted(user)
        if recipe.kind in {Kind.SUM, Kind.MEAN, Kind.RATIO}:
            return len(_numbers(recipe.selections[0], events))
        return sum(selects(selection, event) for event in events for selection in recipe.selections)

    def _raw_covariate(self, user: Assigned) -> Fraction:
        if self._recipe.covariate_days is None:
            return Fraction(0)
        since = user.at - self._recipe.covariate_days * _DAY
        return self._total(user, [event for event in self._sent(user) if since <= event.ts < user.at])

    def _covariate(self, user: Assigned) -> Fraction:
        return self._limited(self._raw_covariate(user), self._covariate_cut)

    def _limited(self, total: Fraction, cut: Fraction | None) -> Fraction:
        if cut is not None:
            total = min(total, cut)
        if self._recipe.cap is not None:
            cap = Fraction(self._recipe.cap)
            total = max(-cap, min(total, cap))
        return total

    def _values(self, user: Assigned) -> list[Fraction]:
        return _numbers(self._recipe.selections[0], self._counted(user))


def _sum(numbers: Iterable[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0))


def _cut(totals: Sequence[Fraction], recipe: Recipe) -> Fraction | None:
    """Return the smallest total that at least this share of the totals does not exceed, and not less than 0."""
    if recipe.winsorize is None or not totals:
        return None
    level = Fraction(str(recipe.winsorize))
    fitting = [total for total in totals if sum(other <= total for other in totals) >= level * len(totals)]
    return max(min(fitting), Fraction(0))


def _chain(recipe: Recipe, events: Sequence[Happened]) -> list[datetime]:
    done: list[datetime] = []
    for step in recipe.selections:
        fitting = [event.ts for event in events if selects(step, event) and (not done or event.ts >= done[-1])]
        if not fitting:
            break
        done.append(min(fitting))
    return done


def _numbers(selection: Selection, events: Iterable[Happened]) -> list[Fraction]:
    found = (_number(selection, event) for event in events if selects(selection, event))
    return [number for number in found if number is not None]


def _number(selection: Selection, event: Happened) -> Fraction | None:
    if selection.source is ValueSource.ONE:
        return Fraction(1)
    if selection.source is ValueSource.VALUE:
        return None if event.value is None else Fraction(event.value)
    number = _as_number(_properties(event).get(selection.property or ""))
    return None if number is None else Fraction(number)


def selects(selection: Selection, event: Happened) -> bool:
    """Tell whether an event is of the selection's types and meets its filters."""
    of_type = not selection.event_types or event.event_type in selection.event_types
    return of_type and all(_meets(wanted, _properties(event)) for wanted in selection.filters)


_COMPARISONS: Mapping[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: operator_module.eq,
    Operator.IN: operator_module.eq,
    Operator.NE: operator_module.ne,
    Operator.GT: operator_module.gt,
    Operator.GTE: operator_module.ge,
    Operator.LT: operator_module.lt,
    Operator.LTE: operator_module.le,
}


def _properties(event: Happened) -> dict[str, Any]:
    return dict(json.loads(event.properties)) if event.properties is not None else {}


def _as_number(found: object) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    number = float(found)
    return number if number == 0 or 1e-300 <= abs(number) <= 1e300 else None


def _meets(wanted: PropertyFilter, properties: Mapping[str, Any]) -> bool:
    found = properties.get(wanted.name)
    if wanted.operator in {Operator.EXISTS, Operator.NOT_EXISTS}:
        return (found is not None) == (wanted.operator is Operator.EXISTS)
    values = wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)
    return any(_compares(wanted.operator, found, value) for value in values)


def _compares(operator: Operator, found: object, value: object) -> bool:
    left: Any = found if isinstance(found, str | bool) else _as_number(found)
    right: Any = value if isinstance(value, str | bool) else _as_number(value)
    if left is None or right is None or type(left) is not type(right):
        return False
    return _COMPARISONS[operator](left, right)


def _quantile(users: Sequence[list[Fraction]], recipe: Recipe) -> QuantileSeen | None:
    ordered = sorted(value for own in users for value in own)
    if not ordered:
        return None
    rank = Fraction(str(recipe.quantile)) * (len(ordered) - 1)
    place = int(rank)
    low, high = ordered[place], ordered[min(place + 1, len(ordered) - 1)]
    below = [sum(value <= low for value in own) for own in users]
    counts = ClusterCounts(
        users=len(users),
        values=len(ordered),
        below=sum(below),
        below_squares=sum(count * count for count in below),
        value_squares=sum(len(own) ** 2 for own in users),
        products=sum(count * len(own) for count, own in zip(below, users, strict=True)),
    )
    return QuantileSeen(low=float(low), high=float(high), fraction=rank - place, counts=counts)
