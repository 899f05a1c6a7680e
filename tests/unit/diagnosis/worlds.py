"""Facts of an experiment in which nothing is wrong, to be changed by tests."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.diagnosis.facts import (
    Arm,
    Around,
    Arrivals,
    DayOfUsers,
    Entrances,
    Facts,
    MetricFacts,
    Phases,
    Prior,
    ValueOfUsers,
)
from app.diagnosis.judgement import RULES
from app.diagnosis.values import Code, Finding, Unchecked
from app.experiments.lifecycle import Status
from app.metrics.values import Kind, Role
from app.stats.samples import MeanSample, Sample

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)
HALVES = (Arm("control", Decimal(50)), Arm("treatment", Decimal(50)))
FIRST_DAY = date(2026, 3, 1)


def mean_sample(values: Sequence[float]) -> MeanSample:
    return MeanSample.from_sums(
        n=len(values), sum_values=sum(values), sum_squares=sum(value * value for value in values)
    )


def binary(users: int, converted: int) -> MeanSample:
    return MeanSample.from_sums(n=users, sum_values=converted, sum_squares=converted)


def metric(*samples: Sample, key: str = "conversion_rate", **fields: Any) -> MetricFacts:
    made = MetricFacts(key=key, kind=Kind.CONVERSION, role=Role.PRIMARY, events=100, samples=samples)
    return replace(made, **fields)


def phases(*users: Sequence[tuple[float, float]], days: int = 3) -> Phases:
    """Make phases of each arm's users, of whom each has a number in the first and one in the later phase."""
    return Phases(
        days=days,
        first=tuple(mean_sample([first for first, _ in arm]) for arm in users),
        later=tuple(mean_sample([later for _, later in arm]) for arm in users),
        both=tuple(mean_sample([first + later for first, later in arm]) for arm in users),
    )


def facts(**fields: Any) -> Facts:
    """Return an experiment of 10 days with 1,000 users a day, and nothing to find."""
    made = Facts(
        now=NOW,
        status=Status.RUNNING,
        started_at=START,
        arms=HALVES,
        days=[DayOfUsers(FIRST_DAY + timedelta(days=day), (505 - day, 495 + day)) for day in range(10)],
        attributes=[
            ValueOfUsers("country", "DE", (2010, 1990)),
            ValueOfUsers("country", "FR", (1490, 1510)),
            ValueOfUsers("is_new", "true", (800, 790)),
        ],
        entrances=Entrances(assigned=10_000, earliest=START),
        two_variants=0,
        changes=(),
        priors=[Prior("events per user", 7, (mean_sample([0, 1, 2, 3] * 1250), mean_sample([0, 1, 2, 3] * 1250)))],
        around=Around(before=500, after=4000),
        metrics=[metric(binary(5000, 2500), binary(5000, 2700))],
        phases={"conversion_rate": phases(((1.0, 2.0), (2.0, 1.0)) * 100, ((1.0, 2.0), (2.0, 1.0)) * 100)},
        arrivals=Arrivals(events=10_000, late=100, ahead=1, newest=NOW),
        history_until=NOW - timedelta(seconds=2),
        planned_sample=10_000,
    )
    return replace(made, **fields)


def found(code: Code, world: Facts) -> list[Finding]:
    """Return what a rule finds; that it could not be checked is a failure."""
    answer = RULES[code](world)
    assert not isinstance(answer, Unchecked), answer.reason
    return answer


def unchecked(code: Code, world: Facts) -> str:
    """Return why a rule could not be checked."""
    answer = RULES[code](world)
    assert isinstance(answer, Unchecked)
    return answer.reason


def split(dice: random.Random, users: int, arms: Sequence[Arm]) -> tuple[int, ...]:
    """Divide users among arms as a fair assignment does."""
    drawn = dice.choices(range(len(arms)), weights=[float(arm.weight) for arm in arms], k=users)
    return tuple(drawn.count(arm) for arm in range(len(arms)))
