"""Requests and answers about assignments."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
)

from app.assignments.user_ids import UserId
from app.assignments.values import ImportRow, Reason, Source
from app.core.moments import Moment
from app.core.names import Key
from app.core.text import encoded_if_storable
from app.experiments.references import Reference, id_as_text

MAX_BULK = 1000
MAX_CONTEXT_BYTES = 16_384

# In a list, what cannot exist is answered like what does not: the rest of the list is answered all the same.
AnyReference = Annotated[
    str,
    BeforeValidator(id_as_text),
    StringConstraints(max_length=200),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 200}]}),
]


def _storable_context(context: dict[str, Any]) -> dict[str, Any]:
    if len(encoded_if_storable(context)) > MAX_CONTEXT_BYTES:
        raise ValueError(f"must be at most {MAX_CONTEXT_BYTES} bytes of JSON")
    return context


Context = Annotated[
    dict[str, Any],
    AfterValidator(_storable_context),
    Field(description="Attributes of the user at this moment; stored with a new assignment."),
]


class AssignIn(BaseModel):
    """A question about one user in one experiment."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"experiment": "green-button", "user_id": "user-42", "context": {"country": "DE"}}]
        },
    )

    experiment: Reference
    user_id: UserId
    context: Context | None = None
    enroll: StrictBool = True


class BulkForUserIn(BaseModel):
    """One user, many experiments; left out: all running ones."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "user-42", "experiment_ids": ["green-button", 7], "enroll": True}]},
    )

    user_id: UserId
    experiment_ids: Annotated[list[AnyReference], Field(max_length=MAX_BULK)] | None = None
    context: Context | None = None
    enroll: StrictBool | None = Field(
        default=None,
        description="Default: true with `experiment_ids`, false without, so that nobody is enrolled unseen.",
    )


class BulkForExperimentIn(BaseModel):
    """One experiment, many users."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"experiment": "green-button", "user_ids": ["user-42", "user-43"]}]},
    )

    experiment: Reference
    user_ids: Annotated[
        list[UserId],
        Field(
            min_length=1,
            max_length=MAX_BULK,
            description="If some can be no user id, nobody is assigned, and the 422 names all of them by their places.",
        ),
    ]
    enroll: StrictBool = True


class VariantAnswerOut(BaseModel):
    """The variant to show; `config` is what the experiment says about it."""

    id: int
    key: str
    name: str
    config: dict[str, Any]


class AssignmentOut(BaseModel):
    """A user's variant, or null with the reason why there is none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "experiment_id": 7,
                    "experiment_key": "green-button",
                    "user_id": "user-42",
                    "variant": {"id": 16, "key": "green", "name": "Green", "config": {"color": "#0a0"}},
                    "enrolled": True,
                    "reason": "NEW_ASSIGNMENT",
                    "source": "hash",
                    "version": 1,
                    "assigned_at": "2026-01-31T12:00:00.123456Z",
                }
            ]
        }
    )

    experiment_id: int
    experiment_key: str
    user_id: str
    variant: VariantAnswerOut | None
    enrolled: bool
    reason: Reason
    source: Source | None
    version: int
    assigned_at: datetime | None


class ItemProblemOut(BaseModel):
    """Why one item has no answer."""

    type: str
    title: str
    status: int
    detail: str


class FailedItemOut(BaseModel):
    """An item that cannot be answered; the others are."""

    experiment_id: int | str
    user_id: str
    error: ItemProblemOut


class BulkOut(BaseModel):
    """Answers in the order asked."""

    assignments: list[AssignmentOut | FailedItemOut]


class StoredAssignmentOut(BaseModel):
    """A stored assignment; `variant` is the variant's key."""

    user_id: str
    variant: str
    source: Source
    version: int
    context: dict[str, Any] | None
    assigned_at: datetime


class StoredAssignmentList(BaseModel):
    """One page of stored assignments."""

    items: list[StoredAssignmentOut]
    next_cursor: str | None


class OverrideIn(BaseModel):
    """The key of the variant to force."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"variant": "green"}]})

    variant: Key


class ImportRowIn(BaseModel):
    """An assignment decided elsewhere."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId
    variant: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    assigned_at: Moment

    def at(self, index: int) -> ImportRow:
        return ImportRow(index, self.user_id, self.variant, self.assigned_at)


class ImportIn(BaseModel):
    """Up to 1,000 assignments; each row is judged by itself."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "properties": {
                "assignments": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_BULK,
                    "items": {"$ref": "#/components/schemas/ImportRowIn"},
                }
            },
            "examples": [
                {"assignments": [{"user_id": "user-42", "variant": "green", "assigned_at": "2026-01-31T12:00:00Z"}]}
            ],
        },
    )

    assignments: Annotated[list[Any], Field(min_length=1, max_length=MAX_BULK)]
