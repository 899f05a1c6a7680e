"""The comparisons of an answer with the segments of its breakdown as strata."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from app.results.analysis import analyse, answer
from app.results.measured import Measured, MeasuredArm, Shape
from app.results.part_values import BreakdownResult, PoststratifiedResult
from app.results.provenance import Provenance
from app.results.reading import PLAIN, Pair, Reading
from app.results.schemas import ResultsOut
from app.results.values import Metric, Observations, Question, Segment, Source
from app.stats.reasons import NullReason
from app.stats.samples import ArmEstimate, MeanSample, RatioSample
from tests.unit.results.arms import STARTED, arm, experiment, observed

_NOW = STARTED + timedelta(days=30)
_HERE = Provenance(Source.HOT, _NOW, _NOW)
_COUNTRIES = ("DE", "FR", None)


def _rows(seed: int = 1, users: int = 600, arms: int = 2) -> list[list[np.ndarray]]:
    """Return the values of the users of each country in each arm, 0 for who bought nothing."""
    rng = np.random.default_rng(seed)
    country, variant = rng.choice(3, users, p=(0.5, 0.3, 0.2)), rng.integers(0, arms, users)
    buys = rng.random(users) < 0.2 + 0.2 * country + 0.05 * variant
    values = np.where(buys, 1 + rng.integers(0, 8, users) / 4, 0.0)
    return [[values[(country == k) & (variant == v)] for v in range(arms)] for k in range(3)]


def _seen(rows: list[list[np.ndarray]]) -> Observations:
    """Observe each user's one value: by country, and of all users."""

    def of(*arms: np.ndarray) -> Observations:
        bought = [values[values > 0] for values in arms]
        return observed(
            *(arm(len(values), len(some), values=tuple(some)) for values, some in zip(arms, bought, strict=True))
        )

    whole = of(*(np.concatenate([country[v] for country in rows]) for v in range(len(rows[0]))))
    segments = [Segment(name, is_rest=False, observations=of(*own)) for name, own in zip(_COUNTRIES, rows, strict=True)]
    return replace(whole, segments=tuple(segments))


def _broken_down(rows: list[list[np.ndarray]], reading: Reading = PLAIN, **question: Any) -> BreakdownResult:
    asked = Question(breakdown="country", **{"metrics": tuple(Metric), **question})
    found = answer(experiment(len(rows[0])), asked, _seen(rows), _HERE, reading).breakdown
    assert found is not None
    return found


def _by_metric(found: BreakdownResult) -> dict[str, PoststratifiedResult]:
    return {one.metric: one for one in found.poststratified}


def _by_hand(rows: list[list[np.ndarray]], confidence: float = 0.95) -> dict[str, float]:
    """Work the estimate out from the users themselves."""
    total = sum(len(values) for country in rows for values in country)
    difference = variance = 0.0
    for control, treatment in rows:
        weight = (len(control) + len(treatment)) / total
        difference += weight * (treatment.mean() - control.mean())
        variance += weight**2 * (control.var(ddof=1) / len(control) + treatment.var(ddof=1) / len(treatment))
    plain = [np.concatenate([country[v] for country in rows]) for v in (0, 1)]
    reach = stats.norm.ppf(0.5 + confidence / 2) * variance**0.5
    return {
        "difference": difference,
        "difference_ci_lower": difference - reach,
        "difference_ci_upper": difference + reach,
        "p_value": 2 * stats.norm.sf(abs(difference) / variance**0.5),
        "variance_reduction_percent": 100 * (1 - variance / sum(values.var(ddof=1) / len(values) for values in plain)),
    }


@pytest.mark.parametrize("confidence_level", [80.0, 95.0])
def test_poststratified__mean_and_rate__are_those_of_the_users_themselves(confidence_level: float) -> None:
    rows = _rows()
    found = _by_metric(_broken_down(rows, confidence_level=confidence_level))

    for metric, values in (
        (Metric.VALUE_PER_USER, rows),
        (Metric.CONVERSION_RATE, [[(own > 0).astype(float) for own in country] for country in rows]),
    ):
        one = found[metric]
        for name, expected in _by_hand(values, confidence_level / 100).items():
            assert getattr(one, name) == pytest.approx(expected, rel=1e-9), (metric, name)
        assert (one.strata, one.null_reason, one.notes) == (3, None, ())


