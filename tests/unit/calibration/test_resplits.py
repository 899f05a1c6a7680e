"""Splitting and testing: a test that keeps its level is found to, and one that does not is found out."""

import itertools
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from app.calibration.resplits import (
    Indexes,
    Numbers,
    UserNumbers,
    Users,
    UserValues,
    calibrate,
    halved,
)
from app.calibration.values import CalibrationResult, Column, Job, MetricCalibration
from app.results.contrasts import Contrast, contrast
from app.results.measured import Measured, MeasuredArm, Shape
from app.stats.quantiles import quantile_ranks
from app.stats.samples import CovariateSample, MeanSample, Proportion, RatioSample

_ONE_BY_ONE: dict[str, Any] = {"version": None, "unit": 1.0}
_RATE = Column(metric="rate", shape="rate", **_ONE_BY_ONE)
_MEAN = Column(metric="mean", shape="mean", **_ONE_BY_ONE)
_RATIO = Column(metric="ratio", shape="ratio", **_ONE_BY_ONE)
_ADJUSTED = Column(metric="adjusted", shape="mean", without_covariate=None, **_ONE_BY_ONE)
_ADJUSTED_RATE = Column(metric="adjusted_rate", shape="rate", without_covariate=None, **_ONE_BY_ONE)
_MEDIAN = Column(metric="median", shape="quantile", quantile=(1, 2), **_ONE_BY_ONE)
_P95 = Column(metric="p95", shape="quantile", quantile=(19, 20), **_ONE_BY_ONE)


def _job(*columns: Column, resplits: int = 1000, seed: int = 1, alpha: float = 0.05) -> Job:
    return Job(resplits=resplits, seed=seed, alpha=alpha, columns=columns)


def _users(*numbers: Numbers | tuple[Numbers, Numbers], units: Indexes | None = None) -> Users:
    both = [own if isinstance(own, tuple) else (own, np.zeros(len(own))) for own in numbers]
    alone = np.arange(len(both[0][0]))
    return Users([UserNumbers(x, y) for x, y in both], alone if units is None else units)


def _by_metric(result: CalibrationResult) -> dict[str, MetricCalibration]:
    return {found.metric: found for found in result.metrics}


def _population(n: int = 4000) -> tuple[Numbers, Numbers, tuple[Numbers, Numbers]]:
    """Return converters, long-tailed revenue, and revenue with numbers of orders."""
    random = np.random.default_rng(7)
    orders = random.poisson(0.6, n).astype(float)
    revenue = orders * random.lognormal(3, 0.8, n)
    return (random.random(n) < 0.1).astype(float), revenue, (revenue, orders)


def test_calibrate__users_as_units__every_test_keeps_its_level() -> None:
    result = calibrate(_job(_RATE, _MEAN, _RATIO), _users(*_population()))

    assert (result.users, result.units, result.alpha) == (4000, 4000, 0.05)
    for found in result.metrics:
        assert (found.resplits, found.undefined, found.null_reason) == (1000, 0, None)
        assert found.inside, found
        assert found.false_positive_rate == found.false_positives / 1000
        assert sum(found.p_value_histogram) == 1000
        assert found.always_valid_false_positive_rate is not None
        assert found.always_valid_false_positive_rate < 0.01
    assert _by_metric(result)["ratio"].ks_p_value == pytest.approx(0.5, abs=0.499)


def test_calibrate__members_of_households_alike__is_found_to_be_outside() -> None:
    """The experiment decides by household, and the test takes users for independent."""
    random = np.random.default_rng(3)
    household = np.repeat(np.arange(500), 6)
    spending = random.normal(50, 20, 500)[household] + random.normal(0, 5, 3000)
    converted = (random.random(500) < 0.3)[household].astype(float)

    together = calibrate(_job(_MEAN, _RATE), _users(spending, converted, units=household))
    alone = calibrate(_job(_MEAN, _RATE), _users(spending, converted))

    assert (together.users, together.units) == (3000, 500)
    for found in together.metrics:
        assert found.inside is False
        assert found.false_positive_rate is not None
        assert found.upper is not None
        assert found.false_positive_rate > 3 * found.upper
        assert found.ks_p_value is not None
        assert found.ks_p_value < 1e-6
    assert all(found.inside for found in alone.metrics)


def test_calibrate__one_user_holds_nearly_all__is_found_to_be_outside() -> None:
    """The test of means is too careful where one value decides everything."""
    values = np.ones(200)
    values[0] = 1e6

    (found,) = calibrate(_job(_MEAN), _users(values)).metrics

    assert found.inside is False
    assert found.false_positive_rate == 0.0


