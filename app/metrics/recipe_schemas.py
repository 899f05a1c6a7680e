"""The parts of a recipe as callers send them, each checked by itself.

What `of` returns is a part that is stored already. It is not checked again: a rule may be younger than the part, and
who changes another field has nothing to do with it.
"""

import re
from itertools import pairwise
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from app.core.numbers import refuse_other_than_numbers
from app.core.text import refuse_blank, refuse_control_characters
from app.metrics.values import Operator, PropertyFilter, Selection, ValueSource

MAX_FILTERS = 10
MAX_LISTED = 20
MAX_EVENT_TYPES = 50
MAX_DAYS = 3650
MAX_SECONDS = MAX_DAYS * 86_400
NOT_BOTH = "give event_type or event_types, not both"
_LONGEST_TEXT = 1000
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")

# Wherever somebody names one: in events themselves, and in whatever asks for them.
EventType = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100),
    AfterValidator(refuse_control_characters),
    AfterValidator(refuse_blank),
]
PropertyName = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(refuse_control_characters)
]
_FROM_NUMBERS = BeforeValidator(refuse_other_than_numbers)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _FROM_NUMBERS]
Share = Annotated[float, Field(gt=0, lt=1), _FROM_NUMBERS]
UpperShare = Annotated[float, Field(ge=0.5, lt=1), _FROM_NUMBERS]
WholeNumber = Annotated[int, Field(strict=True)]


def _seconds(value: object) -> object:
    """Read `7d` as 604800; a number is seconds already."""
    if not isinstance(value, str):
        return value
    if (found := _DURATION.fullmatch(value)) is None:
        raise ValueError("must be whole seconds, or a number with s, m, h, d or w, as in 7d or 12h")
    return int(found[1]) * _UNITS_S[found[2]]


_DURATION_SCHEMA = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": f"^{_DURATION.pattern}$"}]}
Duration = Annotated[int, BeforeValidator(_seconds), Field(strict=True), WithJsonSchema(_DURATION_SCHEMA)]


class WindowIn(BaseModel):
    """When events count after the exposure: from `from_seconds` on, and before `seconds`."""

    model_config = ConfigDict(extra="forbid")

    from_seconds: Annotated[Duration, Field(ge=0, le=MAX_SECONDS)] = 0
    seconds: Annotated[Duration, Field(ge=1, le=MAX_SECONDS)] | None = None

    @field_validator("seconds")
    @classmethod
    def _after_its_start(cls, seconds: int | None, others: ValidationInfo) -> int | None:
        if seconds is not None and seconds <= others.data.get("from_seconds", 0):
            raise ValueError("must be more than from_seconds, or no event could count")
        return seconds

    @model_validator(mode="before")
    @classmethod
    def _or_its_end_alone(cls, value: object) -> object:
        """Read `"7d"` as `{"seconds": "7d"}`."""
        if isinstance(value, str | int) and not isinstance(value, bool):
            return {"seconds": value}
        if not isinstance(value, dict | WindowIn):
            raise ValueError('must be a duration as in 7d, or {"from_seconds": ..., "seconds": ...}')  # noqa: TRY004  # As above.
        return value


