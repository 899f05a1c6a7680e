"""Events as values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from app.core.rows import RowError


class EventStatus(StrEnum):
    """What became of an event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event as a caller sends it: perhaps without an id, its experiment by id or key."""

    event_id: UUID | None
    experiment: str | None
    user_id: str
    event_type: str
    timestamp: datetime | None
    value: float | None
    properties: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event to store. `experiment_id` is `None` when it counts for every experiment that the user is in."""

    project_id: int
    event_id: UUID
    experiment_id: int | None
    user_id: str
    event_type: str
    timestamp: datetime | None
    value: float | None
    properties: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event is stored durably, now or by an earlier request with the same id."""

    event_id: UUID
    is_new: bool

    @property
    def status(self) -> EventStatus:
        return EventStatus.ACCEPTED if self.is_new else EventStatus.DUPLICATE


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """What became of the rows of a batch that could be read."""

    accepted: int
    duplicates: int
    rejected: Sequence[RowError]