def test_calibrate__same_seed__gives_the_same_and_another_other_splits() -> None:
    users = _users(*_population(500))
    first = calibrate(_job(_RATE, _MEAN, _RATIO, resplits=100, seed=5), users)
    assert calibrate(_job(_RATE, _MEAN, _RATIO, resplits=100, seed=5), users) == first
    assert calibrate(_job(_RATE, _MEAN, _RATIO, resplits=100, seed=6), users) != first
    # What is asked beside a metric does not change it.
    assert calibrate(_job(_RATE, resplits=100, seed=5), _users(_population(500)[0])).metrics[0] == first.metrics[0]


def test_calibrate__its_p_values__are_those_of_the_results_own_test(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[MeasuredArm, MeasuredArm]] = []

    def watching(metric: Measured, control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Any:
        seen.append((control, treatment))
        return contrast(metric, control, treatment, confidence)

    monkeypatch.setattr("app.calibration.resplits.contrast", watching)
    rates, revenue, (x, y) = _population(300)
    calibrate(_job(_RATE, _MEAN, _RATIO, resplits=100), _users(rates, revenue, (x, y)))

    for own, other in seen:
        whole = [half.sample for half in (own, other)]
        match whole:
            case [Proportion() as a, Proportion() as b]:
                assert (a + b) == Proportion(int(rates.sum()), 300)
            case [MeanSample() as c, MeanSample() as d]:
                assert c.n + d.n == 300
                assert float(c.sum_values + d.sum_values) == pytest.approx(revenue.sum())
            case [RatioSample() as e, RatioSample() as f]:
                assert float((e + f).sums.products) == pytest.approx((x * y).sum())
    assert len(seen) == 300
    # A split is of users: nobody is in both halves, and hardly ever are they of equal size.
    sizes = [own.sample.estimate().n for own, _ in seen[::3]]
    assert min(sizes) > 100
    assert len(set(sizes)) > 10


def test_calibrate__nothing_varies__is_undefined_and_says_why() -> None:
    (found,) = calibrate(_job(_MEAN, resplits=100), _users(np.full(100, 4.0))).metrics
    assert (found.undefined, found.false_positive_rate, found.inside) == (100, None, None)
    assert (found.lower, found.upper, found.ks_p_value, found.null_reason) == (None, None, None, "ZERO_VARIANCE")
    assert found.value == 4.0


def test_calibrate__progress__rises_to_1() -> None:
    said: list[float] = []
    calibrate(_job(_RATE, resplits=100), _users(_population(200)[0]), said.append)
    assert said[-1] == 1.0
    assert all(before < after for before, after in itertools.pairwise(said))


def _adjusted_users(n: int, rho: float) -> Users:
    """Return a value and a rate with the number from before, which correlates with the value by rho."""
    random = np.random.default_rng(2)
    before, noise = random.standard_normal((2, n))
    after = rho * before + np.sqrt(1 - rho**2) * noise
    bought = (after > 1).astype(float)
    had_bought = (before > 1).astype(float)
    nothing = np.zeros(n)
    return Users([UserNumbers(after + 5, nothing, before), UserNumbers(bought, nothing, had_bought)], np.arange(n))


def test_calibrate__covariates__the_adjusted_test_keeps_its_level_with_less_variance() -> None:
    result = calibrate(_job(_ADJUSTED, _ADJUSTED_RATE), _adjusted_users(3000, 0.8))

    for found in result.metrics:
        assert found.inside, found
        assert found.adjusted is not None
        assert (found.adjusted.undefined, found.adjusted.null_reason) == (0, None)
        assert found.adjusted.inside, found.adjusted
        assert found.adjusted.false_positive_rate == found.adjusted.false_positives / 1000
        low, high = found.adjusted.false_positive_rate_ci_lower, found.adjusted.false_positive_rate_ci_upper
        assert low is not None
        assert high is not None
        assert low < found.adjusted.false_positive_rate < high
    value = _by_metric(result)["adjusted"].adjusted
    assert value is not None
    assert value.variance_reduction_percent == pytest.approx(64, abs=4)
    # The two tests are of the same splits, and not the same test.
    assert _by_metric(result)["adjusted"].false_positives != value.false_positives


def test_calibrate__no_covariate__the_adjusted_test_says_so() -> None:
    dropped = Column(metric="dropped", shape="mean", without_covariate="COVARIATE_DROPPED", **_ONE_BY_ONE)
    revenue = _population(200)[1]

    for found, reason in zip(
        calibrate(_job(_MEAN, dropped, resplits=100), _users(revenue, revenue)).metrics,
        ("NO_COVARIATE", "COVARIATE_DROPPED"),
        strict=True,
    ):
        assert found.adjusted is not None
        assert (found.adjusted.undefined, found.adjusted.null_reason) == (100, reason)
        assert (found.adjusted.false_positive_rate, found.adjusted.variance_reduction_percent) == (None, None)


def _several_values(n: int) -> tuple[Numbers, Indexes]:
    """Return values of which each user has none to six that are alike, ascending, with their users."""
    random = np.random.default_rng(6)
    users = np.repeat(np.arange(n), random.integers(0, 7, n))
    values = random.standard_normal(n)[users] + random.standard_normal(len(users))
    order = np.argsort(values)
    return values[order], users[order]


def test_calibrate__quantiles__keep_their_level_with_users_as_clusters() -> None:
    values = UserValues(*_several_values(3000))

    result = calibrate(_job(_MEDIAN, _P95, resplits=500), Users([values, values], np.arange(3000)))

    for found in result.metrics:
        assert found.undefined == 0
        assert found.false_positive_rate is not None
        assert found.upper is not None
        # Their standard errors are of outer intervals, a little too wide.
        assert found.false_positive_rate <= found.upper
        assert found.adjusted is not None
        assert found.adjusted.null_reason == "NO_COVARIATE"
    assert _by_metric(result)["median"].value == pytest.approx(float(np.median(values.values)))
    assert _by_metric(result)["p95"].value == pytest.approx(float(np.quantile(values.values, 0.95)))


def test_halved__some_users__is_the_quantile_of_their_values_alone() -> None:
    values, owners = _several_values(400)
    sizes = np.bincount(owners, minlength=400).astype(float)
    kept = np.random.default_rng(1).random(400) < 0.4

    found = halved(values, owners, sizes, kept, Fraction(9, 10), 0.95)

    own, of_user = values[kept[owners]], owners[kept[owners]]
    assert found.n == kept.sum()
    assert found.value is not None
    assert float(found.value) == pytest.approx(float(np.quantile(own, 0.9)))
    low = np.sort(own)[int(0.9 * (len(own) - 1))]
    below = np.bincount(of_user[own <= low], minlength=400)
    each = np.bincount(of_user, minlength=400)
    ranks = quantile_ranks(
        Fraction(9, 10),
        users=int((each > 0).sum()),
        values=len(own),
        below=int(below.sum()),
        below_squares=int(below @ below),
        value_squares=int(each @ each),
        products=int(below @ each),
    )
    assert ranks.lower is not None
    assert ranks.upper is not None
    length = np.sort(own)[ranks.upper - 1] - np.sort(own)[ranks.lower - 1]
    assert found.variance is not None
    assert float(found.variance) ** 0.5 == pytest.approx(length / (2 * stats.norm.isf(0.025)))


def test_calibrate__nobody_has_a_value__is_undefined_and_says_why() -> None:
    nothing = UserValues(np.zeros(0), np.zeros(0, dtype=np.int64))

    (found,) = calibrate(_job(_MEDIAN, resplits=100), Users([nothing], np.arange(50))).metrics

    assert (found.undefined, found.value, found.null_reason) == (100, None, "NO_VALUES")


def _rounded(values: Numbers, unit: float) -> Numbers:
    return np.round(values / unit) * unit


def test_calibrate__values_lost_in_rounding_under_a_limit__says_so_instead_of_a_rate() -> None:
    revenue = np.minimum(np.random.default_rng(3).lognormal(3, 0.8, 400), 90.0)
    fine, coarse = ((_rounded(revenue, unit), unit) for unit in (2.0**-40, 256.0))
    alone, nothing = np.arange(400), np.zeros(400)

    def found(x: tuple[Numbers, float], z: tuple[Numbers, float]) -> MetricCalibration:
        numbers = UserNumbers(x[0], nothing, z[0], unit=x[1], covariate_unit=z[1])
        return calibrate(_job(_ADJUSTED, resplits=100), Users([numbers], alone)).metrics[0]

    ordinary, lost, unadjusted = found(fine, fine), found(coarse, fine), found(fine, coarse)

    assert ordinary.value == pytest.approx(revenue.mean())
    assert (ordinary.undefined, ordinary.null_reason) == (0, None)
    assert (lost.value, lost.false_positive_rate, lost.undefined) == (None, None, 100)
    assert lost.null_reason == "PRECISION_LOST"
    assert (unadjusted.value, unadjusted.null_reason) == (ordinary.value, None)
    assert unadjusted.adjusted is not None
    assert (unadjusted.adjusted.undefined, unadjusted.adjusted.null_reason) == (100, "PRECISION_LOST")
    assert lost.adjusted is not None
    assert lost.adjusted.null_reason == "PRECISION_LOST"


def test_calibrate__value_far_beyond_all_others__decides_a_mean_and_leaves_no_ratio_to_test() -> None:
    random = np.random.default_rng(3)
    revenue, views = random.lognormal(3, 0.8, 400), random.lognormal(2, 0.8, 400)
    absurd = np.where(np.arange(400) == 7, 1e21, 0.0)
    unit = 256.0

    def of(x: Numbers, y: Numbers, unit: float | None, denominator_unit: float | None) -> UserNumbers:
        return UserNumbers(x, y, unit=unit, denominator_unit=denominator_unit)

    numbers = [
        of(_rounded(revenue + absurd, unit), np.zeros(400), unit, None),
        of(revenue + absurd, np.zeros(400), None, None),
        of(_rounded(revenue + absurd, unit), views, unit, 2.0**-50),
        of(revenue + absurd, views, None, None),
        of(revenue, _rounded(views + absurd, unit), 2.0**-50, unit),
    ]
    columns = [replace(_MEAN, metric=key) for key in ("mean", "exact mean")]
    columns += [replace(_RATIO, metric=key) for key in ("above", "exact above", "below")]

    result = calibrate(_job(*columns, resplits=100), Users(numbers, np.arange(400)))

    found = _by_metric(result)
    for key in ("mean", "above"):
        assert (found[key].undefined, found[key].null_reason) == (0, None)
        assert found[key].p_value_histogram == found[f"exact {key}"].p_value_histogram
    assert found["below"].value is not None
    assert (found["below"].undefined, found["below"].null_reason) == (100, "PRECISION_LOST")


def _exact_sample(numbers: UserNumbers, shape: str, kept: list[int]) -> MeasuredArm:
    """Return the arm of some users from sums of fractions, which nothing is rounded in."""
    x, y = ([Fraction(float(side[user])) for user in kept] for side in (numbers.numerator, numbers.denominator))
    n, x_squares = len(kept), sum((a * a for a in x), Fraction(0))
    if shape == "ratio":
        ratio = RatioSample.from_sums(
            n=n,
            num_sum=sum(x, Fraction(0)),
            num_sum_squares=x_squares,
            den_sum=sum(y, Fraction(0)),
            den_sum_squares=sum((b * b for b in y), Fraction(0)),
            num_den_sum_products=sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0)),
        )
        return MeasuredArm(sample=ratio)
    sample = MeanSample.from_sums(n=n, sum_values=sum(x, Fraction(0)), sum_squares=x_squares)
    if numbers.covariate is None:
        return MeasuredArm(sample=sample)
    z = [Fraction(float(numbers.covariate[user])) for user in kept]
    covariate = CovariateSample.from_sums(
        n=n,
        post_sum=sample.sum_values,
        post_sum_squares=x_squares,
        pre_sum=sum(z, Fraction(0)),
        pre_sum_squares=sum((c * c for c in z), Fraction(0)),
        post_pre_sum_products=sum((a * c for a, c in zip(x, z, strict=True)), Fraction(0)),
    )
    return MeasuredArm(sample=sample, covariate=covariate)


