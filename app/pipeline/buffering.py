"""What a consumer holds between Kafka and ClickHouse, and when that is flushed. No I/O."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.core.settings import LoaderSettings
from app.pipeline.loading import Batch

Arrival = TypeVar("Arrival")
Place = TypeVar("Place", bound=Hashable)


@dataclass(slots=True)
class Span:
    """Messages of one partition, which lie one after the other: from `first` to `last`, `count` in all.

    Offsets have gaps, where transactions ended or were broken off.
    """

    first: int
    last: int
    count: int


class Buffer(Generic[Place, Arrival]):
    """Messages in the order of their arrival; a place is a partition of a topic."""

    def __init__(self, settings: LoaderSettings, batch: Batch[Arrival]) -> None:
        self._settings = settings
        self._n_bytes = 0
        self._begun_at_s: float | None = None
        self.batch = batch
        self.spans: dict[Place, Span] = {}

    def add(self, place: Place, offset: int, arrival: Arrival, n_bytes: int, *, now_s: float) -> None:
        """Take a message; those of one place come in the order of their offsets."""
        if self._begun_at_s is None:
            self._begun_at_s = now_s
        if (span := self.spans.get(place)) is None:
            self.spans[place] = Span(offset, offset, 1)
        else:
            span.last = offset
            span.count += 1
        self._n_bytes += n_bytes
        self.batch.add(arrival)

    @property
    def n_messages(self) -> int:
        return sum(span.count for span in self.spans.values())

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be taken."""
        return self.n_messages >= self._settings.flush_rows or self._n_bytes >= self._settings.flush_bytes

    def due_in_s(self, now_s: float) -> float | None:
        """Return how long the flush can wait, 0 if it is due, or `None` if there is nothing to flush."""
        if self._begun_at_s is None:
            return None
        if self.is_full:
            return 0.0
        return max(self._begun_at_s + self._settings.flush_s - now_s, 0.0)

    def next_offsets(self) -> Mapping[Place, int]:
        """Return where each partition goes on once all of this is in ClickHouse."""
        return {place: span.last + 1 for place, span in self.spans.items()}
