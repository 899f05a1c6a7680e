"""What a diagnosis looks at. Users and samples are in the order of `Facts.arms`, the control first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from app.diagnosis.values import Unchecked
from app.experiments.lifecycle import Status
from app.metrics.values import Kind, Role
from app.stats.distributions import Distribution
from app.stats.samples import MeanSample, Sample

# Of a metric's users with a number. A quantile of fewer is one of them.
FEWEST_FOR_TAILS = 200


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant, with the share of users that the plan gives it."""

    key: str
    weight: Decimal


@dataclass(frozen=True, slots=True)
class DayOfUsers:
    """The users exposed on a day, by arm."""

    day: date
    users: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ValueOfUsers:
    """The exposed users whose context has a value under a name, by arm."""

    name: str
    value: str
    users: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrances:
    """How users came in: those of an import, those assigned before the start, and those who are both."""

    assigned: int = 0
    imported: int = 0
    before_start: int = 0
    imported_before_start: int = 0
    earliest: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that somebody changed after the start, or a series of such, from `at` to `last_at`.

    before, after: the users exposed before `at` and from then on, by arm; `None` where these are not counted.
    """

    at: datetime
    last_at: datetime
    actor: str
    # In a series, each that occurs in it once.
    actions: tuple[str, ...]
    fields: tuple[str, ...] = ()
    before: tuple[int, ...] | None = None
    after: tuple[int, ...] | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Prior:
    """A number of each user from before the exposure, by arm."""

    name: str
    days: int
    samples: tuple[MeanSample, ...]


@dataclass(frozen=True, slots=True)
class Around:
    """Events of exposed users in the day before their exposure and in the day after it."""

    before: int
    after: int


class Missing(StrEnum):
    """Why a metric has no events."""

    NEVER_SENT = "NEVER_SENT"  # No event of its types, since the day before the first assignment.
    OTHER_USERS = "OTHER_USERS"  # They came from users who are not exposed.
    BEFORE_EXPOSURE = "BEFORE_EXPOSURE"  # All came before the users' exposure.
    OUTSIDE_WINDOW = "OUTSIDE_WINDOW"  # None lies in the metric's window.
    FILTERED = "FILTERED"  # The metric's filters let none through.
    WITHOUT_NUMBER = "WITHOUT_NUMBER"  # None carries the number that is asked for.
    NOT_IN_ORDER = "NOT_IN_ORDER"  # Of a funnel: the step was never taken after the one before it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of the events of an empty metric's types; each is counted once, under the first that holds."""

    event_types: tuple[str, ...]
    of_others: int = 0
    early: int = 0
    outside: int = 0
    filtered: int = 0
    without_number: int = 0
    usable: int = 0

    @property
    def total(self) -> int:
        return self.of_others + self.early + self.outside + self.filtered + self.without_number + self.usable


@dataclass(frozen=True, slots=True, kw_only=True)
class Tails:
    """Sums of squares over all users, as they are and with the top users cut at a value.

    users: those with a number; the value is the 99th percentile of theirs.
    """

    users: int
    squares: float
    squares_cut: float
    variance: float
    variance_cut: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Users' numbers in the first days after their exposure, in as many days after these, and in both together."""

    days: int
    first: tuple[MeanSample, ...]
    later: tuple[MeanSample, ...]
    both: tuple[MeanSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """One metric of the experiment."""

    key: str
    kind: Kind
    role: Role
    events: int
    # None: a kind that is not tested by its sums.
    samples: tuple[Sample, ...] | None
    # Of empty metrics alone.
    sent: Sent | None = None
    # Of sums and counts with enough users alone.
    tails: Tails | None = None

    @property
    def distribution(self) -> Distribution:
        is_mean = self.samples is not None and all(isinstance(sample, MeanSample) for sample in self.samples)
        return Distribution.WELCH_T if is_mean else Distribution.NORMAL


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How the newest events came: how many, more than an hour late, and ahead of the server's clock; and when last."""

    events: int
    late: int
    ahead: int
    newest: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a diagnosis looks at. What could not be found out is `Unchecked`."""

    now: datetime
    status: Status
    started_at: datetime | None
    arms: tuple[Arm, ...]
    days: Sequence[DayOfUsers] | Unchecked
    attributes: Sequence[ValueOfUsers] | Unchecked
    entrances: Entrances
    two_variants: int | Unchecked
    changes: Sequence[Change]
    priors: Sequence[Prior] | Unchecked
    around: Around | Unchecked
    metrics: Sequence[MetricFacts] | Unchecked
    phases: Mapping[str, Phases] | Unchecked
    arrivals: Arrivals
    # Up to when ClickHouse is complete.
    history_until: datetime | Unchecked
    planned_sample: int | None = None
    # Whether the audit log, from which the changes are, has at least the start.
    start_noted: bool = True
    # How many newer changes are not among these.
    more_changes: int = 0

    @property
    def users(self) -> tuple[int, ...] | Unchecked:
        """Return the exposed users by arm."""
        if isinstance(self.days, Unchecked):
            return self.days
        return tuple(sum(day.users[arm] for day in self.days) for arm in range(len(self.arms)))
