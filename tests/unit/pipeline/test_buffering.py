"""When a consumer flushes, and what it may commit then."""

from hypothesis import given
from hypothesis import strategies as st

from app.core.settings import LoaderSettings
from app.pipeline.buffering import Buffer, Span
from app.pipeline.loading import Batch
from app.pipeline.messages import Message

SETTINGS = LoaderSettings(LOADER_FLUSH_ROWS=10, LOADER_FLUSH_BYTES=2000, LOADER_FLUSH_SECONDS=0.5)


def make_buffer() -> Buffer[str, Message]:
    return Buffer(SETTINGS, Batch(lambda _: None))


def put(buffer: Buffer[str, Message], place: str, offset: int, *, n_bytes: int = 10, now_s: float = 0.0) -> None:
    buffer.add(place, offset, None, n_bytes, now_s=now_s)  # type: ignore[arg-type]  # Nobody looks at it here.


def test_due__nothing_held__never() -> None:
    buffer = make_buffer()

    assert buffer.due_in_s(1e9) is None
    assert (buffer.n_messages, buffer.is_full, dict(buffer.next_offsets())) == (0, False, {})


def test_due__some_held__when_the_oldest_has_waited_long_enough() -> None:
    buffer = make_buffer()
    put(buffer, "a", 1, now_s=100.0)
    put(buffer, "a", 2, now_s=100.4)

    assert buffer.due_in_s(100.0) == 0.5
    assert buffer.due_in_s(100.25) == 0.25
    assert buffer.due_in_s(100.75) == 0.0


def test_due__as_many_messages_as_it_may_hold__now() -> None:
    buffer = make_buffer()
    for offset in range(9):
        put(buffer, "ab"[offset % 2], offset)
    almost = buffer.is_full

    put(buffer, "b", 9)

    assert (almost, buffer.is_full) == (False, True)
    assert buffer.due_in_s(0.0) == 0.0


def test_due__as_many_bytes_as_it_may_hold__now() -> None:
    buffer = make_buffer()

    put(buffer, "a", 1, n_bytes=1999)
    almost = buffer.is_full

    put(buffer, "a", 2, n_bytes=1)

    assert (almost, buffer.is_full) == (False, True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5))))
def test_spans__offsets_with_gaps__name_first_last_and_count_of_each_partition(steps: list[tuple[str, int]]) -> None:
    buffer = make_buffer()
    offsets: dict[str, list[int]] = {}
    for place, step in steps:
        known = offsets.setdefault(place, [])
        known.append((known[-1] if known else 0) + step)
        put(buffer, place, known[-1])

    assert buffer.spans == {place: Span(known[0], known[-1], len(known)) for place, known in offsets.items()}
    assert buffer.next_offsets() == {place: known[-1] + 1 for place, known in offsets.items()}
    assert buffer.n_messages == len(steps)
