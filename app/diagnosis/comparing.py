"""Comparisons that several rules make."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.diagnosis.facts import Facts, MetricFacts
from app.stats.comparisons import Comparison, compare
from app.stats.distributions import Alternative, Distribution
from app.stats.samples import Sample

# Of the tests whose outcome is only talked about.
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Tested:
    """A comparison with the control that has a p-value."""

    metric: str
    variant: str
    comparison: Comparison
    p: float


def of_metric(facts: Facts, metric: MetricFacts) -> Iterator[Tested]:
    """Compare each treatment with the control."""
    if metric.samples is None:
        return
    for arm in range(1, len(facts.arms)):
        yield from compared(
            metric.key, facts.arms[arm].key, metric.samples[0], metric.samples[arm], metric.distribution
        )


def compared(
    metric: str, variant: str, control: Sample, treatment: Sample, distribution: Distribution
) -> Iterator[Tested]:
    """Compare two samples; nothing comes where there is no p-value."""
    found = compare(
        control, treatment, confidence=1 - ALPHA, alternative=Alternative.TWO_SIDED, distribution=distribution
    )
    if found.p_value is not None:
        yield Tested(metric, variant, found, found.p_value)
