"""Whether groups have the same effect: Cochran's Q against a public library, at its level, and at extremes."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from app.stats.effects import Effect, Scale, effect_of
from app.stats.homogeneity import cochran_q
from app.stats.reasons import NullReason
from app.stats.samples import Proportion


def _effects(*known: tuple[float, float]) -> list[Effect]:
    return [Effect(estimate=estimate, variance=variance) for estimate, variance in known]


_NOTHING = Effect(estimate=None, variance=None, null_reason=NullReason.EMPTY_ARM)
_NO_VARIANCE = Effect(estimate=0.5, variance=None, null_reason=NullReason.ZERO_VARIANCE)
_SOME = ((0.1, 0.02), (-0.3, 0.05), (0.25, 0.01), (0.0, 0.5))


def test_cochran_q__effects_with_variances__is_what_a_public_library_says() -> None:
    found = cochran_q(_effects(*_SOME))

    public = combine_effects(np.array([d for d, _ in _SOME]), np.array([v for _, v in _SOME]))
    assert found.statistic == pytest.approx(public.q, rel=1e-12)
    assert found.i_squared == pytest.approx(max(0.0, public.i2), rel=1e-9)
    assert (found.groups, found.left_out, found.df, found.null_reason) == (4, 0, 3, None)
    assert found.p_value == pytest.approx(stats.chi2.sf(public.q, 3), rel=1e-12)


def test_cochran_q__groups_without_a_variance__are_left_out_and_counted() -> None:
    known = _effects(*_SOME)

    found = cochran_q([_NOTHING, *known, _NO_VARIANCE])

    whole = cochran_q(known)
    assert (found.groups, found.left_out) == (4, 2)
    assert (found.statistic, found.p_value, found.i_squared) == (whole.statistic, whole.p_value, whole.i_squared)


@pytest.mark.parametrize("effects", [[], [_NOTHING], _effects((0.1, 0.2)), [*_effects((0.1, 0.2)), _NO_VARIANCE]])
def test_cochran_q__fewer_than_two_groups__says_so(effects: list[Effect]) -> None:
    found = cochran_q(effects)

    assert found.null_reason is NullReason.TOO_FEW_GROUPS
    assert (found.statistic, found.df, found.p_value, found.i_squared) == (None, None, None, None)
    assert found.groups + found.left_out == len(effects)


def test_cochran_q__equal_effects__is_nothing_at_all() -> None:
    found = cochran_q(_effects((0.1, 0.02), (0.1, 3e-9), (0.1, 1e5)))

    assert (found.statistic, found.p_value, found.i_squared) == (0.0, 1.0, 0.0)


def test_cochran_q__groups_in_another_order_or_unit__is_the_same() -> None:
    found = cochran_q(_effects(*_SOME))

    for order in permutations(_SOME):
        assert cochran_q(_effects(*order)) == found
    for scale in (2.0**-200, 2.0**200):
        assert cochran_q(_effects(*((d * scale, v * scale**2) for d, v in _SOME))) == found
    assert cochran_q(_effects(*((-d, v) for d, v in _SOME))).statistic == pytest.approx(found.statistic)


@pytest.mark.parametrize(
    "known",
    [
        [(1.7e308, 1e308), (-1.7e308, 1e308)],
        [(0.0, 5e-324), (1e200, 5e-324)],
        [(1e300, 1e292)] * 3 + [(-1e300, 1e292)],
        [(1e154, 1e-3), (0.0, 1e-3), (5.0, 1e300)],
    ],
)
def test_cochran_q__beyond_a_double__is_out_of_range_and_no_infinity(known: list[tuple[float, float]]) -> None:
    found = cochran_q(_effects(*known))

    assert found.null_reason is NullReason.OUT_OF_RANGE
    assert (found.statistic, found.p_value, found.i_squared) == (None, None, None)


def test_cochran_q__absurd_but_finite__stays_finite() -> None:
    found = cochran_q(_effects((1e150, 1e300), (-1e150, 1e300), (3.0, 1e-300)))

    assert found.statistic is not None
    assert math.isfinite(found.statistic)
    assert found.p_value is not None
    assert 0 <= found.p_value <= 1


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_cochran_q__same_effect_in_every_group__rejects_as_often_as_it_says(rate: float) -> None:
    rng, users, groups, runs = np.random.default_rng(20), 200, 10, 1000
    control = rng.binomial(users, rate, (runs, groups)).tolist()
    treatment = rng.binomial(users, 1.2 * rate, (runs, groups)).tolist()

    p_values = [
        cochran_q(
            [effect_of(Proportion(c, users), Proportion(t, users), Scale.ABSOLUTE) for c, t in zip(*pair, strict=True)]
        ).p_value
        for pair in zip(control, treatment, strict=True)
    ]

    rejected = sum(p_value is not None and p_value < 0.05 for p_value in p_values)
    assert stats.binomtest(rejected, runs, 0.05).pvalue > 1e-3


def test_cochran_q__effect_that_fades__is_found() -> None:
    users = 1000
    effects = [
        effect_of(Proportion(200, users), Proportion(converted, users), Scale.ABSOLUTE)
        for converted in (300, 270, 200, 205, 195, 203)
    ]

    found = cochran_q(effects)

    assert found.p_value is not None
    assert found.p_value < 1e-4
    assert found.i_squared is not None
    assert 0.8 < found.i_squared < 1


@pytest.mark.parametrize("far", [1e11, 1e19, -1e30, 1e150])
def test_cochran_q__one_effect_far_off_and_hardly_known__takes_no_digits_from_the_others(far: float) -> None:
    found = cochran_q(_effects(*_SOME, (far, far * far)))

    ordinary = cochran_q(_effects(*_SOME)).statistic
    assert ordinary is not None
    # Its own share: it is one standard deviation from all others.
    assert found.statistic == pytest.approx(ordinary + 1.0, rel=1e-9)
