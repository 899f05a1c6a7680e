"""Who counts in an experiment's results, as callers say it."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from app.core.text import refuse_control_characters
from app.experiments.population import EVERYBODY, EXPOSURE_EVENT_TYPE, ContextValue, ExposureRule, Population
from app.metrics.recipe_schemas import EventType

MAX_EXCLUDED_USERS = 1000
MAX_EXCLUDED_CONTEXTS = 20

# As in assignments, and as `context.<name>` of results.
_UserId = Annotated[str, StringConstraints(min_length=1, max_length=256), AfterValidator(refuse_control_characters)]
_ContextName = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(refuse_control_characters)
]
_ContextText = Annotated[str, StringConstraints(max_length=256), AfterValidator(refuse_control_characters)]


class ContextValueIn(BaseModel):
    """A name and value in a user's stored context, compared as `context.<name>=<value>` of results."""

    model_config = ConfigDict(extra="forbid")

    name: _ContextName
    value: _ContextText


class PopulationIn(BaseModel):
    """Who counts in results, and from when. Left out: everybody who is assigned, from the assignment on."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "exposure": "event",
                    "exposure_event_type": "exposure",
                    "exclude_users": ["qa-1"],
                    "exclude_context": [{"name": "employee", "value": "true"}],
                }
            ]
        },
    )

    exposure: ExposureRule = ExposureRule.ASSIGNMENT
    exposure_event_type: EventType | None = Field(
        default=None, description="Of exposure `event`; left out: `exposure`."
    )
    exclude_users: Annotated[list[_UserId], Field(max_length=MAX_EXCLUDED_USERS)] = Field(default_factory=list)
    exclude_context: Annotated[
        list[ContextValueIn],
        Field(max_length=MAX_EXCLUDED_CONTEXTS, description="Users who match any of these are left out."),
    ] = Field(default_factory=list)

    @field_validator("exposure_event_type")
    @classmethod
    def _of_events_alone(cls, event_type: str | None, others: ValidationInfo) -> str | None:
        if event_type is not None and others.data.get("exposure") is ExposureRule.ASSIGNMENT:
            raise ValueError('is of use with exposure "event" alone; remove it, or set exposure')
        return event_type

    def population(self) -> Population:
        return Population(
            exposure=self.exposure,
            exposure_event_type=self.exposure_event_type or EXPOSURE_EVENT_TYPE,
            exclude_users=tuple(dict.fromkeys(self.exclude_users)),
            exclude_context=tuple(dict.fromkeys(ContextValue(item.name, item.value) for item in self.exclude_context)),
        )


class ContextValueOut(BaseModel):
    """A name and value in a user's stored context."""

    name: str
    value: str


class PopulationOut(BaseModel):
    """Who counts in results, and from when; `exposure_event_type` is null for exposure `assignment`."""

    exposure: ExposureRule
    exposure_event_type: str | None
    exclude_users: list[str]
    exclude_context: list[ContextValueOut]

    @classmethod
    def of(cls, population: Population) -> Self | None:
        """Return `None` for everybody, as it was said."""
        if population == EVERYBODY:
            return None
        by_event = population.exposure is ExposureRule.EVENT
        return cls(
            exposure=population.exposure,
            exposure_event_type=population.exposure_event_type if by_event else None,
            exclude_users=list(population.exclude_users),
            exclude_context=[ContextValueOut(name=item.name, value=item.value) for item in population.exclude_context],
        )
