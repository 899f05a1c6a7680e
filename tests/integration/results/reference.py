"""What counts, once more and as plainly as possible: loops over rows in memory."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from app.experiments.values import Experiment
from app.results.values import ContextFilter, Question
from tests.integration.results.world import Happened, History

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Arm:
    """Plain tallies of one variant."""

    exposed: int = 0
    exposed_by_plan: int = 0
    converters: set[str] = field(default_factory=set)
    events: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    slots: dict[tuple[datetime, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[datetime, int] = field(default_factory=lambda: defaultdict(int))


def tally(experiment: Experiment, history: History, question: Question) -> dict[int, Arm]:
    """Count, by variant id, without the variants that nobody is exposed to."""
    arms: dict[int, Arm] = defaultdict(Arm)
    for user_id, variant, exposed_at, by_plan in _exposed(history, question):
        arm = arms[experiment.variants[variant].id]
        arm.exposed += 1
        arm.exposed_by_plan += by_plan
        entered_at = exposed_at if question.start is None else max(exposed_at, question.start)
        arm.entries[_floor(entered_at, question.granularity.width)] += 1
        for event in history.events:
            if event.user_id == user_id and event.ts >= exposed_at and _counts(event, question):
                arm.converters.add(user_id)
                arm.events += 1
                arm.slots[_floor(event.ts, question.granularity.width), event.event_type].append(user_id)
                if event.value is not None:
                    arm.values[user_id].append(event.value)
    return dict(arms)


def sums_of(arm: Arm) -> tuple[Fraction, Fraction, int, int, Fraction]:
    """Return sums over users: totals, their squares, counts, their squares, products of both."""
    users = [(sum(map(Fraction, values), Fraction(0)), len(values)) for values in arm.values.values()]
    return (
        sum((total for total, _ in users), Fraction(0)),
        sum((total**2 for total, _ in users), Fraction(0)),
        sum(count for _, count in users),
        sum(count**2 for _, count in users),
        sum((total * count for total, count in users), Fraction(0)),
    )


def _exposed(history: History, question: Question) -> Iterator[tuple[str, int, datetime, bool]]:
    overridden = {row.user_id: row for row in history.overrides if not row.removed}
    contexts = {row.user_id: row.context or {} for row in history.assignments}
    fitting = {user for user, context in contexts.items() if all(_fits(context, f) for f in question.context)}
    for row in history.assignments:
        if row.user_id not in overridden and row.user_id in fitting and _before(row.at, question.end):
            yield row.user_id, row.variant, row.at, True
    if question.include_overrides:
        for user_id, override in overridden.items():
            if (not question.context or user_id in fitting) and _before(override.at, question.end):
                yield user_id, override.variant, override.at, False


def _fits(context: dict[str, object], wanted: ContextFilter) -> bool:
    match context.get(wanted.name):
        case bool() as value:
            return wanted.value == str(value).lower()
        case str() as value:
            return wanted.value == value
        case int() | float() as value:
            return wanted.number is not None and wanted.number == value
        case _:
            return False


def _counts(event: Happened, question: Question) -> bool:
    return (
        not event.foreign
        and event.names != "another"
        and (question.start is None or event.ts >= question.start)
        and _before(event.ts, question.end)
        and (not question.event_types or event.event_type in question.event_types)
    )


def _before(moment: datetime, end: datetime | None) -> bool:
    return end is None or moment < end


def _floor(moment: datetime, width: timedelta) -> datetime:
    return moment - (moment - _EPOCH) % width
