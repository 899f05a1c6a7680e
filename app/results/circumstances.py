"""What a decision depends on. Plain values, no I/O."""

from dataclasses import dataclass
from enum import StrEnum

from app.experiments.analysis_plan import StoppingRule
from app.stats.group_sequential import Spending


class Standing(StrEnum):
    """How a treatment stands by a metric, as far as the rule lets one say so."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one metric says about one treatment. `gain` and `statistic` are above 0 where the treatment is better.

    `margin_statistic` and `margin_shown` are of the non-inferiority test at one look, `margin_always_shown` of the
    always-valid interval; `None` where the guardrail has no margin.
    """

    gain: float | None
    statistic: float | None
    p_value: float | None
    always_p_value: float | None
    margin_statistic: float | None = None
    margin_shown: bool | None = None
    margin_always_shown: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Everything but the evidence that a decision depends on.

    `alpha` is two-sided. `planned_sample` and `users` count the users of all variants; without a planned sample only
    always-valid evidence counts. `not_asked` are the plan's metrics that the answer does not have.
    """

    metric: str
    alpha: float
    started: bool
    ended: bool
    srm_mismatch: bool
    share_in_two_variants: float
    below_min_sample: bool
    tested: bool
    users: int
    planned_sample: int | None = None
    stopping_rule: StoppingRule = StoppingRule.ALWAYS_VALID
    looks: int | None = None
    spending: Spending = Spending.OBRIEN_FLEMING
    primary_not_asked: bool = False
    guardrails_not_asked: tuple[str, ...] = ()
    part_of_the_data: bool = False

    @property
    def rule(self) -> StoppingRule:
        """Return the stopping rule that can be applied: one that waits for a sample needs to know which."""
        return StoppingRule.ALWAYS_VALID if self.planned_sample is None else self.stopping_rule

    @property
    def information(self) -> float | None:
        return None if not self.planned_sample else self.users / self.planned_sample

    @property
    def reached(self) -> bool:
        return self.planned_sample is not None and self.users >= self.planned_sample
