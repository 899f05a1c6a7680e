"""Stored assignments in memory: bounded, and what is asked for stays."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from app.assignments.cache import MemoryCache
from app.assignments.values import Source, Stored


def _stored(variant_id: int) -> Stored:
    return Stored(variant_id, Source.HASH, 1, datetime(2026, 1, 1, tzinfo=UTC))


def test_cache__what_was_put__is_found() -> None:
    cache = MemoryCache(10)
    cache.put((1, "a"), _stored(1))
    assert cache.get((1, "a")) == _stored(1)
    assert cache.get((2, "a")) is None
    assert cache.get((1, "b")) is None


def test_cache__of_no_size__keeps_nothing() -> None:
    cache = MemoryCache(0)
    cache.put((1, "a"), _stored(1))
    assert cache.get((1, "a")) is None


def test_cache__full__lets_go_of_what_nobody_asks_for() -> None:
    cache = MemoryCache(10)
    for index in range(100):
        cache.put((1, str(index)), _stored(index))
        cache.get((1, "0"))
    assert cache.get((1, "0")) == _stored(0)
    assert cache.get((1, "1")) is None


@given(st.integers(2, 40), st.lists(st.integers(0, 60), max_size=300))
def test_cache__any_sequence__stays_within_its_size_and_never_tells_a_wrong_value(
    size: int, sequence: list[int]
) -> None:
    cache = MemoryCache(size)
    for number in sequence:
        cache.put((number, "u"), _stored(number))
    found = {number: cache.get((number, "u")) for number in range(61)}
    assert all(item is None or item.variant_id == number for number, item in found.items())
    assert sum(item is not None for item in found.values()) <= size
    if sequence:
        assert found[sequence[-1]] is not None
