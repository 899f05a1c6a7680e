"""Requests and answers about metrics."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
)

from app.core.errors import FieldProblem, Invalid
from app.core.names import Key, Name
from app.core.text import refuse_blank, refuse_control_characters, refuse_control_characters_but_line_breaks
from app.metrics.builtin import ATTACHED, BUILT_IN_KEYS
from app.metrics.documents import VALUED_KINDS, recipe_document
from app.metrics.examples import ANSWER, EXAMPLES
from app.metrics.recipe_schemas import (
    NOT_BOTH,
    DaysIn,
    EventType,
    EventTypes,
    FilterIn,
    Filters,
    Positive,
    SelectionIn,
    Share,
    Source,
    StepIn,
    Steps,
    UpperShare,
    WholeNumber,
    Window,
    WindowIn,
)
from app.metrics.values import Direction, Kind, Metric, MetricSpec, Operator, Recipe, StoredMetric, ValueSource

MAX_COVARIATE_DAYS = 365

Description = Annotated[
    str, StringConstraints(max_length=10_000), AfterValidator(refuse_control_characters_but_line_breaks)
]
Unit = Annotated[
    str,
    StringConstraints(min_length=1, max_length=20),
    AfterValidator(refuse_control_characters),
    AfterValidator(refuse_blank),
]

CovariateDays = Annotated[WholeNumber, Field(ge=1, le=MAX_COVARIATE_DAYS)]


def _not_built_in(key: str) -> str:
    if key in BUILT_IN_KEYS:
        raise ValueError(f"{key} is a metric that is there already and needs no set-up; choose another key")
    if key == ATTACHED:
        raise ValueError(f"{key} stands for all metrics of an experiment when results are asked; choose another key")
    return key


_EVENTS = frozenset({"event_types", "event_type", "filters"})
_TAMED = frozenset({"cap", "winsorize"})
# Which fields make sense for a kind, beside those that all have.
_USED: Mapping[Kind, frozenset[str]] = {
    Kind.CONVERSION: _EVENTS | {"window", "covariate_days"},
    Kind.COUNT: _EVENTS | _TAMED | {"window", "covariate_days"},
    Kind.SUM: _EVENTS | _TAMED | {"value", "window", "covariate_days"},
    Kind.MEAN: _EVENTS | _TAMED | {"value", "window"},
    Kind.RATIO: _EVENTS | _TAMED | {"value", "denominator", "window"},
    Kind.QUANTILE: _EVENTS | {"value", "window", "quantile"},
    Kind.RETENTION: _EVENTS | {"days"},
    Kind.FUNNEL: frozenset({"steps", "window"}),
    Kind.TIME_TO_FIRST: _EVENTS | {"window"},
}
# What a kind is nothing without, and how to say it.
_NEEDED: Mapping[Kind, tuple[str, str]] = {
    Kind.RATIO: (
        "denominator",
        'is needed for kind ratio: what to divide by, as {"event_type": "view", "value": "one"}',
    ),
    Kind.QUANTILE: ("quantile", "is needed for kind quantile: 0.95 is the 95th percentile"),
    Kind.RETENTION: ("days", 'is needed for kind retention: {"first": 7, "last": 13} is the second week'),
    Kind.FUNNEL: ("steps", "is needed for kind funnel: 2 to 10 steps in their order"),
}
_RECIPE_FIELDS = frozenset().union(*_USED.values())


class MetricIn(SelectionIn):
    """A metric to make: a recipe over the events of exposed users.

    Each kind takes the fields that it uses and refuses the others.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": list(EXAMPLES)})

    key: Annotated[Key, AfterValidator(_not_built_in)]
    name: Name | None = Field(default=None, description="Left out: the key.")
    description: Description | None = None
    kind: Kind
    denominator: SelectionIn | None = Field(default=None, description="Of a ratio; its `value` is `one` if left out.")
    steps: Steps | None = Field(default=None, description="Of a funnel, in their order.")
    window: Window | None = Field(
        default=None, description='After the exposure; `"7d"` is short for `{"seconds": "7d"}`. Left out: for ever.'
    )
    cap: Positive | None = Field(
        default=None, description="No user's total counts for more, nor for less than its negative."
    )
    winsorize: UpperShare | None = Field(
        default=None, description="Users' totals above this quantile of all users' totals count as that quantile."
    )
    quantile: Share | None = Field(default=None, description="Of kind quantile.")
    days: DaysIn | None = Field(default=None, description="Of retention.")
    covariate_days: CovariateDays | None = Field(
        default=None, description="CUPED: adjusts by the same number from so many days before the exposure."
    )
    direction: Direction | None = Field(
        default=None, description="Which way is good. Left out: up, and down for time_to_first."
    )
    unit: Unit | None = None

    @classmethod
    def of_stored(cls, metric: Metric) -> "MetricIn":
        """Return what a metric was made of, as if it were sent; none of it is checked again."""
        recipe, first = metric.recipe, metric.recipe.selections[0]
        parts: dict[str, Any] = {}
        if recipe.kind is Kind.FUNNEL:
            parts["steps"] = [StepIn.of(step) for step in recipe.selections]
        else:
            parts["event_types"] = list(first.event_types)
            parts["filters"] = [FilterIn.of(item) for item in first.filters]
        if recipe.kind in VALUED_KINDS:
            parts["value"] = (first.source, first.property)
        if recipe.denominator is not None:
            parts["denominator"] = SelectionIn.of(recipe.denominator)
        if recipe.first_day is not None and recipe.last_day is not None:
            parts["days"] = DaysIn.model_construct(first=recipe.first_day, last=recipe.last_day)
        return cls.model_construct(
            key=metric.key,
            name=metric.name,
            description=metric.description,
            kind=recipe.kind,
            window=_window_of(recipe),
            cap=recipe.cap,
            winsorize=recipe.winsorize,
            quantile=recipe.quantile,
            covariate_days=recipe.covariate_days,
            direction=metric.direction,
            unit=metric.unit,
            **parts,
        )

    def spec(self) -> MetricSpec:
        """Return the metric.

        Raises:
            Invalid: the kind lacks a field, or does not use one that is given.
        """
        if problems := [*self._unused(), *self._missing(), *self._contradictions()]:
            raise Invalid(problems)
        usual = Direction.DOWN if self.kind is Kind.TIME_TO_FIRST else Direction.UP
        return MetricSpec(
            key=self.key,
            name=self.name or self.key,
            description=self.description,
            recipe=self._recipe(),
            direction=self.direction or usual,
            unit=self.unit,
        )

    def _recipe(self) -> Recipe:
        window = self.window or WindowIn()
        return Recipe(
            kind=self.kind,
            selections=(
                (self.selection(ValueSource.VALUE),)
                if self.steps is None
                else tuple(step.selection() for step in self.steps)
            ),
            denominator=None if self.denominator is None else self.denominator.selection(ValueSource.ONE),
            window_from_s=window.from_seconds,
            window_s=window.seconds,
            cap=self.cap,
            winsorize=self.winsorize,
            quantile=self.quantile,
            first_day=None if self.days is None else self.days.first,
            last_day=None if self.days is None else self.days.last,
            covariate_days=self.covariate_days,
        )

    def _unused(self) -> list[FieldProblem]:
        used = _USED[self.kind]
        given = sorted(name for name in _RECIPE_FIELDS if getattr(self, name) not in (None, []))
        return [
            {
                "field": name,
                "detail": f"kind {self.kind} does not use it; remove it. Used: {', '.join(sorted(used))}",
            }
            for name in given
            if name not in used
        ]

    def _missing(self) -> list[FieldProblem]:
        if self.kind not in _NEEDED:
            return []
        field, detail = _NEEDED[self.kind]
        return [{"field": field, "detail": detail}] if getattr(self, field) is None else []

    def _contradictions(self) -> list[FieldProblem]:
        problems: list[FieldProblem] = []
        if self.cap is not None and self.winsorize is not None:
            problems.append({"field": "winsorize", "detail": "give cap or winsorize, not both"})
        is_one = self.value is not None and self.value[0] is ValueSource.ONE
        if is_one and self.kind in VALUED_KINDS - {Kind.RATIO}:
            detail = f"would make every event 1; for a {self.kind} give value or a property, to count take kind count"
            problems.append({"field": "value", "detail": detail})
        return problems


