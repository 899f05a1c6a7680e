"""Which questions rollups answer exactly."""

from datetime import UTC, datetime, timedelta

import pytest

from app.experiments.population import ContextValue, ExposureRule, Population
from app.results.rollup_use import RollupReason, obstacle
from app.results.values import ContextFilter, Granularity, Metric, Question, Subject

_SUBJECT = Subject(1, 1)
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
        Question(breakdown="country"),
    ],
)
def test_obstacle__buckets_of_hours_suffice__there_is_none(question: Question) -> None:
    assert obstacle(_SUBJECT, question) is None


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
    assert obstacle(_SUBJECT, question) is reason


def test_obstacle__users_are_excluded__there_is_none() -> None:
    population = Population(exclude_users=("anna",), exclude_context=(ContextValue("internal", "true"),))

    assert obstacle(Subject(1, 1, population=population), Question()) is None


def test_obstacle__events_expose__says_so() -> None:
    subject = Subject(1, 1, population=Population(ExposureRule.EVENT))

    assert obstacle(subject, Question()) is RollupReason.EXPOSURE_EVENTS
