"""Beliefs about variants that nobody has been in."""

from dataclasses import replace

import pytest

from app.metrics.values import Direction
from app.results.beliefs import Chance, belief, prob_best
from app.results.measured import Measured, MeasuredArm, Shape
from app.results.reading import PLAIN
from app.stats.samples import ArmEstimate, MeanSample, Proportion, Sample


def _measured(*samples: Sample | None, shape: Shape = Shape.RATE, direction: Direction = Direction.UP) -> Measured:
    """Return a metric in arms numbered from 1; `None` is an arm that nobody is in."""
    arms = {number: MeasuredArm(sample=sample) for number, sample in enumerate(samples, start=1) if sample is not None}
    return Measured(key="metric", shape=shape, arms=arms, direction=direction)


def _chances(metric: Measured, arms: int) -> tuple[float | None, ...]:
    return tuple(chance.value for chance in _best(metric, arms))


def _reasons(metric: Measured, arms: int) -> tuple[str | None, ...]:
    return tuple(chance.null_reason for chance in _best(metric, arms))


def _best(metric: Measured, arms: int) -> tuple[Chance, ...]:
    return prob_best(metric, [metric.of(number) for number in range(1, arms + 1)], PLAIN)


def _means(n: int, mean: float) -> MeanSample:
    return MeanSample.from_sums(n=n, sum_values=n * mean, sum_squares=n * (mean**2 + 1) if n else 0)


_ALIKE = MeanSample.from_sums(n=2, sum_values=2, sum_squares=2)
_WITHOUT_VALUES = ArmEstimate(n=9, value=None, variance=None)


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("missing", [None, Proportion(0, 0)], ids=["not there", "no users"])
def test_prob_best__variant_without_users__is_null_and_takes_nothing_from_the_others(
    direction: Direction, missing: Proportion | None
) -> None:
    three = _chances(_measured(Proportion(2, 100), missing, Proportion(4, 100), direction=direction), 3)
    two = _chances(_measured(Proportion(2, 100), Proportion(4, 100), direction=direction), 2)

    assert three == (two[0], None, two[1])
    assert sum(chance or 0 for chance in three) == pytest.approx(1, abs=1e-12)


def test_prob_best__means__go_by_the_same_rule() -> None:
    three = _chances(_measured(_means(100, 1.0), _means(100, 1.1), _means(0, 0), shape=Shape.MEAN), 3)

    assert three == (*_chances(_measured(_means(100, 1.0), _means(100, 1.1), shape=Shape.MEAN), 2), None)
    assert three[1] == pytest.approx(0.76, abs=0.01)


def test_prob_best__one_user_in_a_variant__leaves_all_means_without_a_chance() -> None:
    """Something is known of it, but not how far off it may be: the others cannot be compared with it."""
    assert _chances(_measured(_means(100, 1.0), _means(100, 1.1), _means(1, 5.0), shape=Shape.MEAN), 3) == (None,) * 3


@pytest.mark.parametrize(
    ("metric", "reasons"),
    [
        (_measured(_means(100, 1.0), _means(1, 5.0), shape=Shape.MEAN), ("TOO_FEW_UNITS",) * 2),
        (_measured(_means(100, 1.0), _means(0, 0), shape=Shape.MEAN), ("TOO_FEW_ARMS", "EMPTY_ARM")),
        (_measured(_means(100, 1.0), _ALIKE, shape=Shape.MEAN), ("ZERO_VARIANCE",) * 2),
        (_measured(_means(9, 1.0), _WITHOUT_VALUES, shape=Shape.QUANTILE), ("NO_VALUES",) * 2),
        (replace(_measured(_means(9, 1.0), _means(9, 2.0), shape=Shape.TOTAL), tested=False), ("NO_TEST",) * 2),
        (_measured(_means(100, 1.0), _means(100, 2.0), shape=Shape.MEAN), (None, None)),
    ],
)
def test_prob_best__undefined__says_why(metric: Measured, reasons: tuple[str | None, ...]) -> None:
    assert _reasons(metric, 2) == reasons


@pytest.mark.parametrize("others", [(), (None,), (None, Proportion(0, 0))])
def test_prob_best__users_in_one_variant_alone__is_null_for_all(others: tuple[Proportion | None, ...]) -> None:
    arms = (Proportion(2, 100), *others)
    assert _chances(_measured(*arms), len(arms)) == (None,) * len(arms)


@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        (Proportion(0, 0), Proportion(5, 100)),
        (Proportion(5, 100), Proportion(0, 0)),
        (Proportion(0, 0), Proportion(0, 0)),
    ],
)
def test_belief__rate_of_a_variant_without_users__is_null_with_the_reason(
    control: Proportion, treatment: Proportion
) -> None:
    metric = _measured(control, treatment)

    found = belief(metric, metric.of(1), metric.of(2), PLAIN, 0.95)

    assert (found.prob_better, found.loss_if_shipped, found.loss_if_kept) == (None, None, None)
    assert (found.lower, found.upper, found.null_reason) == (None, None, "EMPTY_ARM")
