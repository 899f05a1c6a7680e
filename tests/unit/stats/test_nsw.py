"""A real randomised experiment, against scipy and statsmodels: CUPED on earlier earnings, quantiles, beliefs.

The National Supported Work demonstration: R. Dehejia, S. Wahba, "Causal Effects in Nonexperimental Studies",
JASA 94 (1999). 445 men, 185 of them treated; earnings in 1975, before, and in 1978, after.
"""

import csv
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from scipy import integrate, stats

from app.stats.bayes_effect import NormalPrior, bayes_normal
from app.stats.bayes_rates import bayes_beta_binomial, bayes_prob_best
from app.stats.cuped import cuped_difference, cuped_estimates
from app.stats.lift import LiftMethod, relative_lift
from app.stats.means import value_interval, welch_t_test
from app.stats.quantiles import quantile_ranks
from app.stats.rate_belief import BetaPrior
from app.stats.samples import CovariateSample, MeanSample, Proportion

DATA = Path(__file__).parents[2] / "fixtures" / "nsw.csv"

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Arm:
    """Earnings of one arm's men, before and after."""

    before: Values
    after: Values

    def sample(self) -> CovariateSample:
        return CovariateSample.from_sums(
            n=len(self.after),
            post_sum=float(self.after.sum()),
            post_sum_squares=float(self.after @ self.after),
            pre_sum=float(self.before.sum()),
            pre_sum_squares=float(self.before @ self.before),
            post_pre_sum_products=float(self.after @ self.before),
        )

    def employed(self) -> Proportion:
        return Proportion(int(np.sum(self.after > 0)), len(self.after))


@dataclass(frozen=True)
class Experiment:
    control: Arm
    treatment: Arm

    def means(self) -> tuple[MeanSample, MeanSample]:
        return self.control.sample().sums.first, self.treatment.sample().sums.first


@pytest.fixture(scope="module")
def nsw() -> Experiment:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def arm(treated: bool) -> Arm:  # noqa: FBT001 - the column is a flag.
        chosen = [row for row in rows if (row["treat"] == "1") is treated]
        return Arm(np.array([float(row["re75"]) for row in chosen]), np.array([float(row["re78"]) for row in chosen]))

    return Experiment(control=arm(treated=False), treatment=arm(treated=True))


def test_welch__nsw__is_that_of_scipy(nsw: Experiment) -> None:
    wanted = stats.ttest_ind(nsw.treatment.after, nsw.control.after, equal_var=False)

    result = welch_t_test(*nsw.means())

    assert result.statistic == pytest.approx(float(wanted.statistic), rel=1e-12)
    assert result.p_value == pytest.approx(float(wanted.pvalue), rel=1e-10)
    interval = wanted.confidence_interval()
    assert (result.lower, result.upper) == pytest.approx((float(interval.low), float(interval.high)), rel=1e-10)


def test_cuped__nsw__theta_is_the_slope_of_a_regression_over_both_arms(nsw: Experiment) -> None:
    before, after = both(nsw)
    slope = sm.OLS(after, sm.add_constant(before)).fit().params[1]

    result = cuped_difference(nsw.control.sample(), nsw.treatment.sample())

    assert result.theta == pytest.approx(float(slope), rel=1e-10)


def test_cuped__nsw__is_welchs_test_of_the_residuals(nsw: Experiment) -> None:
    before, after = both(nsw)
    slope = float(sm.OLS(after, sm.add_constant(before)).fit().params[1])
    residuals = [arm.after - slope * (arm.before - before.mean()) for arm in (nsw.treatment, nsw.control)]
    wanted = stats.ttest_ind(residuals[0], residuals[1], equal_var=False)

    result = cuped_difference(nsw.control.sample(), nsw.treatment.sample())

    comparison = result.comparison
    assert comparison.difference == pytest.approx(float(residuals[0].mean() - residuals[1].mean()), rel=1e-10)
    assert comparison.statistic == pytest.approx(float(wanted.statistic), rel=1e-10)
    assert comparison.df == pytest.approx(float(wanted.df), rel=1e-10)
    assert comparison.p_value == pytest.approx(float(wanted.pvalue), rel=1e-9)
    interval = wanted.confidence_interval()
    assert (comparison.lower, comparison.upper) == pytest.approx((float(interval.low), float(interval.high)), rel=1e-9)
    assert comparison.control == pytest.approx(float(residuals[1].mean()), rel=1e-12)


