"""Lines of users' numbers, and the process that reads them."""

import io

import msgspec
import numpy as np
import pytest

from app.calibration.errors import CannotCalibrate
from app.calibration.reading import read_users
from app.calibration.resplits import UserNumbers, UserValues
from app.calibration.sizes import VALUE_COSTS
from app.calibration.values import FEWEST_USERS, Column, Job
from app.calibration.worker import END, Incomplete, Said, pieces, work

_COLUMNS = (
    Column(metric="spend", version=1, shape="mean", unit=1.0, without_covariate=None),
    Column(metric="per_order", version=1, shape="ratio", unit=0.5),
    Column(metric="median", version=1, shape="quantile", unit=1.0, quantile=(1, 2)),
)


def _job(columns: tuple[Column, ...] = _COLUMNS, *, resplits: int = 100, split_by: str | None = None) -> Job:
    return Job(resplits=resplits, seed=1, alpha=0.05, columns=columns, split_by=split_by)


def _lines(users: int = FEWEST_USERS) -> bytes:
    """Return users 10, 20, ... of whom the second spent 3 units of an eighth, and 4 units in 2 orders.

    Before their exposure the third spent 5 units of a quarter; the second has two values, the first and the fourth one.
    """
    rows = [f"0,0,{10 * number},{10 * number},0,0" for number in range(users, 0, -1)]
    rows += ["1,0,20,0,3,0", "2,0,0,0,3,0", "1,1,20,0,4,2"]
    rows += ["3,0,30,0,5,0", "2,0,2,0,2,0", "4,2,20,1,7.5,0", "4,2,40,1,-0,0", "4,2,20,1,1e-3,0", "4,2,10,1,9,0"]
    # Somebody whom the statement for users did not know yet.
    rows += ["1,0,25,0,8,0", "4,2,25,1,8,0", "4,2,100000,1,8,0"]
    return "".join(f"{row}\n" for row in rows).encode()


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_read_users__however_cut__finds_everybodys_numbers(size: int) -> None:
    text = _lines()
    users = read_users(_job(), (text[start : start + size] for start in range(0, len(text), size)))

    spend, per_order, median = users.numbers
    assert isinstance(spend, UserNumbers)
    assert isinstance(per_order, UserNumbers)
    assert isinstance(median, UserValues)
    expected = np.zeros(FEWEST_USERS)
    expected[1] = 3 / 8
    assert np.array_equal(spend.numerator, expected)
    assert not spend.denominator.any()
    assert (spend.unit, spend.denominator_unit, spend.covariate_unit) == (1 / 8, None, 1 / 4)
    assert (per_order.unit, per_order.denominator_unit, per_order.covariate_unit) == (None, None, None)
    assert (per_order.numerator[1], per_order.denominator[1]) == (2.0, 2.0)
    covariate = np.zeros(FEWEST_USERS)
    covariate[2] = 5 / 4
    assert spend.covariate is not None
    assert np.array_equal(spend.covariate, covariate)
    assert per_order.covariate is None
    assert (median.values.tolist(), median.users.tolist()) == ([0.0, 0.001, 7.5, 9.0], [3, 1, 1, 0])
    assert not np.signbit(median.values[0])
    assert np.array_equal(users.units, np.arange(FEWEST_USERS))
    assert users.n_units == FEWEST_USERS


def test_read_users__groups__are_counted_from_0() -> None:
    text = b"".join(f"0,0,{number},{-(number % 3) - 1},1,0\n".encode() for number in range(30))
    users = read_users(_job(_COLUMNS[:1]), [text])
    assert users.n_units == 3
    assert len(set(users.units[::3])) == 1


def test_read_users__keys_of_64_bits__are_told_apart() -> None:
    keys = [2**63 - 1 - number for number in range(30)] + [-(2**63)]
    text = "".join(f"0,0,{key},{key},0,0\n" for key in keys) + f"1,0,{2**63 - 2},0,5,0\n"

    users = read_users(_job(_COLUMNS[:1]), [text.encode()])

    (spend,) = users.numbers
    assert isinstance(spend, UserNumbers)
    assert users.n_units == 31
    assert np.flatnonzero(spend.numerator).tolist() == [29]


