"""Requests and answers about the SQL of a number."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.core.errors import Invalid
from app.core.names import Key
from app.core.text import refuse_control_characters
from app.events.schemas import EventType
from app.explain.values import Asking, Explanation
from app.results.parameters import DateOrMoment
from app.results.values import ContextFilter, Granularity, SourceChoice

_MOST_METRICS, _MOST_EVENT_TYPES, _MOST_CONTEXT_FILTERS = 50, 50, 10

_ContextName = Annotated[
    str, StringConstraints(min_length=1, max_length=100), AfterValidator(refuse_control_characters)
]
_ContextValue = Annotated[str, StringConstraints(max_length=256), AfterValidator(refuse_control_characters)]


class ExplainIn(BaseModel):
    """A question as results take it in their query string."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"metrics": ["conversion_rate"], "event_type": ["purchase"]}]},
    )

    metrics: Annotated[list[Key], Field(max_length=_MOST_METRICS)] = Field(
        default=[], description="Built-in metrics, keys of stored ones, or `attached`; left out: those of results."
    )
    event_type: Annotated[list[EventType], Field(max_length=_MOST_EVENT_TYPES)] = Field(
        default=[], description="Their union; left out: all. Stored metrics have types of their own."
    )
    start_date: DateOrMoment | None = None
    end_date: DateOrMoment | None = None
    granularity: Granularity = Granularity.DAY
    include_overrides: bool = False
    context: Annotated[dict[_ContextName, _ContextValue], Field(max_length=_MOST_CONTEXT_FILTERS)] = Field(
        default={}, description="As `context.<name>=<value>` of results."
    )
    source: SourceChoice = Field(default=SourceChoice.AUTO, description="auto: the SQL of both stores.")

    def asking(self) -> Asking:
        """Return the question.

        Raises:
            Invalid: the dates are in the wrong order.
        """
        if self.start_date is not None and self.end_date is not None and self.end_date <= self.start_date:
            raise Invalid.field("end_date", "must be after start_date")
        return Asking(
            metrics=tuple(dict.fromkeys(self.metrics)),
            event_types=tuple(dict.fromkeys(self.event_type)),
            start=self.start_date,
            end=self.end_date,
            granularity=self.granularity.value,
            include_overrides=self.include_overrides,
            context=tuple(ContextFilter(name, value) for name, value in self.context.items()),
            source=self.source,
        )


class StatementOut(BaseModel):
    """SQL that can be pasted as it is."""

    model_config = ConfigDict(from_attributes=True)

    sql: Annotated[str, Field(description="For psql or clickhouse-client, with every parameter written into it.")]
    settings: Annotated[dict[str, str], Field(description="The settings that the SQL makes itself.")]


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
