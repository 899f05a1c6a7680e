"""What the pipeline itself says through the outbox, and what a message looks like on its way."""

from typing import NamedTuple
from uuid import UUID

HEARTBEAT_AGGREGATE = "heartbeat"
BEAT = "heartbeat.beat"


class Message(NamedTuple):
    """A row of the outbox as a relay or Kafka delivers it; `payload` is the JSON as it stands there."""

    id: UUID
    aggregatetype: str
    type: str
    payload: bytes
