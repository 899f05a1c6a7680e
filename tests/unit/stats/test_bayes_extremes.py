"""Beliefs under priors of next to no units, of absurdly many, and on scales that hardly fit into doubles.

The expected numbers were found by quadrature with 30 digits on the logit scale, the limits by halving with 18.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from app.stats.bayes_best import prob_best_rate, prob_best_value
from app.stats.bayes_difference import RateDifference, bayes_rate_difference
from app.stats.bayes_effect import EffectPosterior, NormalPrior, bayes_normal
from app.stats.bayes_rates import BetaComparison, bayes_beta_binomial, bayes_prob_best
from app.stats.effects import Scale
from app.stats.rate_belief import BetaPrior
from app.stats.reasons import NullReason
from app.stats.samples import MeanSample, Proportion

Counts = tuple[int, int]
Compare = Callable[..., RateDifference | BetaComparison]

# Of both priors' parameters, control and treatment: the chance that the treatment is better, the loss of choosing it,
# the loss of choosing the control.
_SMALL_PRIORS = [
    ((0.05, 0.05), (0, 0), (0, 0), 0.5, 0.24832975813481148, 0.24832975813481148),
    ((0.05, 0.05), (0, 1), (1, 1), 0.996659516269623, 0.000725768701699826, 0.909816677792609),
    ((0.05, 0.05), (0, 50), (1, 50), 0.968545827083186, 0.000297023012510877, 0.0202571028528302),
    ((0.05, 0.05), (50, 50), (9999, 10_000), 0.230306239191916, 8.06338348588642e-05, 0.000973638876864332),
    ((0.1, 0.1), (3, 5), (4, 5), 0.777437249864625, 0.0346185400343898, 0.226926232342082),
    ((0.05, 50), (0, 0), (1, 5), 0.966228462217119, 0.000316585638630088, 0.0183911541219179),
    ((50, 0.05), (1, 5), (5, 5), 0.998767600057368, 1.59008058906594e-05, 0.0726771178812767),
    ((0.5, 0.5), (0, 10_000), (0, 50), 0.954947430169823, 3.00206640563689e-06, 0.00975692863453314),
    ((0.05, 1e6), (0, 10_000), (1, 10_000), 0.968308426044979, 1.49893489089643e-08, 1.00508830979515e-06),
]


@pytest.mark.parametrize("compare", [bayes_rate_difference, bayes_beta_binomial])
@pytest.mark.parametrize(("prior", "control", "treatment", "better", "loss", "loss_of_control"), _SMALL_PRIORS)
def test_beliefs_about_rates__priors_of_next_to_no_units__are_those_of_exact_quadrature(
    compare: Compare,
    prior: tuple[float, float],
    control: Counts,
    treatment: Counts,
    better: float,
    loss: float,
    loss_of_control: float,
) -> None:
    found = compare(
        Proportion(*control), Proportion(*treatment), prior=BetaPrior(alpha=prior[0], beta=prior[1]), credibility=0.9
    )

    assert found.prob_treatment_better == pytest.approx(better, abs=1e-9)
    assert found.expected_loss_choose_treatment == pytest.approx(loss, rel=1e-6)
    assert found.expected_loss_choose_control == pytest.approx(loss_of_control, rel=1e-8)


@pytest.mark.parametrize(
    ("prior", "control", "treatment", "lower", "upper"),
    [
        ((0.05, 0.05), (0, 1), (1, 1), 0.4047926410823, 1.0),
        # Newton's method goes to and fro at the kink at 0 that these two have.
        ((0.05, 0.05), (0, 50), (1, 50), 0.0004773060534917, 0.06036781115241),
        ((0.05, 1e6), (0, 10_000), (1, 10_000), 2.292674232183e-08, 3.026796083307e-06),
        ((0.05, 0.05), (50, 50), (9999, 10_000), -0.0002823185835943, 0.005245930937705),
        ((0.1, 0.1), (3, 5), (4, 5), -0.2404923111615, 0.6104745642867),
        ((0.05, 50), (0, 0), (1, 5), 0.0003816550444407, 0.05494950916378),
        ((50, 0.05), (1, 5), (5, 5), 0.02493522019782, 0.1377896759664),
        ((0.5, 0.5), (0, 10_000), (0, 50), 4.406997091263e-06, 0.03745130124244),
    ],
)
def test_bayes_rate_difference__priors_of_next_to_no_units__has_the_limits_of_exact_quadrature(
    prior: tuple[float, float], control: Counts, treatment: Counts, lower: float, upper: float
) -> None:
    found = bayes_rate_difference(
        Proportion(*control), Proportion(*treatment), prior=BetaPrior(alpha=prior[0], beta=prior[1]), credibility=0.9
    )

    assert (found.lower, found.upper) == pytest.approx((lower, upper), rel=1e-6)


def test_bayes_rate_difference__narrow_belief_over_a_long_tail__is_not_missed_between_nodes() -> None:
    found = bayes_rate_difference(
        Proportion(0, 5), Proportion(5000, 10_000), prior=BetaPrior(alpha=0.05, beta=50), credibility=0.99
    )

    assert (found.lower, found.upper) == pytest.approx((0.4684541419676, 0.5101452679927), abs=1e-9)


_PRIORS = [0.05, 0.1, 0.5, 1.0, 2.0, 50.0, 1e6]
_ARMS = [(0, 0), (0, 1), (5, 5), (1, 50), (5000, 10_000), (10**7 - 1, 10**7)]


@pytest.mark.parametrize(("prior", "arm"), list(itertools.product(_PRIORS, _ARMS)))
def test_beliefs_about_rates__equal_arms__prefer_none(prior: float, arm: Counts) -> None:
    arms, belief = [Proportion(*arm)] * 2, BetaPrior(alpha=prior, beta=prior)

    for found in (bayes_rate_difference(*arms, prior=belief), bayes_beta_binomial(*arms, prior=belief)):
        assert found.prob_treatment_better == 0.5
        assert found.expected_loss_choose_control == pytest.approx(found.expected_loss_choose_treatment, rel=1e-12)
    assert (found := bayes_rate_difference(*arms, prior=belief)).lower == -found.upper
    assert bayes_prob_best(arms, prior=belief) == (0.5, 0.5)
    assert prob_best_rate([*arms, arms[0]], prior=belief) == pytest.approx([1 / 3] * 3, abs=1e-15)
    assert prob_best_rate(arms, prior=belief, lowest=True) == (0.5, 0.5)


_COUNTS = st.one_of(st.sampled_from([0, 1, 2, 5, 50, 10_000, 10**7, 10**12, 2**63]), st.integers(0, 2000)).flatmap(
    lambda n: st.builds(Proportion, st.one_of(st.sampled_from([0, n // 2, n]), st.integers(0, n)), st.just(n))
)
_PARAMETERS = st.one_of(st.sampled_from([*_PRIORS, 1e15]), st.floats(0.05, 1e3))


@settings(max_examples=60, deadline=None)
@given(_COUNTS, _COUNTS, _PARAMETERS, _PARAMETERS)
def test_bayes_rate_difference__any_prior_and_arms__mirrors_when_arms_or_outcomes_are_swapped(
    control: Proportion, treatment: Proportion, alpha: float, beta: float
) -> None:
    one = bayes_rate_difference(control, treatment, prior=BetaPrior(alpha=alpha, beta=beta))
    swapped = bayes_rate_difference(treatment, control, prior=BetaPrior(alpha=alpha, beta=beta))
    failures = [Proportion(arm.trials - arm.successes, arm.trials) for arm in (control, treatment)]
    of_failures = bayes_rate_difference(*failures, prior=BetaPrior(alpha=beta, beta=alpha))

    for other in (swapped, of_failures):
        # Counts beyond 2**53 are not exact in doubles.
        assert one.prob_treatment_better + other.prob_treatment_better == pytest.approx(1, abs=1e-7)
        assert one.expected_loss_choose_control == pytest.approx(
            other.expected_loss_choose_treatment, rel=1e-6, abs=1e-12
        )
        assert (one.lower, one.upper) == pytest.approx((-other.upper, -other.lower), rel=1e-5, abs=1e-12)
    assert -1 <= one.lower <= one.upper <= 1


@settings(max_examples=40, deadline=None)
@given(st.lists(_COUNTS, min_size=1, max_size=4), _PARAMETERS, _PARAMETERS)
def test_prob_best_rate__any_prior_and_arms__is_what_finer_integration_finds(
    arms: list[Proportion], alpha: float, beta: float
) -> None:
    prior = BetaPrior(alpha=alpha, beta=beta)

    found = prob_best_rate(arms, prior=prior)

    assert found == pytest.approx(bayes_prob_best(arms, prior=prior), abs=1e-6)
    assert sum(found) == pytest.approx(1, abs=1e-12)


def test_beliefs_about_rates__more_units_than_the_world_has__are_the_normal_limit() -> None:
    n = 2**62
    control, treatment = Proportion(n // 2, n), Proportion(n // 2 + 2**30, n)
    # The difference in units of its standard deviation, sqrt(2 / (4 n)).
    score = 2**30 / n * math.sqrt(2 * n)

    for better in (
        bayes_rate_difference(control, treatment).prob_treatment_better,
        bayes_beta_binomial(control, treatment).prob_treatment_better,
        prob_best_rate([control, treatment])[1],
    ):
        assert better == pytest.approx(special.ndtr(score), abs=1e-6)


@pytest.mark.parametrize("value", [0.049, 0.0, -1.0, 1e16, 1e300, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_beta_prior__absurd_parameter__is_refused_with_its_name_and_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"prior {name} must lie between 0\.05 and 1000000000000000\.0, got "):
        BetaPrior(**{name: value})


@pytest.mark.parametrize("credibility", [0.0, 1.0, -0.5, 95.0, math.nan, math.inf])
def test_beliefs__absurd_credibility__is_refused(credibility: float) -> None:
    arm, values = Proportion(3, 10), MeanSample.from_sums(n=10, sum_values=3, sum_squares=20)

    for ask in (bayes_rate_difference, bayes_beta_binomial):
        with pytest.raises(ValueError, match="credibility must lie strictly between 0 and 1"):
            ask(arm, arm, credibility=credibility)
    with pytest.raises(ValueError, match="credibility must lie strictly between 0 and 1"):
        bayes_normal(values, values, credibility=credibility)


def _mean(n: int, mean: float, sd: float) -> MeanSample:
    """Return exact sums, whatever the scale."""
    first, spread = Fraction(mean), Fraction(sd)
    return MeanSample.from_sums(n=n, sum_values=n * first, sum_squares=n * first * first + (n - 1) * spread * spread)


def _on(scale: float, prior: NormalPrior | None) -> EffectPosterior:
    control, treatment = _mean(100, 10 * scale, 3 * scale), _mean(120, 10.5 * scale, 4 * scale)
    return bayes_normal(control, treatment, prior=prior)


@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-330, 1.0, 2.0**330, 2.0**480])
def test_bayes_normal__tiny_and_huge_scales__change_the_unit_alone(scale: float) -> None:
    usual = _on(1.0, NormalPrior(mean=0.1, variance=0.25))

    found = _on(scale, NormalPrior(mean=0.1 * scale, variance=0.25 * scale * scale))

    assert found.prob_treatment_better == pytest.approx(usual.prob_treatment_better, rel=1e-12)
    for name in ("mean", "sd", "lower", "upper", "expected_loss_choose_control", "expected_loss_choose_treatment"):
        assert getattr(found, name) / scale == pytest.approx(getattr(usual, name), rel=1e-10)


@pytest.mark.parametrize("variance", [1e-300, 1e-200, 1e-30])
def test_bayes_normal__prior_that_is_nearly_certain__is_hardly_moved(variance: float) -> None:
    found = _on(1.0, NormalPrior(mean=0.0, variance=variance))

    assert found.sd == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert found.prob_treatment_better == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("variance", [1e30, 1e200, 1.7e308])
def test_bayes_normal__prior_that_says_nothing__is_none(variance: float) -> None:
    found, flat = _on(1.0, NormalPrior(mean=-7.0, variance=variance)), _on(1.0, None)

    assert (found.mean, found.sd) == pytest.approx((flat.mean, flat.sd), rel=1e-12)
    assert found.prob_treatment_better == pytest.approx(flat.prob_treatment_better, rel=1e-12)


@pytest.mark.parametrize("variance", [2.0**-900, 2.0**-600, 2.0**900])
def test_bayes_normal__variances_whose_product_no_double_holds__weigh_alike(variance: float) -> None:
    values = [_mean(2, 0.0, math.sqrt(variance)), _mean(2, 0.0, math.sqrt(variance))]

    found = bayes_normal(*values, prior=NormalPrior(mean=math.sqrt(variance), variance=variance))

    assert found.mean == pytest.approx(math.sqrt(variance) / 2, rel=1e-12)
    assert found.sd == pytest.approx(math.sqrt(variance / 2), rel=1e-12)


@pytest.mark.parametrize("variance", [5e-324, 1e-310])
def test_bayes_normal__variance_below_the_doubles__is_out_of_range(variance: float) -> None:
    assert _on(1.0, NormalPrior(mean=0.0, variance=variance)).null_reason is NullReason.OUT_OF_RANGE


@pytest.mark.parametrize("scale", list(Scale))
def test_bayes_normal__no_spread_and_any_prior__says_so(scale: Scale) -> None:
    values = [_mean(100, 1.0, 0.0), _mean(100, 2.0, 0.0)]

    found = bayes_normal(*values, scale=scale, prior=NormalPrior(mean=0.0, variance=1.0))

    assert found.null_reason is NullReason.ZERO_VARIANCE
    assert found.prob_treatment_better is None


@pytest.mark.parametrize("scale", [2.0**-430, 1.0, 2.0**430])
def test_prob_best_value__means_far_above_their_deviations__keep_their_difference(scale: float) -> None:
    near, far = [[_mean(100, mean * scale, 1e-3 * scale) for mean in (at, at + 2.0**-12)] for at in (0.0, 2.0**40)]

    found = prob_best_value(far)

    assert found is not None
    assert found == pytest.approx(prob_best_value(near), rel=1e-9)
    assert 0.9 < found[1] < 0.99


def test_prob_best_value__prior_far_off_and_nearly_certain__is_not_lost() -> None:
    values = [_mean(100, 1.0, 1.0), _mean(100, 1.0, 1.0)]

    found = prob_best_value(values, priors=[NormalPrior(mean=1.0, variance=1e-10), None])

    assert found == pytest.approx((0.5, 0.5), abs=1e-9)


@pytest.mark.parametrize("best", [prob_best_rate, bayes_prob_best])
def test_prob_best__one_arm__is_certain(best: Callable[..., tuple[float, ...]]) -> None:
    assert best([Proportion(0, 0)], prior=BetaPrior(alpha=0.05, beta=1e15)) == (1.0,)


def test_prob_best_rate__ten_equal_arms_of_many_units__share_it() -> None:
    found = prob_best_rate([Proportion(2**61, 2**62)] * 10)

    assert np.array(found) == pytest.approx(np.full(10, 0.1), abs=1e-12)


def _values(*values: float) -> MeanSample:
    exact = [Fraction(value) for value in values]
    return MeanSample.from_sums(n=len(exact), sum_values=sum(exact), sum_squares=sum(value**2 for value in exact))


@pytest.mark.parametrize("far", [1e13, 1e21, -1e30])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_prob_best_value__one_arm_is_hardly_known__the_others_keep_their_order(far: float, place: int) -> None:
    near = [_values(1.0, 2.0, 3.0, 4.0), _values(2.0, 3.0, 4.0, 6.0)]
    arms = [*near[:place], _values(far, 1.0, 2.0, 3.0), *near[place:]]
    found = prob_best_value(arms)

    assert found is not None
    of_two = bayes_normal(*near).prob_treatment_better
    wide = bayes_normal(near[0], arms[place]).prob_treatment_better
    assert of_two is not None
    assert wide is not None
    assert found[place] == pytest.approx(wide, abs=1e-6)
    # Which of the two is better has nothing to do with the third.
    others = [chance for index, chance in enumerate(found) if index != place]
    assert others == pytest.approx([(1 - wide) * (1 - of_two), (1 - wide) * of_two], abs=1e-6)
