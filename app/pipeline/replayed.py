"""Which dead letters have been sent back, written down as Kafka commits a position: an offset and a short text."""

from collections.abc import Iterable, Iterator
from typing import Self

# Kafka's offset.metadata.max.bytes is 4096 by default.
LONGEST_TEXT = 4000


class Replayed:
    """Offsets: all below `below`, and ranges above it."""

    def __init__(self, below: int = 0, above: Iterable[int] = ()) -> None:
        self._above = set(above)
        self.below = below
        self._raise()

    @classmethod
    def read(cls, offset: int, text: str | None) -> Self:
        """Read what was committed."""
        return cls(offset, _numbers(text or ""))

    def __contains__(self, offset: int) -> bool:
        return offset < self.below or offset in self._above

    def add(self, offset: int) -> None:
        self._above.add(offset)
        self._raise()

    def above(self) -> str:
        """Return the ranges above as text, as in `5-7,9`.

        There is only so much room: the last ones are left out then, and would be sent back once more.
        """
        text = ",".join(f"{first}-{last}" if last > first else str(first) for first, last in self._ranges())
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT].rpartition(",")[0]

    def _raise(self) -> None:
        while self.below in self._above:
            self._above.remove(self.below)
            self.below += 1
        self._above = {offset for offset in self._above if offset > self.below}

    def _ranges(self) -> Iterator[tuple[int, int]]:
        first = last = None
        for offset in sorted(self._above):
            if first is None or last is None:
                first = last = offset
            elif offset == last + 1:
                last = offset
            else:
                yield first, last
                first = last = offset
        if first is not None and last is not None:
            yield first, last


def _numbers(text: str) -> Iterator[int]:
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