def test_cuped__nsw__reduces_the_variance_by_about_the_squared_correlation(nsw: Experiment) -> None:
    before, after = both(nsw)
    correlation = float(np.corrcoef(before, after)[0, 1])
    plain = welch_t_test(*nsw.means())

    result = cuped_difference(nsw.control.sample(), nsw.treatment.sample())

    assert result.variance_ratio is not None
    # Earnings of 1975 say little about those of 1978: 2 to 3 % of the variance.
    assert result.variance_ratio == pytest.approx(1.0 - correlation**2, abs=0.01)
    assert 0.95 < result.variance_ratio < 1.0
    assert plain.lower is not None
    assert result.comparison.lower is not None
    assert result.comparison.upper is not None
    assert plain.upper is not None
    assert result.comparison.upper - result.comparison.lower < plain.upper - plain.lower


def test_cuped__nsw__is_near_the_regression_with_the_covariate(nsw: Experiment) -> None:
    """Analysis of covariance estimates the same effect; it takes its slope within the arms."""
    before, after = both(nsw)
    treated = np.repeat([0.0, 1.0], [len(nsw.control.after), len(nsw.treatment.after)])
    fitted = sm.OLS(after, sm.add_constant(np.column_stack([treated, before]))).fit(cov_type="HC2")

    result = cuped_difference(nsw.control.sample(), nsw.treatment.sample()).comparison

    assert result.difference == pytest.approx(float(fitted.params[1]), rel=0.005)
    assert result.statistic is not None
    assert result.difference is not None
    assert result.difference / result.statistic == pytest.approx(float(fitted.bse[1]), rel=0.01)


def test_lift__nsw_by_fieller__solves_its_own_equation(nsw: Experiment) -> None:
    control, treatment = nsw.control.after, nsw.treatment.after
    quantile = float(stats.norm.ppf(0.975))

    result = relative_lift(*nsw.means(), method=LiftMethod.FIELLER_NORMAL)

    assert result.lift == pytest.approx(float(treatment.mean() / control.mean()) - 1.0, rel=1e-12)
    for limit in (result.lower, result.upper):
        assert limit is not None
        # At a limit, the contrast with that lift is exactly so many standard errors from 0.
        contrast = treatment.mean() - (1.0 + limit) * control.mean()
        error = math.sqrt(stats.sem(treatment) ** 2 + (1.0 + limit) ** 2 * stats.sem(control) ** 2)
        assert abs(contrast / error) == pytest.approx(quantile, rel=1e-9)


def test_lift__nsw_adjusted__keeps_the_adjusted_difference(nsw: Experiment) -> None:
    control, treatment = cuped_estimates(nsw.control.sample(), nsw.treatment.sample())
    comparison = cuped_difference(nsw.control.sample(), nsw.treatment.sample()).comparison
    assert comparison.difference is not None
    assert comparison.control is not None

    result = relative_lift(control, treatment)

    assert result.lift == pytest.approx(comparison.difference / comparison.control, rel=1e-12)


def test_beliefs__nsw_employment__are_those_of_scipy_by_integration(nsw: Experiment) -> None:
    control, treatment = nsw.control.employed(), nsw.treatment.employed()
    posteriors = [stats.beta(1 + arm.successes, 1 + arm.trials - arm.successes) for arm in (control, treatment)]
    better, _ = integrate.quad(lambda x: posteriors[1].sf(x) * posteriors[0].pdf(x), 0.4, 0.95, epsabs=1e-12)
    lost, _ = integrate.quad(lambda x: posteriors[1].cdf(x) * posteriors[0].sf(x), 0.0, 1.0, points=[0.65, 0.76])

    result = bayes_beta_binomial(control, treatment, prior=BetaPrior())

    assert result.prob_treatment_better == pytest.approx(better, abs=1e-9)
    assert result.expected_loss_choose_treatment == pytest.approx(lost, rel=1e-6)
    assert result.control_interval == pytest.approx(posteriors[0].interval(0.95), rel=1e-9)
    assert result.treatment_interval == pytest.approx(posteriors[1].interval(0.95), rel=1e-9)
    assert bayes_prob_best([control, treatment])[1] == pytest.approx(better, abs=1e-9)


