"""The bucketing algorithm: golden vectors, and what holds for every user and seed."""

import json
import string
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.assignments.bucketing import bucket, in_traffic, variant_for
from app.experiments.allocation import BUCKETS
from app.experiments.values import Variant
from tests.vectors import make_bucketing

_VECTORS = json.loads(make_bucketing.TARGET.read_text(encoding="utf-8"))
_SCRIPT = Path(make_bucketing.__file__)

# Whatever the service takes as a user id: no control characters, no lone surrogates.
user_ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=256)
seeds = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
shares = st.decimals(min_value=0, max_value=100, places=2)


def _variants(bounds: list[list[int]]) -> list[Variant]:
    return [
        Variant(index, f"v{index}", "V", Decimal(end - start) / 100, index == 0, {}, start, end)
        for index, (start, end) in enumerate(bounds)
    ]


def test_vectors__as_stored__are_many_and_written_by_their_script() -> None:
    assert len(_VECTORS["cases"]) >= 1000
    assert make_bucketing.document() == _VECTORS


def test_murmur3__of_the_script__gives_the_published_values() -> None:
    known = {
        b"": 0x00000000,
        b"test": 0xBA6BD213,
        b"Hello, world!": 0xC0363E43,
        b"The quick brown fox jumps over the lazy dog": 0x2E4FF723,
    }
    for data, expected in known.items():
        assert make_bucketing.murmur3_x86_32(data) == expected


def test_bucketing__golden_vectors__hold() -> None:
    for case in _VECTORS["cases"]:
        user_id, seed = case["user_id"], case["seed"]
        assert bucket(user_id, seed) == case["bucket"], case
        assert bucket(user_id, seed + "/traffic") == case["traffic_bucket"], case
        for name, bounds in _VECTORS["ranges"].items():
            assert variant_for(user_id, seed, _variants(bounds)).id == case["variants"][name], case
        for share in (case["traffic_bucket"], case["traffic_bucket"] + 1):
            assert in_traffic(user_id, seed, Decimal(share) / 100) == (case["traffic_bucket"] < share)


@given(user_ids, seeds)
def test_bucket__of_any_user__is_stable_in_range_and_as_the_script_has_it(user_id: str, seed: str) -> None:
    first = bucket(user_id, seed)
    assert 0 <= first < BUCKETS
    assert first == bucket(user_id, seed) == make_bucketing.bucket(user_id, seed)


@given(user_ids, seeds, shares, shares)
def test_traffic__raised__keeps_whoever_was_in(user_id: str, seed: str, one: Decimal, other: Decimal) -> None:
    low, high = sorted((one, other))
    assert in_traffic(user_id, seed, low) <= in_traffic(user_id, seed, high)
    assert not in_traffic(user_id, seed, Decimal(0))
    assert in_traffic(user_id, seed, Decimal(100))


def _p_value(buckets: list[int], cells: int) -> float:
    counts = [0] * cells
    for value in buckets:
        counts[value * cells // BUCKETS] += 1
    return float(stats.chisquare(counts).pvalue)


def test_buckets__of_many_users__are_uniform_for_every_seed() -> None:
    # One in a million by chance for each of five seeds; the users and seeds are fixed, so it cannot flicker.
    for seed in make_bucketing.SEEDS:
        assert _p_value([bucket(f"user-{number}", seed) for number in range(20_000)], 100) > 1e-6


def test_traffic__and_variant__are_independent() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    for seed in make_bucketing.SEEDS:
        inside = [user for user in users if in_traffic(user, seed, Decimal(20))]
        assert _p_value([bucket(user, seed) for user in inside], 20) > 1e-6


def test_variants__of_two_experiments__are_independent() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    table = [[0, 0], [0, 0]]
    for user in users:
        table[bucket(user, "one") >= 5000][bucket(user, "two") >= 5000] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-6
