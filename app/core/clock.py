"""The clock and the source of ids, injected so that tests can choose both."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4

Clock = Callable[[], datetime]
IdSource = Callable[[], UUID]


def utc_now() -> datetime:
    return datetime.now(UTC)


def random_id() -> UUID:
    return uuid4()
