"""What a report is made of. Plain values."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from app.experiments.sealing import PlanAccount
from app.experiments.values import Experiment
from app.metrics.values import Direction
from app.reports.numbers import Measure
from app.results.answer import DefinitionResult, Results
from app.results.comparison_values import ComparisonResult, Method
from app.results.part_values import BreakdownResult, CohortsResult, HomogeneityResult, PoststratifiedResult


@dataclass(frozen=True, slots=True)
class Report:
    """A finished page with the name under which it may be saved."""

    filename: str
    html: str


@dataclass(frozen=True, slots=True)
class Material:
    """The answer with what is known about the experiment; `account` `None`: the plan cannot be looked at now."""

    experiment: Experiment
    results: Results
    account: PlanAccount | None

    @property
    def control(self) -> str:
        return self.experiment.control.key

    def comparisons(self, metric: str) -> list[ComparisonResult]:
        return [found for found in self.results.comparisons if found.metric == metric]

    def measure(self, definition: DefinitionResult) -> Measure:
        """Say how the metric's numbers are written. Shares are those that are compared as rates."""
        is_share = any(found.method is Method.POOLED_Z for found in self.comparisons(definition.key))
        return Measure(is_share=is_share, unit=None if is_share else definition.unit)

    def variant_name(self, key: str) -> str:
        found = self.experiment.variant_with_key(key)
        return key if found is None else found.name


def is_less_better(definition: DefinitionResult) -> bool:
    return definition.direction is Direction.DOWN


def key_of(found: ComparisonResult | HomogeneityResult) -> tuple[str, str, str]:
    """Return what is compared, which names a comparison within one answer."""
    return found.metric, found.variant, found.control


def left_out_of(found: BreakdownResult | CohortsResult) -> Mapping[tuple[str, str, str], Collection[int]]:
    """Return, for each comparison, the places of the parts that are not in the test that it is alike in all."""
    return {key_of(test): frozenset(test.left_out_parts) for test in found.homogeneity}


def label_of(found: ComparisonResult | HomogeneityResult | PoststratifiedResult) -> str:
    return f"{found.variant} against {found.control}"
