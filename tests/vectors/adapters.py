"""From the reference cases to the statistics engine: one function per group of `stats_cases.json`.

Each takes a case's `inputs` as keyword arguments and returns a dict that holds, among others, the keys of
`expected`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from app.stats import (
    bayes_effect,
    bayes_rates,
    cuped,
    lift,
    means,
    multiple,
    planning,
    power_means,
    power_rates,
    proportions,
    ratios,
    sequential,
    srm,
)
from app.stats.comparisons import Comparison
from app.stats.distributions import Alternative, Distribution
from app.stats.effects import Scale
from app.stats.rate_belief import BetaPrior
from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample

# A case's values are whatever its JSON holds.
Arm: TypeAlias = Mapping[str, Any]
Result: TypeAlias = dict[str, Any]

_ALTERNATIVES = {
    "two-sided": Alternative.TWO_SIDED,
    "two_sided": Alternative.TWO_SIDED,
    "greater": Alternative.GREATER,
    "larger": Alternative.GREATER,
    "less": Alternative.LESS,
    "smaller": Alternative.LESS,
}
_DIFFERENCE_METHODS = {
    "newcomb": proportions.DifferenceMethod.NEWCOMBE,
    "agresti-caffo": proportions.DifferenceMethod.AGRESTI_CAFFO,
    "score": proportions.DifferenceMethod.MIETTINEN_NURMINEN,
}
_DISTRIBUTIONS = {
    "welch_t": Distribution.WELCH_T,
    "t": Distribution.WELCH_T,
    "normal": Distribution.NORMAL,
    "z": Distribution.NORMAL,
}


def sample(arm: Arm) -> Proportion | MeanSample | RatioSample:
    """Return the statistics of an arm, by the keys it has."""
    if "successes" in arm:
        return proportion(arm)
    return RatioSample.from_sums(**counted(arm)) if "num_sum" in arm else mean_sample(arm)


def proportion(arm: Arm) -> Proportion:
    return Proportion(successes=int(arm["successes"]), trials=int(arm["trials"]))


def mean_sample(arm: Arm) -> MeanSample:
    return MeanSample.from_sums(n=int(arm["n"]), sum_values=arm["sum"], sum_squares=arm["sum_squares"])


def counted(arm: Arm) -> Arm:
    """Return the arm with its number of units as a whole one, however JSON wrote it."""
    return {**arm, "n": int(arm["n"])}


def wilson_interval(*, successes: int, trials: int, confidence: float = 0.95) -> Result:
    interval = proportions.wilson_interval(Proportion(int(successes), int(trials)), confidence=confidence)
    return {
        "estimate": interval.estimate,
        "lower": interval.lower,
        "upper": interval.upper,
        "null_reason": interval.null_reason,
    }


def difference_of_proportions(
    *, control: Arm, treatment: Arm, confidence: float = 0.95, method: str = "newcombe"
) -> Result:
    interval = proportions.difference_of_proportions(
        proportion(control),
        proportion(treatment),
        confidence=confidence,
        method=_DIFFERENCE_METHODS.get(method) or proportions.DifferenceMethod(method),
    )
    return {
        "difference": interval.estimate,
        "lower": interval.lower,
        "upper": interval.upper,
        "null_reason": interval.null_reason,
    }


def two_proportion_test(
    *,
    control: Arm,
    treatment: Arm,
    variance: str = "pooled",
    continuity_correction: bool = False,
    alternative: str = "two-sided",
) -> Result:
    test = proportions.two_proportion_test(
        proportion(control),
        proportion(treatment),
        variance=proportions.RateVariance(variance),
        continuity_correction=continuity_correction,
        alternative=_ALTERNATIVES[alternative],
    )
    return {"statistic": test.statistic, "p_value": test.p_value, "null_reason": test.null_reason}


def k_proportion_chi_square(*, arms: Sequence[Arm]) -> Result:
    test = proportions.k_proportion_chi_square([proportion(arm) for arm in arms])
    return {
        "statistic": test.statistic,
        "df": test.df,
        "p_value": test.p_value,
        "null_reason": test.null_reason,
    }


def welch_t_test(*, control: Arm, treatment: Arm, confidence: float = 0.95, alternative: str = "two-sided") -> Result:
    comparison = means.welch_t_test(
        mean_sample(control),
        mean_sample(treatment),
        confidence=confidence,
        alternative=_ALTERNATIVES[alternative],
    )
    return _compared(comparison, "mean")


def ratio_delta_method(
    *,
    control: Arm,
    treatment: Arm,
    confidence: float = 0.95,
    distribution: str = "welch_t",
    alternative: str = "two-sided",
) -> Result:
    comparison = ratios.ratio_difference(
        RatioSample.from_sums(**counted(control)),
        RatioSample.from_sums(**counted(treatment)),
        confidence=confidence,
        alternative=_ALTERNATIVES[alternative],
        distribution=_DISTRIBUTIONS[distribution],
    )
    return _compared(comparison, "ratio")


def cuped_mean(
    *,
    control: Arm,
    treatment: Arm,
    confidence: float = 0.95,
    distribution: str = "welch_t",
    alternative: str = "two-sided",
) -> Result:
    result = cuped.cuped_difference(
        CovariateSample.from_sums(**counted(control)),
        CovariateSample.from_sums(**counted(treatment)),
        confidence=confidence,
        alternative=_ALTERNATIVES[alternative],
        distribution=_DISTRIBUTIONS[distribution],
    )
    return {"theta": result.theta, **_compared(result.comparison, "adjusted_mean")}


def _compared(comparison: Comparison, value: str) -> Result:
    return {
        f"control_{value}": comparison.control,
        f"treatment_{value}": comparison.treatment,
        "difference": comparison.difference,
        "lower": comparison.lower,
        "upper": comparison.upper,
        "statistic": comparison.statistic,
        "df": comparison.df,
        "p_value": comparison.p_value,
        "null_reason": comparison.null_reason,
    }


def srm_chi_square(*, observed: Sequence[int], expected_weights: Sequence[float]) -> Result:
    test = srm.srm_chi_square([int(count) for count in observed], expected_weights)
    return {
        "statistic": test.statistic,
        "df": test.df,
        "p_value": test.p_value,
        "null_reason": test.null_reason,
    }


def srm_sequential(
    *,
    observed: Sequence[int],
    expected_weights: Sequence[float],
    dirichlet_concentration: float = 100.0,
) -> Result:
    counts = [int(count) for count in observed]
    evidence = srm.srm_sequential(counts, expected_weights, dirichlet_concentration=dirichlet_concentration)
    return {
        "log_bayes_factor": evidence.log_bayes_factor,
        "p_value_now": evidence.p_value_now,
        "null_reason": evidence.null_reason,
    }


def always_valid_interval(
    *,
    control: Arm,
    treatment: Arm,
    alpha: float = 0.05,
    tuning_sample_size: float = 5000,
    difference: str = "absolute",
) -> Result:
    interval = sequential.always_valid_interval(
        sample(control),
        sample(treatment),
        alpha=alpha,
        tuning_sample_size=tuning_sample_size,
        scale=Scale(difference),
    )
    return {
        "difference_estimate": interval.estimate,
        "rho_squared": interval.rho_squared,
        "lower": interval.lower,
        "upper": interval.upper,
        "p_value": interval.p_value,
        "null_reason": interval.null_reason,
    }


def bayes_beta_binomial(
    *,
    control: Arm,
    treatment: Arm,
    prior_alpha: float = 1.0,
    prior_beta: float = 1.0,
    credibility: float = 0.95,
) -> Result:
    belief = bayes_rates.bayes_beta_binomial(
        proportion(control),
        proportion(treatment),
        prior=BetaPrior(alpha=prior_alpha, beta=prior_beta),
        credibility=credibility,
    )
    return {
        "prob_treatment_better": belief.prob_treatment_better,
        "expected_loss_choose_treatment": belief.expected_loss_choose_treatment,
        "expected_loss_choose_control": belief.expected_loss_choose_control,
        "control_posterior_mean": belief.control_posterior_mean,
        "treatment_posterior_mean": belief.treatment_posterior_mean,
        "control_interval": list(belief.control_interval),
        "treatment_interval": list(belief.treatment_interval),
        "relative_lift_interval": list(belief.relative_lift_interval),
    }


def bayes_prob_best(*, arms: Sequence[Arm], prior_alpha: float = 1.0, prior_beta: float = 1.0) -> Result:
    chances = bayes_rates.bayes_prob_best(
        [proportion(arm) for arm in arms],
        prior=BetaPrior(alpha=prior_alpha, beta=prior_beta),
    )
    return {"prob_best": list(chances)}


def bayes_normal(
    *,
    control: Arm,
    treatment: Arm,
    difference: str = "absolute",
    prior: Arm | None = None,
    credibility: float = 0.95,
) -> Result:
    proper = prior is not None and prior.get("proper", True)
    belief = bayes_effect.bayes_normal(
        sample(control),
        sample(treatment),
        scale=Scale(difference),
        prior=bayes_effect.NormalPrior(mean=prior["mean"], variance=prior["variance"])
        if prior is not None and proper
        else None,
        credibility=credibility,
    )
    return {
        "posterior_mean": belief.mean,
        "posterior_sd": belief.sd,
        "prob_treatment_better": belief.prob_treatment_better,
        "lower": belief.lower,
        "upper": belief.upper,
        "expected_loss_choose_control": belief.expected_loss_choose_control,
        "expected_loss_choose_treatment": belief.expected_loss_choose_treatment,
        "null_reason": belief.null_reason,
    }


def power(
    *,
    kind: str,
    method: str | None = None,
    alternative: str = "two-sided",
    alpha: float = 0.05,
    ratio_treatment_to_control: float = 1.0,
    **asked: float,
) -> Result:
    design = planning.Design(
        alpha=alpha,
        alternative=_ALTERNATIVES[alternative],
        ratio_treatment_to_control=ratio_treatment_to_control,
    )
    if kind.endswith("_proportions"):
        return _power_of_rates(kind, design, power_rates.RatePower(method or "z_pooled_null"), asked)
    return _power_of_means(kind, design, power_means.MeanPower(method or "noncentral_t"), asked)


def _power_of_rates(
    kind: str, design: planning.Design, method: power_rates.RatePower, asked: Mapping[str, float]
) -> Result:
    baseline = asked["baseline"]
    match kind:
        case "sample_size_proportions":
            return _sizes(
                power_rates.sample_size_proportions(
                    baseline=baseline,
                    effect=_effect(asked, baseline),
                    power=asked["power"],
                    design=design,
                    method=method,
                )
            )
        case "power_proportions":
            found = power_rates.power_proportions(
                baseline=baseline,
                effect=_effect(asked, baseline),
                n_control=asked["n_control"],
                design=design,
                method=method,
            )
            return {"power": found}
        case "mde_proportions":
            return _detectable(
                power_rates.mde_proportions(
                    baseline=baseline,
                    n_control=asked["n_control"],
                    power=asked["power"],
                    design=design,
                    method=method,
                )
            )
        case _:
            raise ValueError(f"unknown kind {kind}")


def _power_of_means(
    kind: str, design: planning.Design, method: power_means.MeanPower, asked: Mapping[str, float]
) -> Result:
    std, baseline = asked["std"], asked.get("baseline")
    match kind:
        case "sample_size_means":
            return _sizes(
                power_means.sample_size_means(
                    std=std,
                    difference=_effect(asked, baseline),
                    power=asked["power"],
                    design=design,
                    method=method,
                )
            )
        case "power_means":
            found = power_means.power_means(
                std=std,
                difference=_effect(asked, baseline),
                n_control=asked["n_control"],
                design=design,
                method=method,
            )
            return {"power": found}
        case "mde_means":
            effect = power_means.mde_means(
                std=std,
                n_control=asked["n_control"],
                power=asked["power"],
                baseline=baseline,
                design=design,
                method=method,
            )
            return {"difference": effect.absolute, **_detectable(effect)}
        case _:
            raise ValueError(f"unknown kind {kind}")


def _effect(asked: Mapping[str, float], baseline: float | None) -> float:
    """Return the effect a case asks about, which it gives as a difference or as a lift."""
    for name in ("difference", "mde_absolute", "effect"):
        if name in asked:
            return asked[name]
    return asked["mde_relative"] * (baseline or 0.0)


def _sizes(size: planning.SampleSize) -> Result:
    return {
        "n_control": size.n_control,
        "n_treatment": size.n_treatment,
        "null_reason": size.null_reason,
    }


def _detectable(effect: planning.DetectableEffect) -> Result:
    return {
        "mde_absolute": effect.absolute,
        "mde_relative": effect.relative,
        "null_reason": effect.null_reason,
    }


def multiple_testing(*, p_values: Sequence[float], method: str, alpha: float = 0.05) -> Result:
    tests = multiple.adjust_p_values(p_values, method=multiple.Correction(method), alpha=alpha)
    return {"adjusted": list(tests.adjusted), "rejected": [int(flag) for flag in tests.rejected]}


# A log ratio without a named distribution: the normal for rates, Welch's t for means.
_LIFT_METHODS = {
    "delta": lift.LiftMethod.DELTA_WELCH_T,
    "fieller": lift.LiftMethod.FIELLER_NORMAL,
    **{str(method): method for method in lift.LiftMethod},
}


def relative_lift(*, control: Arm, treatment: Arm, method: str, confidence: float = 0.95) -> Result:
    arms = sample(control), sample(treatment)
    if method == "log_ratio":
        rates = isinstance(arms[0], Proportion)
        chosen = lift.LiftMethod.LOG_RATIO_NORMAL if rates else lift.LiftMethod.LOG_RATIO_WELCH_T
    else:
        chosen = _LIFT_METHODS[method]
    result = lift.relative_lift(*arms, confidence=confidence, method=chosen)
    return {
        "lift": result.lift,
        "lower": result.lower,
        "upper": result.upper,
        "p_value": result.p_value,
        "standard_error": result.standard_error,
        "null_reason": result.null_reason,
    }
