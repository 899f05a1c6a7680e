"""What a metric is: a recipe over counted events. Plain values, no I/O.

An event counts for a user from the first exposure on, within the recipe's window, in `[start, end)` of the question.
Every kind gives each exposed user a numerator, and the ratio-like ones a denominator; what is tested are means or
ratios of these over users, never over events.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """How a user's counted events become the user's value."""

    CONVERSION = "conversion"  # 1 with at least one event, else 0.
    COUNT = "count"  # How many events.
    SUM = "sum"  # Sum of the events' values.
    MEAN = "mean"  # Ratio over users: sum of values / events that carry a value.
    RATIO = "ratio"  # Ratio over users: what the numerator selects / what the denominator selects.
    QUANTILE = "quantile"  # Of the values of all events of an arm; users are the clusters.
    RETENTION = "retention"  # 1 with an event in days `first_day` to `last_day` after the exposure, else 0.
    FUNNEL = "funnel"  # 1 if all steps were done in their order, else 0.
    TIME_TO_FIRST = "time_to_first"  # Ratio over users: seconds to the first event / users who have one.


class Direction(StrEnum):
    """Which way is good."""

    UP = "up"
    DOWN = "down"


class Role(StrEnum):
    """What a metric is for in an experiment."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    GUARDRAIL = "guardrail"


class Operator(StrEnum):
    """How a property is compared. A property that is missing or of another type satisfies none but `not_exists`."""

    EQ = "eq"
    NE = "ne"
    IN = "in"
    GT = "gt"
    GTE = "gte"
    LT = "lt"
    LTE = "lte"
    EXISTS = "exists"
    NOT_EXISTS = "not_exists"


class ValueSource(StrEnum):
    """Where an event's number comes from."""

    VALUE = "value"  # The event's own value.
    PROPERTY = "property"  # A number under `property` in its properties.
    ONE = "one"  # 1 for each event.


@dataclass(frozen=True, slots=True)
class PropertyFilter:
    """Keeps events whose top-level property `name` compares so with `value`.

    Strings compare with strings, booleans with booleans and numbers with numbers. `gt` to `lte` take numbers, `in` a
    tuple of strings or numbers, `exists` and `not_exists` none.
    """

    name: str
    operator: Operator
    value: str | float | bool | tuple[str | float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events, and which number of each. No event types: all types."""

    event_types: tuple[str, ...]
    filters: tuple[PropertyFilter, ...] = ()
    source: ValueSource = ValueSource.VALUE
    # Of `ValueSource.PROPERTY`.
    property: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a metric is computed. Which fields a kind needs is checked where a recipe comes in."""

    kind: Kind
    # One, of a ratio the numerator; of a funnel its steps in order. Neighbouring steps differ in their event types.
    selections: tuple[Selection, ...]
    # Of a ratio alone.
    denominator: Selection | None = None
    # Events count from the exposure plus `window_from_s` until before it plus `window_s`; `None`: for ever.
    window_from_s: int = 0
    window_s: int | None = None
    # No user's total (numerator) counts for more than this; its negative bounds totals from below.
    cap: float | None = None
    # Totals above this quantile of all exposed users' totals, over all arms together, count as that quantile.
    winsorize: float | None = None
    # Of a quantile: 0.95 is the 95th percentile.
    quantile: float | None = None
    # Of retention: whole days of 24 hours after the exposure, the last one included.
    first_day: int | None = None
    last_day: int | None = None
    # CUPED: the same number from the events in so many days before the exposure; `None`: not adjusted.
    covariate_days: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One version of a stored metric. A change makes a new version; older ones stay as they were."""

    id: int
    project_id: int
    key: str
    version: int
    name: str
    description: str | None
    recipe: Recipe
    direction: Direction
    unit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """A metric as a caller describes it."""

    key: str
    name: str
    description: str | None
    recipe: Recipe
    direction: Direction
    unit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMetric:
    """One version of a stored metric, and where it stands among the others."""

    metric: Metric
    latest_version: int
    # Of the first version, and of this one.
    created_at: datetime
    changed_at: datetime
    # Of the metric with all its versions; `None`: it can be attached.
    archived_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedMetric:
    """A metric as an experiment uses it: a fixed version with a role."""

    metric: Metric
    role: Role
    # Of guardrails: the largest relative loss that is acceptable; 0.02 is 2 % of the control's value.
    margin: float | None = None
    # Attached after the start: never part of what was promised.
    exploratory: bool = False
    position: int = field(default=0)
