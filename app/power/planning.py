"""The third of sample size, power and detectable effect, from the two others. Plain functions, no I/O."""

import math
from dataclasses import dataclass
from enum import StrEnum

from app.core.errors import Invalid
from app.stats.planning import Design, DetectableEffect, SampleSize, sizes
from app.stats.power_means import MeanPower, mde_means, power_means, sample_size_means
from app.stats.power_rates import mde_proportions, power_proportions, sample_size_proportions
from app.stats.unit_deviation import adjusted_deviation


class Kind(StrEnum):
    """What the metric measures per user."""

    PROPORTION = "proportion"
    RETENTION = "retention"  # A proportion: of users who came back.
    FUNNEL = "funnel"  # A proportion: of users who did all steps.
    MEAN = "mean"
    RATIO = "ratio"  # A sum over a sum, with users as the units.
    QUANTILE = "quantile"

    @property
    def is_rate(self) -> bool:
        return self in {Kind.PROPORTION, Kind.RETENTION, Kind.FUNNEL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A two-armed comparison; exactly one of `n_control`, `power` and `effect` is `None`.

    `baseline` is the control's value, `std` the standard deviation of one user's contribution (of all kinds but rates),
    `effect` the absolute difference. `covariate_correlation` is that of the metric with a covariate that CUPED takes
    out.
    """

    kind: Kind
    baseline: float | None
    std: float | None
    n_control: float | None
    power: float | None
    effect: float | None
    design: Design
    covariate_correlation: float = 0.0

    @property
    def remaining_variance(self) -> float:
        """Return the share of the variance that CUPED leaves."""
        return (1.0 - self.covariate_correlation) * (1.0 + self.covariate_correlation)

    @property
    def remaining_std(self) -> float:
        return adjusted_deviation(_given(self.std), correlation=self.covariate_correlation)

    @property
    def method(self) -> MeanPower:
        """Return the test that the kind gets: Student's for means, the normal one for what is normal at best."""
        return MeanPower.NONCENTRAL_T if self.kind is Kind.MEAN else MeanPower.Z


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The completed plan; sizes are whole users, rounded up. What cannot be had is `None`, with the reason."""

    n_control: int | None
    n_treatment: int | None
    power: float | None
    effect: float | None
    effect_relative: float | None
    null_reason: str | None


def complete(plan: Plan) -> Answer:
    """Compute what the plan leaves open.

    Raises:
        Invalid: a value is outside its range; the message names it.
    """
    try:
        return _completed(plan)
    except (ValueError, ArithmeticError) as error:
        raise Invalid.field("body", str(error)) from error


def _completed(plan: Plan) -> Answer:
    if plan.n_control is None:
        return _with_sizes(plan, _sample_size(plan))
    if plan.power is None:
        return _answer(plan, n_control=plan.n_control, power=_power(plan), effect=plan.effect)
    found = _detectable(plan)
    return _answer(
        plan,
        n_control=plan.n_control,
        power=plan.power,
        effect=found.absolute,
        null_reason=found.null_reason,
    )


def _sample_size(plan: Plan) -> SampleSize:
    effect, power = _given(plan.effect), _given(plan.power)
    if not plan.kind.is_rate:
        return sample_size_means(
            std=plan.remaining_std, difference=effect, power=power, design=plan.design, method=plan.method
        )
    found = sample_size_proportions(baseline=_given(plan.baseline), effect=effect, power=power, design=plan.design)
    if found.n_control is None:
        return found
    # Every variance of the z test is that much smaller, so that many fewer users have the same power.
    return sizes(found.n_control * plan.remaining_variance, plan.design)


def _power(plan: Plan) -> float:
    effect, n_control = _given(plan.effect), _given(plan.n_control)
    if not plan.kind.is_rate:
        return power_means(
            std=plan.remaining_std, difference=effect, n_control=n_control, design=plan.design, method=plan.method
        )
    return power_proportions(
        baseline=_given(plan.baseline),
        effect=effect,
        n_control=n_control / plan.remaining_variance,
        design=plan.design,
    )


def _detectable(plan: Plan) -> DetectableEffect:
    power, n_control = _given(plan.power), _given(plan.n_control)
    if not plan.kind.is_rate:
        return mde_means(
            std=plan.remaining_std,
            n_control=n_control,
            power=power,
            baseline=plan.baseline,
            design=plan.design,
            method=plan.method,
        )
    return mde_proportions(
        baseline=_given(plan.baseline),
        n_control=n_control / plan.remaining_variance,
        power=power,
        design=plan.design,
    )


def _with_sizes(plan: Plan, size: SampleSize) -> Answer:
    return _answer(plan, n_control=size.n_control, power=plan.power, effect=plan.effect, null_reason=size.null_reason)


def _answer(
    plan: Plan,
    *,
    n_control: float | None,
    power: float | None,
    effect: float | None,
    null_reason: str | None = None,
) -> Answer:
    ratio = plan.design.ratio_treatment_to_control
    relative = effect / plan.baseline if effect is not None and plan.baseline else None
    return Answer(
        n_control=None if n_control is None else math.ceil(n_control),
        n_treatment=None if n_control is None else math.ceil(n_control * ratio),
        power=power,
        effect=effect,
        effect_relative=relative if relative is not None and math.isfinite(relative) else None,
        null_reason=null_reason,
    )


def _given(value: float | None) -> float:
    assert value is not None  # noqa: S101  # The schema sees to it.
    return value
