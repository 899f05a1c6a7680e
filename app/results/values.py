"""The question that a caller asks of an experiment, what both stores observe for it, and the answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Self

from app.experiments.population import EVERYBODY, ExposureRule, Population
from app.experiments.values import Experiment
from app.measurement.values import ArmMeasured
from app.metrics.values import Recipe


class Metric(StrEnum):
    """A built-in recipe over counted events."""

    CONVERSION_RATE = "conversion_rate"
    UNIQUE_USERS = "unique_users"
    EVENT_COUNT = "event_count"
    AVG_VALUE = "avg_value"
    VALUE_PER_USER = "value_per_user"
    P95_VALUE = "p95_value"


class Granularity(StrEnum):
    """The length of a bucket of the time series."""

    REALTIME = "realtime"
    HOUR = "hour"
    DAY = "day"

    @property
    def width(self) -> timedelta:
        return _WIDTHS[self]


_WIDTHS = {
    Granularity.REALTIME: timedelta(minutes=1),
    Granularity.HOUR: timedelta(hours=1),
    Granularity.DAY: timedelta(days=1),
}


class CohortWidth(StrEnum):
    """From how long a time, in UTC, the users of a cohort come; weeks are those of ISO 8601, from Monday on."""

    DAY = "day"
    WEEK = "week"

    @property
    def width(self) -> timedelta:
        return _COHORT_WIDTHS[self]


_COHORT_WIDTHS = {CohortWidth.DAY: timedelta(days=1), CohortWidth.WEEK: timedelta(days=7)}


class SourceChoice(StrEnum):
    """Which store the caller wants to hear."""

    AUTO = "auto"
    HOT = "hot"
    COLD = "cold"


class Source(StrEnum):
    """Which store answered: PostgreSQL, ClickHouse, or each for its side of the watermark."""

    HOT = "hot"
    COLD = "cold"
    BOTH = "both"


_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
# Numbers of other sizes are not looked for, so that no store meets one beyond its range.
_SMALLEST_NUMBER, _LARGEST_NUMBER = 1e-300, 1e300

DEFAULT_METRICS = (Metric.CONVERSION_RATE, Metric.UNIQUE_USERS)
METRICS_OF_SUMS = frozenset({Metric.AVG_VALUE, Metric.VALUE_PER_USER})


@dataclass(frozen=True, slots=True)
class ContextFilter:
    """Keeps exposed users whose stored context has this value under this name."""

    name: str
    value: str

    @property
    def number(self) -> float | None:
        """Return the value as the number that it may be in the stored context, `None` if it is not one."""
        if not _JSON_NUMBER.fullmatch(self.value):
            return None
        number = float(self.value)
        return number if _SMALLEST_NUMBER <= abs(number) <= _LARGEST_NUMBER or number == 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a caller wants to know. Time is `[start, end)`; no event type means all of them together."""

    event_types: tuple[str, ...] = ()
    start: datetime | None = None
    end: datetime | None = None
    granularity: Granularity = Granularity.DAY
    # Built-in names and keys of stored metrics; none: those of the experiment's plan, see `chosen`.
    metrics: tuple[str, ...] = DEFAULT_METRICS
    include_ci: bool = True
    confidence_level: float = 95.0
    min_sample: int = 100
    include_overrides: bool = False
    source: SourceChoice = SourceChoice.AUTO
    fresh: bool = False
    context: tuple[ContextFilter, ...] = ()
    # A name in the stored context: observe the users of each of its values as well.
    breakdown: str | None = None
    # Observe the users who were exposed first on each day, or in each week, as well.
    cohorts: CohortWidth | None = None
    # Without the time series the answer is a summary, cheaper to make and cached more briefly.
    with_series: bool = True
    # Whether built-in metrics are measured day by day; `None`: where stored ones are, too.
    effect_over_time: bool | None = None
    # Adjust built-in metrics by the same number from so many days before the exposure.
    cuped_days: int | None = None

    def __post_init__(self) -> None:
        # A cell of a variant and a part of the users has one number for the part.
        if self.breakdown is not None and self.cohorts is not None:
            raise ValueError("users are divided by an attribute or by when they came, not by both")

    @property
    def is_divided(self) -> bool:
        """Tell whether parts of the users are observed beside all of them."""
        return self.breakdown is not None or self.cohorts is not None

    @property
    def undivided(self) -> Self:
        """Return the question about all users alone."""
        return replace(self, breakdown=None, cohorts=None)

    @property
    def confidence(self) -> float:
        return self.confidence_level / 100

    @property
    def wants_sums(self) -> bool:
        return not METRICS_OF_SUMS.isdisjoint(self.metrics)

    @property
    def wants_p95(self) -> bool:
        return Metric.P95_VALUE in self.metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured by recipes beside what a question observes."""

    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    # So many days at most; 0: totals alone. A longer series begins later.
    most_days: int = 0


NOTHING_WANTED = Wanted()


@dataclass(frozen=True, slots=True)
class VariantName:
    """What an exposure event calls a variant."""

    id: int
    key: str


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose events are looked at, and who of them counts.

    variants: all of the experiment. Without them no user is known to have been in two.
    """

    project_id: int
    experiment_id: int
    variants: tuple[VariantName, ...] = ()
    population: Population = EVERYBODY

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        variants = tuple(VariantName(variant.id, variant.key) for variant in experiment.variants)
        return cls(experiment.project_id, experiment.id, variants, experiment.population)

    @property
    def exposed_by_events(self) -> bool:
        return self.population.exposure is ExposureRule.EVENT

    @property
    def finds_strayed(self) -> bool:
        """Tell whether an exposure event can name another variant than its user's."""
        return len(self.variants) > 1


