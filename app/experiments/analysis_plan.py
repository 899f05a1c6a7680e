"""What is promised before an experiment starts, and the seal that holds it to that. Plain values, no I/O."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from app.metrics.values import Role

# Of one experiment, planned and attached later; more than anybody looks at, and results compute all at once.
MAX_METRICS = 100


class StoppingRule(StrEnum):
    """When the results may be acted upon."""

    FIXED = "fixed"  # Once, at the planned sample size.
    ALWAYS_VALID = "always_valid"  # At any time, by intervals that stay valid however often one looks.
    GROUP_SEQUENTIAL = "group_sequential"  # At planned looks, by bounds that share the error among them.


class Spending(StrEnum):
    """How a group-sequential plan spends its error over the looks."""

    OBRIEN_FLEMING = "obrien_fleming"
    POCOCK = "pocock"


@dataclass(frozen=True, slots=True)
class PlannedMetric:
    """A metric by its key, as a caller plans it. `version` `None`: the latest one when the experiment starts."""

    metric: str
    role: Role
    # Of guardrails: the largest relative loss that is acceptable.
    margin: float | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """How an experiment will be judged; its default promises nothing."""

    hypothesis: str | None = None
    # Users of all variants together.
    sample_size: int | None = None
    stopping_rule: StoppingRule = StoppingRule.FIXED
    # Of a group-sequential plan: how many looks, the last one at the planned sample size, and how the error is spent.
    looks: int | None = None
    spending: Spending | None = None
    metrics: tuple[PlannedMetric, ...] = ()

    def with_versions_of(self, sealed: "AnalysisPlan") -> "AnalysisPlan":
        """Fill in versions left out with those of `sealed`, so that saying the same plan again is no change of it."""
        versions = {item.metric: item.version for item in sealed.metrics}
        return replace(
            self,
            metrics=tuple(
                replace(item, version=versions.get(item.metric)) if item.version is None else item
                for item in self.metrics
            ),
        )


NO_PLAN = AnalysisPlan()


@dataclass(frozen=True, slots=True)
class Seal:
    """That a plan was sealed, when, and the SHA-256 of what was sealed, in hexadecimal."""

    sealed_at: datetime
    hash: str


@dataclass(frozen=True, slots=True)
class SealedPlan:
    """A seal with the sealed text."""

    seal: Seal
    document: str
