"""What is asked of stored metrics, and what the stores saw of them. Plain values, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any, Protocol

# Ten years. A longer series is refused, because each day costs memory for every metric and arm.
MOST_DAYS = 3660


@dataclass(frozen=True, slots=True)
class Days:
    """The UTC days of a series. What came before the first one counts in it, what came after the last one in that."""

    first: date
    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MOST_DAYS:
            raise ValueError(f"days: a series has 1 to {MOST_DAYS} days, not {self.number}; begin it later")

    def __getitem__(self, index: int) -> date:
        return self.first + timedelta(days=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which events are looked at. Time is `[start, end)`; covariates look at what is before the exposure, always."""

    project_id: int
    experiment_id: int
    start: datetime | None = None
    end: datetime | None = None
    # `None`: totals alone.
    days: Days | None = None


class Table(Protocol):
    """Rows that travel with a query to ClickHouse, as `SentRows` of its client; nothing here does I/O."""

    @property
    def structure(self) -> str: ...
    @property
    def lines(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class Exposed:
    """The beginning of a statement that says who is exposed.

    `sql` is `WITH ..., exposed AS (...)`, complete; `exposed` has a row for each user: `user_id`, `variant_id`,
    `exposed_at` and, in PostgreSQL, `unit`, a number of the user's own. `tables` travel along to ClickHouse.
    """

    sql: str
    parameters: Mapping[str, Any]
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact sums over an arm's exposed users, one numerator and one denominator each; who has no event adds 0.

    The covariate's are 0 for recipes without one, the denominator's for kinds without one.
    """

    # Exposed users, and those of them whose numerator is not 0.
    n: int = 0
    users: int = 0
    numerator: Fraction = Fraction(0)
    numerator_squares: Fraction = Fraction(0)
    denominator: Fraction = Fraction(0)
    denominator_squares: Fraction = Fraction(0)
    products: Fraction = Fraction(0)
    covariate: Fraction = Fraction(0)
    covariate_squares: Fraction = Fraction(0)
    covariate_products: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class DailySums:
    """The sums at the end of a day: of users exposed by then, with their totals up to then."""

    day: date
    sums: Sums


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCounts:
    """The values of an arm's users as clusters: how many each has, and how many of them are at most the quantile.

    Sums over users of `below` and `values`, their squares and products.
    """

    users: int
    values: int
    below: int
    below_squares: int
    value_squares: int
    products: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileSeen:
    """An arm's quantile: the two order statistics around it and its place between them, and the values by user.

    `lower` and `upper` are the order statistics that bound the quantile at the level asked; `None` where the ranks
    lie outside the values.
    """

    low: float
    high: float
    fraction: Fraction
    counts: ClusterCounts
    lower: float | None = None
    upper: float | None = None

    @property
    def value(self) -> Fraction:
        return Fraction(self.low) + (Fraction(self.high) - Fraction(self.low)) * self.fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmMeasured:
    """What a store saw of one metric in one arm."""

    sums: Sums = Sums()
    # Counted events: of a ratio the numerator's, of a funnel those of any step.
    events: int = 0
    # Of a funnel: the users who got as far as each step.
    reached: tuple[int, ...] = ()
    # `None` for other kinds, and where there are no values.
    quantile: QuantileSeen | None = None
    # One entry for each day asked for; none for quantiles.
    daily: tuple[DailySums, ...] = ()
    # What values of the numerator, the denominator and the covariate were rounded to multiples of; `None`: they are
    # exact.
    unit: Fraction | None = None
    denominator_unit: Fraction | None = None
    covariate_unit: Fraction | None = None
    # By how many bits these are finer than units that suit the largest value.
    finer: int = 0
    denominator_finer: int = 0
    covariate_finer: int = 0
    # The arms whose largest value that is; none: all of them.
    among: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """What a store saw, by metric and variant id. A variant that nobody is in may be missing."""

    metrics: Mapping[str, Mapping[int, ArmMeasured]]

    def of(self, key: str, variant_id: int) -> ArmMeasured:
        return self.metrics[key].get(variant_id, _NOTHING)

    def with_later(self, later: "Measured") -> "Measured":
        """Return the same, but of the metrics and arms that were measured once more what was seen then."""
        return Measured({key: {**arms, **later.metrics.get(key, {})} for key, arms in self.metrics.items()})


_NOTHING = ArmMeasured()