def test_read_users__too_few__says_how_many() -> None:
    with pytest.raises(CannotCalibrate, match=r"has 19 users"):
        read_users(_job(), [_lines(19)])
    with pytest.raises(CannotCalibrate, match=r"has 0 users"):
        read_users(_job(), [])


def test_read_users__nobody_in_a_group__is_no_split_by_it() -> None:
    with pytest.raises(
        CannotCalibrate,
        match=r"split_by: none of the control's 20 users has a text, number or truth value under 'houshold'",
    ):
        read_users(_job(split_by="houshold"), [_lines()])


def test_read_users__values_that_repeat__are_as_many() -> None:
    lines = _lines() + b"4,2,30,3,2.5,0\n"

    median = read_users(_job(), [lines]).numbers[2]

    assert isinstance(median, UserValues)
    assert (median.values.tolist(), median.users.tolist()) == (
        [0.0, 0.001, 2.5, 2.5, 2.5, 7.5, 9.0],
        [3, 1, 2, 2, 2, 1, 0],
    )


def test_read_users__too_many_numbers__says_so_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who it is, two numbers of the adjusted metric, and one of each other; and the values.
    monkeypatch.setattr("app.calibration.sizes.MOST_NUMBERS", 5 * FEWEST_USERS + 6)
    assert len(read_users(_job(), [_lines()]).units) == FEWEST_USERS

    with pytest.raises(CannotCalibrate, match=r"3 metrics, .* more than 106 numbers"):
        read_users(_job(), [_lines() + b"4,2,30,1,2.5,0\n"])


def test_read_users__too_many_resplits__says_how_many_are_few_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.calibration.sizes.MOST_WORK", 100 * (5 * FEWEST_USERS + VALUE_COSTS * 6))
    assert len(read_users(_job(), [_lines()]).units) == FEWEST_USERS

    with pytest.raises(CannotCalibrate, match=r"resplits: .* 100 numbers .* 6 values .* 101 times .* at most 100 res"):
        read_users(_job(resplits=101), [_lines()])


@pytest.mark.parametrize("before", [b"", b"1,2\n", b"x" * 3_000_000 + b"\n"])
def test_pieces__last_line__is_cut_off(before: bytes) -> None:
    assert b"".join(pieces(io.BytesIO(before + END))) == before


@pytest.mark.parametrize("text", [b"", b"1,2\n", b"1,2\nend"])
def test_pieces__no_last_line__is_incomplete(text: bytes) -> None:
    with pytest.raises(Incomplete):
        list(pieces(io.BytesIO(text)))


def _said(text: bytes) -> list[Said]:
    sink = io.BytesIO()
    work(io.BytesIO(msgspec.json.encode(_job()) + b"\n" + text), sink)
    return [msgspec.json.decode(line, type=Said) for line in sink.getvalue().splitlines()]


def test_work__all_lines__ends_with_the_result() -> None:
    *before, last = _said(_lines(200) + END)
    assert all(said.progress is not None for said in before)
    assert last.result is not None
    assert last.result.users == 200
    assert [found.metric for found in last.result.metrics] == ["spend", "per_order", "median"]


def test_work__too_few_users__says_why() -> None:
    (said,) = _said(_lines(3) + END)
    assert said.result is None
    assert said.failure is not None


def test_work__cut_off__says_nothing() -> None:
    assert _said(_lines(200)) == []


def test_work__anything_else_goes_wrong__says_that_it_was_not_killed(caplog: pytest.LogCaptureFixture) -> None:
    (said,) = _said(b"not a line of numbers\n" + END)

    assert said.result is None
    assert said.failure is not None
    assert "An error of the service" in said.failure
    assert "ValueError" in caplog.text


def test_work__nobody_reads_any_more__ends_without_a_reason() -> None:
    class Gone(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        work(io.BytesIO(msgspec.json.encode(_job()) + b"\n" + _lines(200) + END), Gone())