Window = Annotated[
    WindowIn,
    WithJsonSchema(
        {
            "anyOf": [
                *_DURATION_SCHEMA["anyOf"],
                {
                    "type": "object",
                    "properties": {
                        "from_seconds": _DURATION_SCHEMA,
                        "seconds": {"anyOf": [*_DURATION_SCHEMA["anyOf"], {"type": "null"}]},
                    },
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class DaysIn(BaseModel):
    """Whole days of 24 hours after the exposure, the last one included."""

    model_config = ConfigDict(extra="forbid")

    first: Annotated[WholeNumber, Field(ge=0, le=MAX_DAYS)]
    last: Annotated[WholeNumber, Field(ge=0, le=MAX_DAYS)]

    @field_validator("last")
    @classmethod
    def _not_before_the_first(cls, last: int, others: ValidationInfo) -> int:
        if last < others.data.get("first", 0):
            raise ValueError("must not be less than first")
        return last


def _checked_text(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"must have at most {_LONGEST_TEXT} characters")
    return refuse_control_characters(text)


def _text_or_number(value: object) -> str | float:
    if isinstance(value, str):
        return _checked_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a text or a number")  # noqa: TRY004  # Pydantic takes ValueError.
    return _finite(value)


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not abs(number) < float("inf"):
        raise ValueError("must be a finite number")
    return number + 0.0  # Which turns a negative zero into an ordinary one.


def _compared(operator: Operator, value: object) -> str | float | bool | tuple[str | float, ...] | None:
    """Return what the operator compares with.

    Raises:
        ValueError: it does not compare with that.
    """
    match operator:
        case Operator.EXISTS | Operator.NOT_EXISTS:
            if value is not None:
                raise ValueError(f"{operator} compares with nothing; leave value out")
            return None
        case Operator.IN:
            if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_LISTED:
                raise ValueError(f"in needs a list of 1 to {MAX_LISTED} texts or numbers")
            return tuple(_text_or_number(item) for item in value)
        case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{operator} needs a number")  # noqa: TRY004  # As above.
            return _finite(value)
        case Operator.EQ | Operator.NE:
            if value is None:
                raise ValueError(f"{operator} needs a text, a number or a truth value; exists asks for any")
            return value if isinstance(value, bool) else _text_or_number(value)


_COMPARED_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "maxLength": _LONGEST_TEXT},
        {"type": "number"},
        {"type": "boolean"},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_LISTED,
            "items": {"anyOf": [{"type": "string", "maxLength": _LONGEST_TEXT}, {"type": "number"}]},
        },
        {"type": "null"},
    ]
}


class FilterIn(BaseModel):
    """Keeps events whose property compares so; texts with texts, numbers with numbers, truth values with such."""

    model_config = ConfigDict(extra="forbid")

    property: PropertyName
    operator: Operator
    value: Annotated[Any, WithJsonSchema(_COMPARED_SCHEMA)] = Field(default=None, validate_default=True)

    @field_validator("value")
    @classmethod
    def _fits_the_operator(cls, value: object, others: ValidationInfo) -> object:
        operator = others.data.get("operator")
        return value if operator is None else _compared(operator, value)

    @classmethod
    def of(cls, stored: PropertyFilter) -> "FilterIn":
        return cls.model_construct(property=stored.name, operator=stored.operator, value=stored.value)

    def filter(self) -> PropertyFilter:
        return PropertyFilter(self.property, self.operator, self.value)


def _source(value: object) -> tuple[ValueSource, str | None]:
    if value in {"value", "one"} if isinstance(value, str) else False:
        return ValueSource(str(value)), None
    if isinstance(value, dict) and set(value) == {"property"} and isinstance(value["property"], str):
        name = value["property"]
        if not 1 <= len(name) <= 100:
            raise ValueError("property must have 1 to 100 characters")
        return ValueSource.PROPERTY, refuse_control_characters(name)
    raise ValueError('must be "value" (the event\'s own), "one" (1 for each event) or {"property": name}')


# Where an event's number comes from, and the property's name.
Source = Annotated[
    tuple[ValueSource, str | None],
    BeforeValidator(_source),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["value", "one"]},
                {
                    "type": "object",
                    "properties": {"property": {"type": "string", "minLength": 1, "maxLength": 100}},
                    "required": ["property"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
EventTypes = Annotated[
    list[EventType],
    Field(max_length=MAX_EVENT_TYPES, description="Any of these; left out or empty: events of every type."),
    AfterValidator(lambda types: list(dict.fromkeys(types))),
]
Filters = Annotated[list[FilterIn], Field(max_length=MAX_FILTERS, description="All of them have to be met.")]


class SelectionIn(BaseModel):
    """Which events, and which number of each."""

    model_config = ConfigDict(extra="forbid")

    event_types: EventTypes | None = None
    event_type: EventType | None = Field(default=None, description="The same as `event_types` with one.")
    filters: Filters | None = None
    value: Source | None = None

    @field_validator("event_type")
    @classmethod
    def _not_both(cls, event_type: str | None, others: ValidationInfo) -> str | None:
        if event_type is not None and others.data.get("event_types") is not None:
            raise ValueError(NOT_BOTH)
        return event_type

    @classmethod
    def of(cls, stored: Selection) -> "SelectionIn":
        return cls.model_construct(
            event_types=list(stored.event_types),
            filters=[FilterIn.of(item) for item in stored.filters],
            value=(stored.source, stored.property),
        )

    def selection(self, default: ValueSource) -> Selection:
        source, name = self.value or (default, None)
        return Selection(
            event_types=(self.event_type,) if self.event_type is not None else tuple(self.event_types or ()),
            filters=tuple(item.filter() for item in self.filters or ()),
            source=source,
            property=name,
        )


class StepIn(BaseModel):
    """One step of a funnel."""

    model_config = ConfigDict(extra="forbid")

    event_type: EventType
    filters: Filters | None = None

    @classmethod
    def of(cls, stored: Selection) -> "StepIn":
        return cls.model_construct(
            event_type=stored.event_types[0], filters=[FilterIn.of(item) for item in stored.filters]
        )

    def selection(self) -> Selection:
        return Selection((self.event_type,), tuple(item.filter() for item in self.filters or ()))


def _differing_neighbours(steps: list[StepIn]) -> list[StepIn]:
    for number, (one, next_) in enumerate(pairwise(steps), start=2):
        if one.event_type == next_.event_type:
            raise ValueError(
                f"step {number} has the event type of the step before it; neighbouring steps must differ, or one event"
                " could be both"
            )
    return steps


Steps = Annotated[list[StepIn], Field(min_length=2, max_length=10), AfterValidator(_differing_neighbours)]
