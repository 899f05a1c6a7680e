"""Whether the history reaches back far enough for a question."""

from datetime import UTC, datetime, timedelta

import pytest

from app.events.messages import MOST_AHEAD
from app.results.reach import reaches

_GIVEN_UP = datetime(2026, 3, 1, tzinfo=UTC)
_ENOUGH = _GIVEN_UP + MOST_AHEAD
_TOO_EARLY = _ENOUGH - timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("earliest", "start", "expected"),
    [
        (None, None, True),
        (_ENOUGH, None, True),
        (_TOO_EARLY, None, False),
        (_TOO_EARLY, _ENOUGH, True),
        (_TOO_EARLY, _TOO_EARLY, False),
        (_ENOUGH, _TOO_EARLY, True),
    ],
)
def test_reaches__earliest_event_that_counts__decides(
    earliest: datetime | None, start: datetime | None, *, expected: bool
) -> None:
    assert reaches(_GIVEN_UP, earliest, start) is expected
