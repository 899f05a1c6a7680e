"""Events as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


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