class Exclusion(StrEnum):
    """Why a user who was exposed does not count. Who has several reasons is counted under the first of these."""

    # Another variant was forced upon the user, and overrides are not asked for.
    OVERRIDE = "OVERRIDE"
    # Listed in the population's `exclude_users`.
    EXCLUDED_USER = "EXCLUDED_USER"
    # The stored context has a value of the population's `exclude_context`.
    EXCLUDED_CONTEXT = "EXCLUDED_CONTEXT"
    # An exposure event that names the experiment says that the user was shown another variant than the stored one.
    TWO_VARIANTS = "TWO_VARIANTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSums:
    """Exact sums over an arm's exposed users of each one's total value and number of valued events.

    Who has none adds 0 everywhere. unit: what values were rounded to multiples of, which suits the largest value of all
    arms; it tells how they were added and not what they are, so it is no part of equality.
    """

    totals: Fraction = Fraction(0)
    total_squares: Fraction = Fraction(0)
    counts: int = 0
    count_squares: int = 0
    products: Fraction = Fraction(0)
    unit: Fraction = field(default=Fraction(0), compare=False)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The two order statistics between which a percentile lies, and where: 0 is at `low`, 1 at `high`."""

    low: float
    high: float
    fraction: Fraction


@dataclass(frozen=True, slots=True)
class Slot:
    """Counted events of one type in one bucket, and the distinct users they come from."""

    time: datetime
    event_type: str
    events: int
    users: int


@dataclass(frozen=True, slots=True)
class Entries:
    """Users whose exposure lies in one bucket."""

    time: datetime
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmObservations:
    """What a store saw of one variant. `..._by_plan` leave out users with an override in force.

    assigned_by_plan: who would count if the assignment itself were the exposure; more than `exposed_by_plan` only
    where exposure events decide. excluded: users who are in none of the other numbers, under their stored variant.
    """

    exposed: int = 0
    exposed_by_plan: int = 0
    assigned_by_plan: int = 0
    excluded: Mapping[Exclusion, int] = field(default_factory=dict)
    converters: int = 0
    events: int = 0
    sums: ValueSums = ValueSums()
    p95: Neighbours | None = None
    slots: tuple[Slot, ...] = ()
    entries: tuple[Entries, ...] = ()


@dataclass(frozen=True, slots=True)
class Observations:
    """What a store saw, by variant id. A variant that nobody is in may be missing.

    segments: those of the question's `breakdown`, the largest first, then the rest, then those without a value; or its
    `cohorts`, the newest first, then the rest.
    measured: what recipes found, by the metric's key and variant id.
    late_events: counted events that were ingested more than an hour after their time; `None` where events were
    counted ahead. It tells how the data came and not what they are, so it is no part of equality.
    """

    arms: Mapping[int, ArmObservations]
    segments: tuple["Segment", ...] = ()
    late_events: int | None = field(default=None, compare=False)
    measured: Mapping[str, Mapping[int, ArmMeasured]] = field(default_factory=dict)

    def of(self, variant_id: int) -> ArmObservations:
        return self.arms.get(variant_id, _NOTHING)


_NOTHING = ArmObservations()
# More values than a page can show are counted as one, and so are more cohorts.
MOST_SEGMENTS = 50


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of the exposed users, without a time series: those of one value in their stored context, or of one cohort.

    value: as text, as `context.<name>=<value>` finds it; `None` where there is none, or only an object or a list,
    of the rest, and of cohorts. is_rest: the users of all values beyond the `MOST_SEGMENTS` with the most users, or of
    all cohorts before the newest `MOST_SEGMENTS`. since: where a cohort begins; of the rest nobody says.
    """

    value: str | None
    is_rest: bool
    observations: Observations
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tail:
    """PostgreSQL's rows from the watermark on, as JSON lines; of the overrides all that are in force.

    sightings: exposure events with the id of the variant that they name, or 0. measured: the events that recipes look
    for, with their properties.
    """

    exposures: Sequence[bytes]
    overrides: Sequence[bytes]
    events: Sequence[bytes]
    sightings: Sequence[bytes] = ()
    measured: Sequence[bytes] = ()


# Transactions take their rows' ingestion times before they commit. Rows younger than this may still be joined by
# older ones, so what is computed from them is not kept.
_SETTLED_AFTER = timedelta(seconds=5)
# No answer is kept longer. Events that are older than that and a moment are in every answer that may be kept.
LONGEST_KEPT = timedelta(minutes=5)
FRESHNESS_LOOK_BACK = LONGEST_KEPT + 2 * _SETTLED_AFTER


@dataclass(frozen=True, slots=True)
class Freshness:
    """The newest row that can count in an experiment, and PostgreSQL's clock.

    Equal freshness, once settled, means equal data for as long as an answer is kept. `newest` is `None`, or the time
    of an assignment, where no event has come for longer than that.
    """

    newest: datetime | None
    override_epoch: int | None
    now: datetime

    @property
    def settled(self) -> bool:
        return self.newest is None or self.now - self.newest > _SETTLED_AFTER

    @property
    def counts_until(self) -> datetime:
        """No row that can count is newer."""
        looked_from = self.now - FRESHNESS_LOOK_BACK
        return looked_from if self.newest is None else max(self.newest, looked_from)
