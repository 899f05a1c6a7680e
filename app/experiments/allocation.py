"""From allocations in percent to stored bucket ranges, and the seeds that shuffle users over them. No I/O."""

import secrets
from collections.abc import Sequence
from decimal import Decimal

# Percent with two decimals: exactly one bucket for each hundredth of a percent.
BUCKETS = 10_000
BUCKETS_PER_PERCENT = 100
_SEED_BYTES = 8


def new_seed() -> str:
    """Make a seed; hexadecimal, so that it holds no colon and the hashed text stays unambiguous."""
    return secrets.token_hex(_SEED_BYTES)


def bucket_ranges(allocations_pct: Sequence[Decimal]) -> list[tuple[int, int]]:
    """Return half-open ranges that cover 0..9999 in the order given.

    Raises:
        ValueError: an allocation is negative or has more than two decimals, or the sum is not 100.
    """
    ranges: list[tuple[int, int]] = []
    start = 0
    for allocation in allocations_pct:
        width = allocation * BUCKETS_PER_PERCENT
        if width < 0 or width != width.to_integral_value():
            raise ValueError(f"allocation_pct must be at least 0 with at most two decimals, not {allocation}")
        end = start + int(width)
        ranges.append((start, end))
        start = end
    if start != BUCKETS:
        raise ValueError(f"allocation_pct must sum to 100, not {sum(allocations_pct)}")
    return ranges