def test_poststratified__ratio__is_that_of_the_weighted_means() -> None:
    rows = _rows()
    one = _by_metric(_broken_down(rows))[Metric.AVG_VALUE]

    total = sum(len(values) for country in rows for values in country)
    ratios = [
        sum(sum(map(len, country)) / total * country[v].mean() for country in rows)
        / sum(sum(map(len, country)) / total * (country[v] > 0).mean() for country in rows)
        for v in (0, 1)
    ]
    assert one.difference == pytest.approx(ratios[1] - ratios[0], rel=1e-9)
    assert one.lift == pytest.approx(ratios[1] / ratios[0] - 1, rel=1e-9)
    assert one.difference_ci_lower is not None
    assert one.difference_ci_lower < ratios[1] - ratios[0]


def test_poststratified__totals_and_quantiles__have_no_such_form() -> None:
    found = _by_metric(_broken_down(_rows()))

    for metric in (Metric.UNIQUE_USERS, Metric.EVENT_COUNT, Metric.P95_VALUE):
        assert (found[metric].difference, found[metric].null_reason) == (None, "NO_STRATIFIED_FORM")
        assert "cannot be put together" in found[metric].notes[0]


def test_poststratified__arms_swapped__negates() -> None:
    rows = _rows()
    there = _broken_down(rows, reading=replace(PLAIN, compare=(Pair("control", "treatment_1"),)))

    one, back = (
        next(found for found in there.poststratified if (found.metric, found.control) == (Metric.VALUE_PER_USER, key))
        for key in ("control", "treatment_1")
    )
    assert back.difference == -(one.difference or 0)
    assert (back.difference_ci_lower, back.difference_ci_upper) == (
        -(one.difference_ci_upper or 0),
        -(one.difference_ci_lower or 0),
    )
    assert (back.p_value, back.variance_reduction_percent) == (one.p_value, one.variance_reduction_percent)


def test_poststratified__users_and_segments_in_any_order__is_the_same_to_the_last_digit() -> None:
    rows = _rows()
    turned = [[values[::-1] for values in country] for country in rows]
    seen = _seen(turned)
    reversed_segments = replace(seen, segments=seen.segments[::-1])

    found = answer(experiment(), Question(breakdown="country", metrics=tuple(Metric)), reversed_segments, _HERE)

    assert found.breakdown is not None
    assert found.breakdown.poststratified == _broken_down(rows).poststratified


def test_poststratified__three_arms__has_each_pair_in_the_order_of_the_comparisons() -> None:
    reading = replace(PLAIN, compare=(Pair("treatment_1", "treatment_2"),))
    asked = Question(breakdown="country", metrics=tuple(Metric))
    rows = _rows(arms=3)
    found = answer(experiment(3), asked, _seen(rows), _HERE, reading)

    assert found.breakdown is not None
    assert [(one.variant, one.control, one.metric) for one in found.breakdown.poststratified] == [
        (one.variant, one.control, one.metric) for one in found.comparisons
    ]
    # The weights are those of the two arms alone.
    one = next(one for one in found.breakdown.poststratified if one.metric == Metric.VALUE_PER_USER)
    assert one.difference == pytest.approx(_by_hand([country[:2] for country in rows])["difference"], rel=1e-9)


@pytest.mark.parametrize(
    ("left", "reason", "word", "has_difference"),
    [(0, "EMPTY_ARM", "no user in some segment", False), (1, "TOO_FEW_UNITS", "single user", True)],
)
def test_poststratified__segment_with_too_few_of_a_variant__says_so(
    left: int, reason: str, word: str, *, has_difference: bool
) -> None:
    rows = _rows()
    rows[1][0] = rows[1][0][:left]

    found = _by_metric(_broken_down(rows))[Metric.VALUE_PER_USER]

    assert (found.difference is not None) is has_difference
    assert (found.p_value, found.difference_ci_lower, found.variance_reduction_percent) == (None, None, None)
    assert found.null_reason == reason
    assert word in found.notes[0]
    assert found.strata == 3


