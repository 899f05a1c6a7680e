"""From percents to bucket ranges."""

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.allocation import BUCKETS, bucket_ranges


@st.composite
def allocations(draw: st.DrawFn) -> list[Decimal]:
    """Between 1 and 50 shares with two decimals whose sum is 100."""
    cuts = sorted(draw(st.lists(st.integers(0, BUCKETS), max_size=49)))
    bounds = [0, *cuts, BUCKETS]
    return [Decimal(end - start) / 100 for start, end in pairwise(bounds)]


@given(allocations())
def test_ranges__of_any_valid_allocation__cover_every_bucket_once_in_order(shares: list[Decimal]) -> None:
    ranges = bucket_ranges(shares)
    covered = [number for start, end in ranges for number in range(start, end)]
    assert covered == list(range(BUCKETS))
    assert [end - start for start, end in ranges] == [int(share * 100) for share in shares]


@given(st.lists(st.decimals(0, 100, places=2), max_size=10))
def test_ranges__of_any_sum_but_100__are_refused(shares: list[Decimal]) -> None:
    if sum(shares) == 100:
        assert bucket_ranges(shares)[-1][1] == BUCKETS
        return
    with pytest.raises(ValueError, match="sum to 100"):
        bucket_ranges(shares)


@pytest.mark.parametrize(
    "shares", [("33.333", "66.667"), ("-1", "101"), ("0.001", "99.999"), ("1E-3", "99.999"), ("-0.01", "100.01")]
)
def test_ranges__of_shares_that_are_no_buckets__are_refused(shares: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="allocation_pct"):
        bucket_ranges([Decimal(share) for share in shares])


def test_ranges__thirds_with_the_rest_in_the_last__are_whole_buckets() -> None:
    shares = [Decimal("33.33"), Decimal("33.33"), Decimal("33.34")]
    assert bucket_ranges(shares) == [(0, 3333), (3333, 6666), (6666, 10_000)]