def _window_of(recipe: Recipe) -> WindowIn | None:
    if recipe.window_from_s == 0 and recipe.window_s is None:
        return None
    return WindowIn.model_construct(from_seconds=recipe.window_from_s, seconds=recipe.window_s)


class MetricChange(BaseModel):
    """Fields to set, as in `POST /metrics`; those left out stay, `null` clears. Key and kind stay as they are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"window": "14d"}, {"winsorize": 0.99, "cap": None}, {"archived": True}]},
    )

    name: Name | None = None
    description: Description | None = None
    event_types: EventTypes | None = None
    event_type: EventType | None = Field(default=None, description="The same as `event_types` with one.")
    filters: Filters | None = None
    value: Source | None = None
    denominator: SelectionIn | None = None
    steps: Steps | None = None
    window: Window | None = None
    cap: Positive | None = None
    winsorize: UpperShare | None = None
    quantile: Share | None = None
    days: DaysIn | None = None
    covariate_days: CovariateDays | None = None
    direction: Direction | None = None
    unit: Unit | None = None
    # By a factory, which no schema shows: a client that fills in what a schema gives as default would restore metrics.
    archived: StrictBool = Field(
        default_factory=bool,
        description="An archived metric is taken by no other experiment, and does not change. Makes no version.",
    )

    @property
    def archives(self) -> bool | None:
        """Tell whether the metric is to be archived afterwards; `None` if nothing was said."""
        return self.archived if "archived" in self.model_fields_set else None

    def applied_to(self, metric: Metric) -> MetricSpec:
        """Return the metric with the fields that were sent; those that stay are as good as they were.

        Raises:
            Invalid: the kind does not use a field that was sent, lacks one that was cleared, or two contradict.
        """
        sent = {name: getattr(self, name) for name in self.model_fields_set - {"archived"}}
        if sent.get("event_type") is not None:
            if sent.get("event_types") is not None:
                raise Invalid.field("event_type", NOT_BOTH)
            sent["event_types"] = None  # It says the same, so what was stored cannot stay.
        return MetricIn.of_stored(metric).model_copy(update=sent).spec()


class FilterOut(BaseModel):
    """A condition on one property of an event."""

    property: str
    operator: Operator
    value: str | float | bool | list[str | float] | None


class PropertyOut(BaseModel):
    """The property whose number counts."""

    property: str


class DenominatorOut(BaseModel):
    """What a ratio divides by."""

    event_types: list[str]
    filters: list[FilterOut]
    value: str | PropertyOut


class StepOut(BaseModel):
    """One step of a funnel."""

    event_type: str
    filters: list[FilterOut]


class WindowOut(BaseModel):
    """When events count after the exposure; `seconds` null: for ever."""

    from_seconds: int
    seconds: int | None


class DaysOut(BaseModel):
    """Whole days after the exposure, the last one included."""

    first: int
    last: int


class RecipeOut(BaseModel):
    """How a metric is computed; what its kind does not use is null."""

    kind: Kind
    event_types: list[str] | None
    filters: list[FilterOut] | None
    value: str | PropertyOut | None
    denominator: DenominatorOut | None
    steps: list[StepOut] | None
    window: WindowOut | None
    cap: float | None
    winsorize: float | None
    quantile: float | None
    days: DaysOut | None
    covariate_days: int | None


class MetricOut(RecipeOut):
    """One version of a stored metric."""

    model_config = ConfigDict(json_schema_extra={"examples": [ANSWER]})

    id: int
    key: str
    version: int
    latest_version: int
    name: str
    description: str | None
    direction: Direction
    unit: str | None
    created_at: datetime
    changed_at: datetime
    archived_at: Annotated[datetime | None, Field(description="Since when no experiment can take it any more.")]

    @classmethod
    def of(cls, stored: StoredMetric) -> Self:
        metric = stored.metric
        return cls(
            id=metric.id,
            key=metric.key,
            version=metric.version,
            latest_version=stored.latest_version,
            name=metric.name,
            description=metric.description,
            direction=metric.direction,
            unit=metric.unit,
            created_at=stored.created_at,
            changed_at=stored.changed_at,
            archived_at=stored.archived_at,
            **recipe_document(metric.recipe),
        )


class MetricList(BaseModel):
    """One page of metrics, or of versions of one."""

    items: list[MetricOut]
    next_cursor: str | None