_WHO = replace(_MEAN, metric="who")


@pytest.mark.parametrize("large", [1e7, 1e11, 1e13, 1.7e18, 1e21, 1e100])
@pytest.mark.parametrize("side", ["mean", "numerator", "denominator", "both", "covariate", "value and covariate"])
def test_calibrate__one_value_far_larger__every_split_has_the_p_values_of_exact_sums(
    monkeypatch: pytest.MonkeyPatch, side: str, large: float
) -> None:
    users = 48
    random = np.random.default_rng(5)
    x, y, z = (random.lognormal(3, 0.8, users) for _ in range(3))
    column, sides = {
        "mean": (_MEAN, [x]),
        "numerator": (_RATIO, [x]),
        "denominator": (_RATIO, [y]),
        "both": (_RATIO, [x, y]),
        "covariate": (_ADJUSTED, [z]),
        "value and covariate": (_ADJUSTED, [x, z]),
    }[side]
    for side_of_users in sides:
        side_of_users[7] = large
    numbers = UserNumbers(x, y, z if column is _ADJUSTED else None)
    seen: list[tuple[MeasuredArm, MeasuredArm, Contrast]] = []

    def watching(metric: Measured, control: MeasuredArm, treatment: MeasuredArm, confidence: float) -> Contrast:
        seen.append((control, treatment, contrast(metric, control, treatment, confidence)))
        return seen[-1][2]

    monkeypatch.setattr("app.calibration.resplits.contrast", watching)
    # The sum of powers of two says who is in a half.
    who = UserNumbers(np.ldexp(np.ones(users), np.arange(users)), np.zeros(users))
    found, _ = calibrate(_job(column, _WHO, resplits=100), Users([numbers, who], np.arange(users))).metrics

    assert (found.undefined, found.null_reason) == (0, None)
    for (_, _, own), (*halves, _) in zip(seen[::2], seen[1::2], strict=True):
        sums = [half.sample.sum_values for half in halves if isinstance(half.sample, MeanSample)]
        control, treatment = (
            _exact_sample(numbers, column.shape, [user for user in range(users) if int(total) >> user & 1])
            for total in sums
        )
        expected = contrast(Measured(key="", shape=Shape(column.shape), arms={}), control, treatment, 0.95)
        assert own.p_value == pytest.approx(expected.p_value, rel=1e-8)
        if column is _ADJUSTED:
            assert own.adjusted.p_value == pytest.approx(expected.adjusted.p_value, rel=1e-8)
        assert own.adjusted.null_reason == expected.adjusted.null_reason


