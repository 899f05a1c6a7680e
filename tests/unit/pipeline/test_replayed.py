"""Remembering which dead letters were sent back."""

from hypothesis import given
from hypothesis import strategies as st

from app.pipeline.replayed import LONGEST_TEXT, Replayed

OFFSETS = st.sets(st.integers(10, 60))


@given(OFFSETS)
def test_replayed__written_down_and_read_again__is_the_same(offsets: set[int]) -> None:
    replayed = Replayed(10)
    for offset in sorted(offsets, reverse=True):
        replayed.add(offset)

    again = Replayed.read(replayed.below, replayed.above())

    assert {offset for offset in range(10, 70) if offset in again} == offsets
    assert again.below not in offsets


@given(OFFSETS, st.integers(0, 80))
def test_replayed__older_letters_gone__forgets_them(offsets: set[int], first: int) -> None:
    written = Replayed(0, offsets)

    again = Replayed.read(first, written.above())

    assert {offset for offset in range(first, 90) if offset in again} == {o for o in offsets if o >= first}


def test_replayed__nothing_written__holds_nothing() -> None:
    assert 0 not in Replayed.read(0, None)
    assert Replayed.read(0, "").above() == ""


def test_replayed__ranges__are_short() -> None:
    assert Replayed(0, [5, 6, 7, 9]).above() == "5-7,9"


def test_replayed__more_gaps_than_there_is_room_for__keeps_the_first_ones() -> None:
    replayed = Replayed(0, range(1, 10_000, 2))

    text = replayed.above()

    assert len(text) <= LONGEST_TEXT
    again = Replayed.read(0, text)
    assert all((offset in again) == (offset % 2 == 1) for offset in range(700))
