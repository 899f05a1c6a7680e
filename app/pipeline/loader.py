"""Loading messages that come straight from the outbox."""

from collections.abc import Sequence

import msgspec

from app.core.clickhouse import ClickHouse
from app.core.clock import Clock, utc_now
from app.core.metrics import Metrics
from app.pipeline.loading import DeadLetter, Loading
from app.pipeline.messages import Message

DEAD_LETTERS = "dead_letters"


class Loader(Loading[Message]):
    """Loads messages of the outbox; what cannot be used goes to a table beside the others."""

    def __init__(self, clickhouse: ClickHouse, metrics: Metrics, *, clock: Clock = utc_now) -> None:
        super().__init__(
            clickhouse, metrics, read=lambda message: message, dead_letters=DeadLetterTable(clickhouse, clock=clock)
        )


class DeadLetterTable:
    """Dead letters in ClickHouse, where there is no Kafka to hold them."""

    def __init__(self, clickhouse: ClickHouse, *, clock: Clock) -> None:
        self._clickhouse = clickhouse
        self._clock = clock

    async def put(self, letters: Sequence[DeadLetter[Message]]) -> None:
        await self._clickhouse.insert_json(DEAD_LETTERS, [self._record(letter) for letter in letters])

    def _record(self, letter: DeadLetter[Message]) -> bytes:
        message = letter.arrival
        return msgspec.json.encode(
            {
                "message_id": message.id,
                "aggregatetype": message.aggregatetype,
                "type": message.type,
                "payload": message.payload.decode(errors="backslashreplace"),
                "reason": f"{letter.reason}: {letter.detail}",
                "died_at": self._clock(),
            }
        )
