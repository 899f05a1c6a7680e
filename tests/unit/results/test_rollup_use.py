"""Which questions rollups answer exactly."""

from datetime import UTC, datetime, timedelta

import pytest

from app.results.rollup_use import RollupReason, obstacle
from app.results.values import ContextFilter, Granularity, Metric, Question

_DAY = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    "question",
    [
        Question(),
        Question(metrics=tuple(Metric), event_types=("buy",)),
        Question(start=_DAY, end=_DAY + 3 * _HOUR),
        Question(granularity=Granularity.HOUR),
        Question(granularity=Granularity.REALTIME, with_series=False),
    ],
)
def test_obstacle__buckets_of_hours_suffice__there_is_none(question: Question) -> None:
    assert obstacle(question) is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (Question(context=(ContextFilter("country", "DE"),)), RollupReason.CONTEXT_FILTER),
        (Question(include_overrides=True), RollupReason.OVERRIDES_INCLUDED),
        (Question(granularity=Granularity.REALTIME), RollupReason.FINER_THAN_HOURS),
        (Question(start=_DAY + _MINUTE), RollupReason.DATES_WITHIN_HOURS),
        (Question(end=_DAY + _MINUTE), RollupReason.DATES_WITHIN_HOURS),
    ],
)
def test_obstacle__more_is_asked_than_was_counted__says_why(question: Question, reason: RollupReason) -> None:
    assert obstacle(question) is reason