@pytest.mark.parametrize("large", [1e11, 1.7e18, 1e300])
def test_calibrate__covariate_far_larger__the_metrics_own_test_is_that_without_covariates(large: float) -> None:
    revenue, before = _population(1000)[1], _population(1000)[1][::-1].copy()
    before[7] = large
    nothing = np.zeros(1000)

    job, plain = _job(_ADJUSTED, seed=4), _job(_MEAN, seed=4)
    (found,) = calibrate(job, Users([UserNumbers(revenue, nothing, before)], np.arange(1000))).metrics
    (alone,) = calibrate(plain, _users(revenue)).metrics

    assert found.inside
    assert (found.undefined, found.false_positives) == (0, alone.false_positives)
    assert (found.p_value_histogram, found.value) == (alone.p_value_histogram, alone.value)
    assert found.adjusted is not None
    if large < 1e150:
        assert (found.adjusted.undefined, found.adjusted.null_reason, found.adjusted.inside) == (0, None, True)
    else:
        assert (found.adjusted.undefined, found.adjusted.null_reason) == (1000, "OUT_OF_RANGE")


@pytest.mark.parametrize("column", [_MEAN, _RATIO, _ADJUSTED])
def test_calibrate__values_whose_squares_are_beyond_doubles__is_out_of_range(column: Column) -> None:
    revenue, views = np.full((2, 200), 3.0)
    revenue[7] = 1e300
    numbers = UserNumbers(revenue, views, np.ones(200) if column is _ADJUSTED else None)

    (found,) = calibrate(_job(column, resplits=100), Users([numbers], np.arange(200))).metrics

    assert (found.undefined, found.null_reason, found.inside) == (100, "OUT_OF_RANGE", None)
    assert found.value == pytest.approx(1e300 / (600 if column is _RATIO else 200))
    assert found.adjusted is not None
    assert (found.adjusted.undefined, found.adjusted.false_positive_rate) == (100, None)
    assert found.adjusted.null_reason == ("OUT_OF_RANGE" if column is _ADJUSTED else "NO_COVARIATE")


def test_calibrate__lost_in_rounding_beside_a_covariate_without_a_sum__says_so() -> None:
    revenue, before = np.random.default_rng(3).lognormal(3, 0.8, (2, 400))
    before[7] = 1e300
    numbers = UserNumbers(_rounded(revenue, 256.0), np.zeros(400), before, unit=256.0, covariate_unit=2.0**935)

    (found,) = calibrate(_job(_ADJUSTED, resplits=100), Users([numbers], np.arange(400))).metrics

    assert (found.undefined, found.null_reason) == (100, "PRECISION_LOST")


def test_calibrate__denominator_that_leaves_the_others_their_digits__is_tested_in_every_split() -> None:
    random = np.random.default_rng(3)
    revenue, views = random.lognormal(3, 0.8, 400), random.lognormal(2, 0.8, 400)
    views[7] = 1e7
    # Units are what values of that size are rounded to.
    numbers = UserNumbers(revenue, _rounded(views, 2.0**-38), denominator_unit=2.0**-38)

    (found,) = calibrate(_job(_RATIO, resplits=100), Users([numbers], np.arange(400))).metrics

    assert (found.undefined, found.null_reason) == (0, None)
