"""What a diagnosis finds. Plain values, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.results.values import Source


class Code(StrEnum):
    """What is checked."""

    SRM = "SRM"
    SRM_BY_DAY = "SRM_BY_DAY"
    SRM_BY_ATTRIBUTE = "SRM_BY_ATTRIBUTE"
    SRM_SEQUENTIAL = "SRM_SEQUENTIAL"
    USERS_IN_TWO_VARIANTS = "USERS_IN_TWO_VARIANTS"
    EXPOSURE_BEFORE_START = "EXPOSURE_BEFORE_START"
    EXPOSURE_RECORDED_LATE = "EXPOSURE_RECORDED_LATE"
    MID_RUN_CHANGES = "MID_RUN_CHANGES"
    PRE_EXPOSURE_DIFFERENCE = "PRE_EXPOSURE_DIFFERENCE"
    EMPTY_METRIC = "EMPTY_METRIC"
    SMALL_SAMPLE = "SMALL_SAMPLE"
    CANNOT_TELL = "CANNOT_TELL"
    HEAVY_TAILS = "HEAVY_TAILS"
    NOVELTY = "NOVELTY"
    STALE_DATA = "STALE_DATA"
    CLOCK_SKEW = "CLOCK_SKEW"


class Severity(StrEnum):
    """How much a finding matters: no result may be used, something is to be looked into, or it is good to know."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be, with the numbers that show it and what to do about it."""

    code: Code
    severity: Severity
    title: str
    # JSON: numbers, texts, and lists and objects of these.
    evidence: Mapping[str, object]
    text: str
    action: str


@dataclass(frozen=True, slots=True)
class Unchecked:
    """Why something could not be checked."""

    reason: str


NOBODY = Unchecked("Nobody is exposed yet.")


class Outcome(StrEnum):
    """What became of a check without findings."""

    FINE = "fine"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Checked:
    """A check that found nothing; `reason` says why it was not made."""

    code: Code
    outcome: Outcome
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """All findings, the gravest first, and the checks that found nothing."""

    experiment_id: int
    computed_at: datetime
    complete_until: datetime
    source: Source
    findings: tuple[Finding, ...]
    checked: tuple[Checked, ...]