def test_beliefs__nsw_employment_lift__has_the_tails_that_it_says(nsw: Experiment) -> None:
    control, treatment = nsw.control.employed(), nsw.treatment.employed()
    posteriors = [stats.beta(1 + arm.successes, 1 + arm.trials - arm.successes) for arm in (control, treatment)]

    lower, upper = bayes_beta_binomial(control, treatment).relative_lift_interval

    for limit, tail in ((lower, 0.025), (upper, 0.975)):
        below, _ = integrate.quad(
            lambda x, by=limit: posteriors[1].cdf((1.0 + by) * x) * posteriors[0].pdf(x), 0.4, 0.95, epsabs=1e-12
        )
        assert below == pytest.approx(tail, abs=1e-8)


def test_beliefs__nsw_earnings__are_the_normal_posterior(nsw: Experiment) -> None:
    difference = float(nsw.treatment.after.mean() - nsw.control.after.mean())
    variance = float(stats.sem(nsw.treatment.after) ** 2 + stats.sem(nsw.control.after) ** 2)
    prior = NormalPrior(mean=0.0, variance=1000.0**2)
    shrunk = stats.norm(
        difference * prior.variance / (prior.variance + variance),
        math.sqrt(variance * prior.variance / (prior.variance + variance)),
    )

    flat, informed = bayes_normal(*nsw.means()), bayes_normal(*nsw.means(), prior=prior)

    assert flat.prob_treatment_better == pytest.approx(float(stats.norm.sf(-difference / math.sqrt(variance))))
    assert (informed.mean, informed.sd) == pytest.approx((float(shrunk.mean()), float(shrunk.std())), rel=1e-10)
    assert (informed.lower, informed.upper) == pytest.approx(shrunk.interval(0.95), rel=1e-10)
    assert informed.prob_treatment_better == pytest.approx(float(shrunk.sf(0.0)), rel=1e-10)
    loss, _ = integrate.quad(lambda x: -x * shrunk.pdf(x), -8000, 0)
    assert informed.expected_loss_choose_treatment == pytest.approx(loss, rel=1e-6)


def test_value_interval__nsw_earnings__is_students(nsw: Experiment) -> None:
    after = nsw.treatment.after
    wanted = stats.t.interval(0.95, len(after) - 1, loc=after.mean(), scale=stats.sem(after))

    result = value_interval(nsw.means()[1])

    assert (result.lower, result.upper) == pytest.approx((float(wanted[0]), float(wanted[1])), rel=1e-10)


@pytest.mark.parametrize("level", [Fraction(1, 2), Fraction(3, 4), Fraction(19, 20)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_quantile_ranks__nsw_earnings__bound_the_interval_of_scipy(
    nsw: Experiment, level: Fraction, confidence: float
) -> None:
    for arm in (nsw.control, nsw.treatment):
        ordered, n = np.sort(arm.after), len(arm.after)
        below = int(np.sum(ordered <= np.quantile(ordered, float(level))))
        wanted = np.asarray(stats.quantile_test(arm.after, p=float(level)).confidence_interval(confidence))

        ranks = quantile_ranks(
            level,
            users=n,
            values=n,
            below=below,
            below_squares=below,
            value_squares=n,
            products=below,
            confidence=confidence,
        )

        assert ranks.lower is not None
        assert ranks.upper is not None
        assert [ordered[ranks.lower - 1], ordered[ranks.upper - 1]] == wanted.tolist()


def both(nsw: Experiment) -> tuple[Values, Values]:
    """Return earnings before and after, the control's men first."""
    return (
        np.concatenate([nsw.control.before, nsw.treatment.before]),
        np.concatenate([nsw.control.after, nsw.treatment.after]),
    )
