"""Assignments as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from app.experiments.values import Experiment, Variant

# Experiment id and user id: what an assignment or an override is found by.
Key = tuple[int, str]


class Reason(StrEnum):
    """Why an answer is what it is."""

    NEW_ASSIGNMENT = "NEW_ASSIGNMENT"
    EXISTING_ASSIGNMENT = "EXISTING_ASSIGNMENT"
    OVERRIDE = "OVERRIDE"
    PREVIEW = "PREVIEW"
    NOT_IN_TRAFFIC = "NOT_IN_TRAFFIC"
    NOT_TARGETED = "NOT_TARGETED"
    EXPERIMENT_DRAFT = "EXPERIMENT_DRAFT"
    EXPERIMENT_NOT_STARTED = "EXPERIMENT_NOT_STARTED"
    EXPERIMENT_PAUSED = "EXPERIMENT_PAUSED"
    EXPERIMENT_ENDED = "EXPERIMENT_ENDED"
    EXPERIMENT_ARCHIVED = "EXPERIMENT_ARCHIVED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"


class Source(StrEnum):
    """Where a variant comes from."""

    HASH = "hash"
    IMPORT = "import"
    OVERRIDE = "override"


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """A stored assignment as caches hold it. It never changes."""

    variant_id: int
    source: Source
    version: int
    assigned_at: datetime


class Override(msgspec.Struct, frozen=True):
    """A forced variant, in force from `exposed_at` on."""

    variant_id: int
    exposed_at: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """Which variant does this user get in this experiment?"""

    experiment: Experiment
    user_id: str
    enroll: bool
    context: Mapping[str, Any] | None = None


class VariantAnswer(msgspec.Struct, frozen=True):
    """The variant as callers see it."""

    id: int
    key: str
    name: str
    config: Mapping[str, Any]

    @classmethod
    def of(cls, variant: Variant) -> "VariantAnswer":
        return cls(variant.id, variant.key, variant.name, variant.config)


class Answer(msgspec.Struct, frozen=True):
    """What a caller is told; `variant` is null when the user is not in the experiment, and `reason` says why."""

    experiment_id: int
    experiment_key: str
    user_id: str
    variant: VariantAnswer | None
    enrolled: bool
    reason: Reason
    source: Source | None
    version: int
    assigned_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredAssignment:
    """A stored assignment as it is listed."""

    user_id: str
    variant_id: int
    source: Source
    version: int
    context: Mapping[str, Any] | None
    assigned_at: datetime
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class ImportRow:
    """An assignment decided elsewhere, and its place in the caller's batch."""

    index: int
    user_id: str
    variant: str
    assigned_at: datetime
