"""Requests and answers about the SQL of a number."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from app.core.errors import Invalid
from app.core.lists import AT_LEAST_ONE
from app.core.names import Key
from app.core.text import refuse_control_characters
from app.explain.values import Explanation, Part
from app.metrics.recipe_schemas import EventType
from app.metrics.schemas import CovariateDays
from app.results.limits import (
    LEAST_CONFIDENCE_LEVEL,
    LONGEST_CONTEXT_VALUE,
    MOST_CONFIDENCE_LEVEL,
    MOST_CONTEXT_FILTERS,
    MOST_EVENT_TYPES,
    MOST_METRICS,
)
from app.results.parameters import AttributeName, DateOrMoment, refuse_two_divisions
from app.results.values import CohortWidth, ContextFilter, Granularity, Question, SourceChoice

_ContextValue = Annotated[
    str, StringConstraints(max_length=LONGEST_CONTEXT_VALUE), AfterValidator(refuse_control_characters)
]


class ExplainIn(BaseModel):
    """A question as results take it in their query string, as far as SQL depends on it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"metrics": ["conversion_rate"], "event_type": ["purchase"]}]},
    )

    metrics: Annotated[list[Key], Field(max_length=MOST_METRICS), AT_LEAST_ONE] = Field(
        default_factory=list,
        description="Built-in metrics, keys of stored ones, or `attached`; left out: those of results.",
    )
    event_type: Annotated[list[EventType], Field(max_length=MOST_EVENT_TYPES), AT_LEAST_ONE] = Field(
        default_factory=list, description="Their union; left out: all. Stored metrics have types of their own."
    )
    start_date: DateOrMoment | None = None
    end_date: DateOrMoment | None = None
    granularity: Granularity = Granularity.DAY
    confidence_level: Annotated[float, Field(ge=LEAST_CONFIDENCE_LEVEL, le=MOST_CONFIDENCE_LEVEL, strict=True)] = Field(
        default=95.0, description="Percent; the ranks that bound a quantile depend on it."
    )
    include_overrides: StrictBool = False
    context: Annotated[dict[AttributeName, _ContextValue], Field(max_length=MOST_CONTEXT_FILTERS)] = Field(
        default={}, description="As `context.<name>=<value>` of results."
    )
    breakdown: AttributeName | None = Field(
        default=None, description="A name in the users' stored context: the queries by its values as well."
    )
    cohorts: CohortWidth | None = Field(
        default=None, description="The queries by the day or week of the first exposure as well; without `breakdown`."
    )
    effect_over_time: StrictBool | None = Field(
        default=None, description="Whether built-in metrics are followed by day."
    )
    cuped_days: CovariateDays | None = Field(
        default=None, description="Of built-in metrics; stored ones say it themselves."
    )
    source: SourceChoice = Field(default=SourceChoice.AUTO, description="auto: the SQL of both stores.")

    def question(self) -> Question:
        """Return the question.

        Raises:
            Invalid: the dates are in the wrong order, or users are to be divided twice.
        """
        if self.start_date is not None and self.end_date is not None and self.end_date <= self.start_date:
            raise Invalid.field("end_date", "must be after start_date")
        refuse_two_divisions(self.breakdown, self.cohorts)
        return Question(
            event_types=tuple(dict.fromkeys(self.event_type)),
            start=self.start_date,
            end=self.end_date,
            granularity=self.granularity,
            metrics=tuple(dict.fromkeys(self.metrics)),
            confidence_level=self.confidence_level,
            include_overrides=self.include_overrides,
            source=self.source,
            context=tuple(ContextFilter(name, value) for name, value in self.context.items()),
            breakdown=self.breakdown,
            cohorts=self.cohorts,
            effect_over_time=self.effect_over_time,
            cuped_days=self.cuped_days,
        )


class QueryOut(BaseModel):
    """One query, which can be pasted by itself."""

    model_config = ConfigDict(from_attributes=True)

    part: Annotated[Part, Field(description="What it finds; `notes` say how its rows are read.")]
    by_segment: Annotated[bool, Field(description="Of the cells of variant and value of `breakdown`, or cohort.")]
    metrics: Annotated[list[str], Field(description="Those whose numbers it finds.")]
    sql: str


class StatementOut(BaseModel):
    """SQL that can be pasted as it is."""

    model_config = ConfigDict(from_attributes=True)

    sql: Annotated[str, Field(description="All queries, for psql or clickhouse-client, with every parameter in them.")]
    settings: Annotated[dict[str, str], Field(description="The settings that the SQL makes itself.")]
    queries: Annotated[list[QueryOut], Field(description="The same queries one by one.")]


class ExplanationOut(BaseModel):
    """The very SQL of a number, for each store on its own."""

    model_config = ConfigDict(from_attributes=True)

    metrics: list[str]
    postgresql: StatementOut | None
    clickhouse: StatementOut | None
    notes: Annotated[list[str], Field(description="How the rows are read, and what stands against a store.")]

    @classmethod
    def of(cls, explanation: Explanation) -> "ExplanationOut":
        return cls.model_validate(explanation)
