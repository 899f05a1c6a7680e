"""The winner of an answer and the decision on its experiment, as values. Plain values, no I/O."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Why there is the winner that there is, or none."""

    TREATMENT_WINS = "TREATMENT_WINS"
    CONTROL_WINS = "CONTROL_WINS"
    UNDECIDED = "UNDECIDED"
    SRM_MISMATCH = "SRM_MISMATCH"
    BELOW_MIN_SAMPLE = "BELOW_MIN_SAMPLE"
    NO_TEST = "NO_TEST"


class DecisionVerdict(StrEnum):
    """What to do with the experiment."""

    SHIP = "SHIP"
    DO_NOT_SHIP = "DO_NOT_SHIP"
    KEEP_RUNNING = "KEEP_RUNNING"
    INVALID = "INVALID"  # No decision can be taken from this answer; the reasons say what stands against it.


class DecisionCode(StrEnum):
    """What led to a decision."""

    SRM_MISMATCH = "SRM_MISMATCH"
    TWO_VARIANTS = "TWO_VARIANTS"
    NO_TEST = "NO_TEST"
    PRIMARY_NOT_ASKED = "PRIMARY_NOT_ASKED"
    NOT_STARTED = "NOT_STARTED"
    BELOW_MIN_SAMPLE = "BELOW_MIN_SAMPLE"
    PLANNED_SAMPLE_NOT_REACHED = "PLANNED_SAMPLE_NOT_REACHED"
    PLANNED_SAMPLE_REACHED = "PLANNED_SAMPLE_REACHED"
    ENDED = "ENDED"
    ENDED_BEFORE_PLAN = "ENDED_BEFORE_PLAN"
    PRIMARY_BETTER = "PRIMARY_BETTER"
    PRIMARY_WORSE = "PRIMARY_WORSE"
    PRIMARY_NOT_DECIDED = "PRIMARY_NOT_DECIDED"
    GUARDRAILS_HOLD = "GUARDRAILS_HOLD"
    GUARDRAIL_HARMED = "GUARDRAIL_HARMED"
    NON_INFERIORITY_NOT_SHOWN = "NON_INFERIORITY_NOT_SHOWN"
    GUARDRAIL_NOT_ASKED = "GUARDRAIL_NOT_ASKED"
    PART_OF_THE_DATA = "PART_OF_THE_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionReason:
    """Why, as a code and as a sentence."""

    code: DecisionCode
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRule:
    """By which rule evidence counted: `fixed`, `always_valid` or `group_sequential`, at this two-sided level.

    `information` is the share of the planned users that is there, `bound` what the z statistic has to reach at the
    present look of a group-sequential plan.
    """

    stopping_rule: str
    alpha: float
    metric: str
    planned_sample: int | None
    information: float | None
    look: int | None
    looks: int | None
    bound: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionResult:
    """What to do, with which variant: the one to ship, or the control that stays."""

    verdict: DecisionVerdict
    variant: str | None
    reasons: tuple[DecisionReason, ...]
    rule: DecisionRule