def test_poststratified__segment_of_other_variants_alone__is_no_stratum() -> None:
    rows = _rows(arms=3)
    rows[2][0] = rows[2][1] = np.array([])

    found = _broken_down(rows).poststratified

    strata = {(one.variant, one.metric): (one.strata, one.null_reason) for one in found}
    assert strata["treatment_1", Metric.VALUE_PER_USER] == (2, None)
    assert strata["treatment_2", Metric.VALUE_PER_USER] == (3, "EMPTY_ARM")


def test_poststratified__nobody__is_empty() -> None:
    found = answer(experiment(), Question(breakdown="country"), Observations({}), _HERE).breakdown

    assert found is not None
    assert {(one.strata, one.null_reason) for one in found.poststratified} == {
        (0, "EMPTY_ARM"),
        (0, "NO_STRATIFIED_FORM"),
    }


def test_poststratified__one_segment__is_the_plain_difference_with_no_less_variance() -> None:
    rows = _rows()
    whole = _seen(rows)
    one_segment = replace(whole, segments=(Segment(None, is_rest=False, observations=replace(whole, segments=())),))

    found = answer(experiment(), Question(breakdown="x", metrics=tuple(Metric)), one_segment, _HERE)

    assert found.breakdown is not None
    plain = {one.metric: one for one in found.comparisons}
    for one in found.breakdown.poststratified:
        if one.null_reason is None:
            assert (one.difference, one.variance_reduction_percent) == (plain[one.metric].difference, 0.0)


def test_poststratified__without_intervals__has_none_and_no_reason_for_it() -> None:
    found = _by_metric(_broken_down(_rows(), include_ci=False))[Metric.VALUE_PER_USER]

    assert (found.difference_ci_lower, found.lift_ci_upper, found.null_reason) == (None, None, None)
    assert found.p_value is not None


@pytest.mark.parametrize("reason", [NullReason.OUT_OF_RANGE, NullReason.PRECISION_LOST])
def test_poststratified__sums_of_a_segment_not_known__says_why(reason: NullReason) -> None:
    def metric(shape: Shape, *samples: Any) -> Measured:
        arms = {number: MeasuredArm(sample=sample) for number, sample in enumerate(samples, start=1)}
        return Measured(key="spend", shape=shape, arms=arms)

    huge = ArmEstimate(n=5, value=Fraction(10**301), variance=None, null_reason=reason)
    fine = MeanSample(n=5, sum_values=Fraction(5), sum_squares=Fraction(9))
    seen = observed(arm(10), arm(10))
    segments = tuple(Segment(name, is_rest=False, observations=observed(arm(5), arm(5))) for name in ("DE", "FR"))
    found = analyse(
        experiment(),
        Question(breakdown="country", metrics=("spend",)),
        PLAIN,
        [metric(Shape.MEAN, huge, fine)],
        replace(seen, segments=segments),
        _HERE,
        [[metric(Shape.MEAN, fine, fine)], [metric(Shape.MEAN, huge, fine)]],
    ).breakdown

    assert found is not None
    (one,) = found.poststratified
    assert (one.difference, one.null_reason, one.strata) == (None, reason, 2)


def test_poststratified__whole_answer__fits_the_schema() -> None:
    asked = Question(breakdown="country", metrics=tuple(Metric))
    found = ResultsOut.of(answer(experiment(), asked, _seen(_rows()), _HERE))

    assert found.breakdown is not None
    one = next(one for one in found.breakdown.poststratified if one.metric == Metric.VALUE_PER_USER)
    assert one.variance_reduction_percent is not None
    assert one.variance_reduction_percent > 0


def test_poststratified__ratio_without_a_denominator__says_so() -> None:
    nothing = RatioSample.from_sums(
        n=5, num_sum=0, num_sum_squares=0, den_sum=0, den_sum_squares=0, num_den_sum_products=0
    )
    arms = {number: MeasuredArm(sample=nothing) for number in (1, 2)}
    metric = Measured(key="per_event", shape=Shape.RATIO, arms=arms)
    segments = (Segment("DE", is_rest=False, observations=observed(arm(5), arm(5))),)
    seen = replace(observed(arm(5), arm(5)), segments=segments)
    asked = Question(breakdown="country", metrics=("per_event",))

    found = analyse(experiment(), asked, PLAIN, [metric], seen, _HERE, [[metric]]).breakdown

    assert found is not None
    assert found.poststratified[0].null_reason == "ZERO_DENOMINATOR"
