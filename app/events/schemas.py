"""Requests and answers about events."""

from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from app.assignments.user_ids import UserId
from app.core.clock import utc_now
from app.core.moments import Moment
from app.core.numbers import refuse_other_than_numbers
from app.core.rows import InFuture, TooLarge
from app.core.text import encoded_if_storable
from app.events.values import EventStatus, SentEvent
from app.experiments.references import Reference
from app.metrics.recipe_schemas import EventType

MAX_EVENTS = 1000
MAX_PROPERTIES_BYTES = 16_384
# Clocks of callers may be a little ahead.
MAX_AHEAD = timedelta(minutes=5)


def _not_far_ahead(moment: datetime) -> datetime:
    if moment > utc_now() + MAX_AHEAD:
        raise InFuture("must not lie more than 5 minutes in the future")
    return moment


def _uuid_text(value: object) -> object:
    if not isinstance(value, str | UUID):
        raise ValueError("must be a UUID as text")  # noqa: TRY004  # Pydantic turns ValueError into a field's problem.
    return value


def _storable_properties(properties: dict[str, Any]) -> dict[str, Any]:
    size = len(encoded_if_storable(properties))
    if size > MAX_PROPERTIES_BYTES:
        raise TooLarge(f"must be at most {MAX_PROPERTIES_BYTES} bytes of JSON, not {size}")
    return properties


EventId = Annotated[UUID, BeforeValidator(_uuid_text), WithJsonSchema({"type": "string", "format": "uuid"})]
Value = Annotated[
    float, Field(allow_inf_nan=False), BeforeValidator(refuse_other_than_numbers), WithJsonSchema({"type": "number"})
]
Properties = Annotated[dict[str, Any], AfterValidator(_storable_properties)]


class EventIn(BaseModel):
    """Something that a user did."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "event_id": "0190b6a2-5f0e-7c3b-9a51-1f1f6f6f0001",
                    "user_id": "user-42",
                    "event_type": "purchase",
                    "value": 19.99,
                }
            ]
        },
    )

    event_id: EventId | None = Field(
        default=None, description="Makes retries harmless: the same id is never a second event."
    )
    experiment_id: Reference | None = Field(
        default=None, description="Left out: the event counts for every experiment that the user is in."
    )
    user_id: UserId
    event_type: EventType
    timestamp: Annotated[Moment, AfterValidator(_not_far_ahead)] | None = Field(
        default=None, description="ISO 8601 with an offset; left out: now."
    )
    value: Value | None = None
    properties: Properties | None = None

    def sent(self) -> SentEvent:
        return SentEvent(
            event_id=self.event_id,
            experiment=self.experiment_id,
            user_id=self.user_id,
            event_type=self.event_type,
            timestamp=self.timestamp,
            value=self.value,
            properties=self.properties,
        )


class EventBatchIn(BaseModel):
    """Up to 1,000 events; each row is judged by itself."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "properties": {
                "events": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_EVENTS,
                    "items": {"$ref": "#/components/schemas/EventIn"},
                }
            },
            "examples": [
                {
                    "events": [
                        {"user_id": "user-42", "event_type": "view"},
                        {"user_id": "user-42", "event_type": "purchase", "value": 19.99},
                    ]
                }
            ],
        },
    )

    events: Annotated[list[Any], Field(min_length=1, max_length=MAX_EVENTS)]


class EventOut(BaseModel):
    """The event is stored durably, now or by an earlier request with the same id."""

    event_id: UUID
    status: EventStatus
