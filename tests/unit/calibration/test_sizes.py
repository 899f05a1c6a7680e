"""How much a calibration may hold and do."""

from dataclasses import replace

import pytest

from app.calibration.errors import CannotCalibrate
from app.calibration.sizes import MOST_NUMBERS, MOST_WORK, VALUE_COSTS, refuse_too_long, refuse_too_many
from app.calibration.values import DEFAULT_RESPLITS, FEWEST_RESPLITS, MOST_METRICS, MOST_RESPLITS, Column

_PLAIN = Column(metric="m", version=None, shape="mean", unit=1.0)
_ADJUSTED = replace(_PLAIN, without_covariate=None)
_MILLION = 1_000_000


@pytest.mark.parametrize(
    ("columns", "users", "values"),
    [
        ([_PLAIN] * MOST_METRICS, _MILLION, 0),
        ([_ADJUSTED] * (MOST_METRICS // 2), _MILLION, 0),
        ([_PLAIN], _MILLION, 7 * _MILLION),
    ],
)
def test_sizes__million_users_with_many_numbers__may_be_split_as_often_as_by_default(
    columns: list[Column], users: int, values: int
) -> None:
    refuse_too_many(columns, users=users, values=values)
    refuse_too_long(columns, DEFAULT_RESPLITS, users=users, values=values)


def test_sizes__covariates__count_as_much_as_numbers() -> None:
    users = MOST_NUMBERS // 3
    refuse_too_many([_ADJUSTED], users=users, values=0)
    with pytest.raises(CannotCalibrate, match="fewer metrics"):
        refuse_too_many([_ADJUSTED, _PLAIN], users=users, values=0)
    with pytest.raises(CannotCalibrate, match="fewer metrics"):
        refuse_too_many([_ADJUSTED], users=users, values=3)


def test_sizes__whatever_fits__may_be_split_as_rarely_as_can_be_asked() -> None:
    refuse_too_long([_PLAIN], FEWEST_RESPLITS, users=10, values=MOST_NUMBERS)


def test_sizes__the_most_of_both__is_refused_with_what_is_few_enough() -> None:
    values = MOST_NUMBERS // 2
    with pytest.raises(
        CannotCalibrate, match=r"resplits: .* 12,000,000 values .* 10,000 times .* at most (\d+) res"
    ) as caught:
        refuse_too_long([_PLAIN], MOST_RESPLITS, users=10, values=values)

    enough = MOST_WORK // (20 + VALUE_COSTS * values)
    assert f"at most {enough:,} resplits" in str(caught.value)
    refuse_too_long([_PLAIN], enough, users=10, values=values)
