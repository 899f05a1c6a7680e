"""The topics between Debezium and ClickHouse, as `debezium/topics.json` lists them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

TOPICS_FILE = Path(__file__).resolve().parents[2] / "debezium" / "topics.json"


class Topic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A topic as it should be. One that carries rows of the outbox names their aggregate type and its first lane."""

    name: str
    partitions: int
    config: Mapping[str, str]
    aggregatetype: str | None = None
    first_lane: int | None = None


@cache
def topics() -> tuple[Topic, ...]:
    """Return all topics, in the file's order."""
    return msgspec.json.decode(TOPICS_FILE.read_bytes(), type=tuple[Topic, ...])
