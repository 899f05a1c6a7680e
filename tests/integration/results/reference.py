"""What counts, once more and as plainly as possible: loops over rows in memory."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any

from app.events.messages import MOST_AHEAD
from app.experiments.population import ExposureRule, Population
from app.experiments.values import Experiment
from app.results.values import MOST_SEGMENTS, CohortWidth, ContextFilter, Exclusion, Question
from tests.integration.results.world import Assigned, Happened, History

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Arm:
    """Plain tallies of one variant."""

    exposed: int = 0
    exposed_by_plan: int = 0
    assigned_by_plan: int = 0
    excluded: Counter[Exclusion] = field(default_factory=Counter)
    converters: set[str] = field(default_factory=set)
    events: int = 0
    late: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    slots: dict[tuple[datetime, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[datetime, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class _Candidate:
    """A user who counts unless there is a reason against it. `exposed_at` is `None` if nothing exposed the user."""

    user_id: str
    variant: int
    context: dict[str, Any]
    assigned_at: datetime
    exposed_at: datetime | None
    by_plan: bool
    reason: Exclusion | None


def tally(experiment: Experiment, history: History, question: Question, population: Population) -> dict[int, Arm]:
    """Count, by variant id, without the variants that nobody is assigned to."""
    return _tally(experiment, history, question, list(_candidates(experiment, history, question, population)))


def broken_down(
    experiment: Experiment, history: History, question: Question, population: Population
) -> dict[tuple[str | None, bool], dict[int, Arm]]:
    """Count by value of the breakdown, `None` for those without one; the rest has `True` beside its `None`."""
    assert question.breakdown is not None
    candidates = list(_candidates(experiment, history, question, population))
    values = {each.user_id: value_of(each.context.get(question.breakdown)) for each in candidates}
    users = Counter(values[each.user_id] for each in candidates if _counts_as_exposed(each, question))
    named = sorted((value for value in users if value is not None), key=lambda value: (-users[value], value.encode()))
    largest = set(named[:MOST_SEGMENTS])
    segments: dict[tuple[str | None, bool], list[_Candidate]] = defaultdict(list)
    for each in candidates:
        value = values[each.user_id]
        segments[(value, False) if value is None or value in largest else (None, True)].append(each)
    tallied = {key: _tally(experiment, history, question, members) for key, members in segments.items()}
    return {key: arms for key, arms in tallied.items() if arms}


def by_cohort(
    experiment: Experiment, history: History, question: Question, population: Population
) -> dict[datetime | None, dict[int, Arm]]:
    """Count by where the cohort begins; all that begin before the newest ones are together under `None`."""
    assert question.cohorts is not None
    members: dict[date, list[_Candidate]] = defaultdict(list)
    for each in _candidates(experiment, history, question, population):
        if each.exposed_at is not None and _before(each.exposed_at, question.end):
            members[_first_day(each.exposed_at, question.cohorts)].append(each)
    newest = sorted(members, reverse=True)[:MOST_SEGMENTS]
    cohorts: dict[datetime | None, list[_Candidate]] = defaultdict(list)
    for day, own in members.items():
        cohorts[datetime.combine(day, time(), UTC) if day in newest else None] += own
    return {since: _tally(experiment, history, question, own) for since, own in cohorts.items()}


def _first_day(moment: datetime, width: CohortWidth) -> date:
    day = moment.astimezone(UTC).date()
    if width is CohortWidth.DAY:
        return day
    year, week, _ = day.isocalendar()
    return date.fromisocalendar(year, week, 1)


def value_of(found: object) -> str | None:
    """Return a context's value as a breakdown shows it."""
    match found:
        case bool():
            return str(found).lower()
        case str():
            return found
        case int() | float() if found == 0:
            return "0"
        case int() | float() if 1e-300 <= abs(found) <= 1e300:
            return _digits(float(found))
        case _:
            return None


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


def _digits(number: float) -> str:
    """Write a number with its shortest digits, as JavaScript does."""
    digits, _, exponent = repr(abs(number)).partition("e")
    whole, _, rest = digits.partition(".")
    rest = "" if rest == "0" else rest
    point = len(whole) + int(exponent or 0)
    significant = (whole + rest).lstrip("0")
    point -= len(whole + rest) - len(significant)
    significant = significant.rstrip("0")
    sign = "-" if number < 0 else ""
    if not 1e-6 <= abs(number) < 1e21:
        mantissa = significant[0] + ("." + significant[1:] if significant[1:] else "")
        return f"{sign}{mantissa}e{point - 1}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{significant}"
    if len(significant) <= point:
        return sign + significant.ljust(point, "0")
    return f"{sign}{significant[:point]}.{significant[point:]}"


def _tally(
    experiment: Experiment, history: History, question: Question, candidates: list[_Candidate]
) -> dict[int, Arm]:
    arms: dict[int, Arm] = defaultdict(Arm)
    for each in candidates:
        variant_id = experiment.variants[each.variant].id
        if each.reason is None and each.by_plan and _before(each.assigned_at, question.end):
            arms[variant_id].assigned_by_plan += 1
        if each.exposed_at is None or not _before(each.exposed_at, question.end):
            continue
        if each.reason is not None:
            arms[variant_id].excluded[each.reason] += 1
            continue
        _count(arms[variant_id], each.user_id, each.exposed_at, history, question)
        arms[variant_id].exposed_by_plan += each.by_plan
    return dict(arms)


def _count(arm: Arm, user_id: str, exposed_at: datetime, history: History, question: Question) -> None:
    arm.exposed += 1
    entered_at = exposed_at if question.start is None else max(exposed_at, question.start)
    arm.entries[_floor(entered_at, question.granularity.width)] += 1
    for event in history.events:
        if event.user_id == user_id and event.ts >= exposed_at and _counts(event, question):
            arm.converters.add(user_id)
            arm.events += 1
            arm.late += event.ingested_at - event.ts > timedelta(hours=1)
            arm.slots[_floor(event.ts, question.granularity.width), event.event_type].append(user_id)
            if event.value is not None:
                arm.values[user_id].append(event.value)


def _candidates(
    experiment: Experiment, history: History, question: Question, population: Population
) -> Iterator[_Candidate]:
    overridden = {row.user_id: row for row in history.overrides if not row.removed}
    contexts = {row.user_id: row.context or {} for row in history.assignments}
    for row in history.assignments:
        context = contexts[row.user_id]
        if not _fits_all(context, question) or (question.include_overrides and row.user_id in overridden):
            continue
        reason = _reason(row.user_id, context, population)
        if row.user_id in overridden:
            reason = Exclusion.OVERRIDE
        elif reason is None and _strayed(experiment, history, row, question, population):
            reason = Exclusion.TWO_VARIANTS
        exposed_at = _exposed_at(history, row, population)
        yield _Candidate(row.user_id, row.variant, context, row.at, exposed_at, by_plan=True, reason=reason)
    for user_id, override in overridden.items() if question.include_overrides else ():
        context = contexts.get(user_id, {})
        if _fits_all(context, question):
            reason = _reason(user_id, context, population)
            yield _Candidate(user_id, override.variant, context, override.at, override.at, by_plan=False, reason=reason)


def _reason(user_id: str, context: dict[str, Any], population: Population) -> Exclusion | None:
    if user_id in population.exclude_users:
        return Exclusion.EXCLUDED_USER
    if any(_fits(context, ContextFilter(value.name, value.value)) for value in population.exclude_context):
        return Exclusion.EXCLUDED_CONTEXT
    return None


def _exposed_at(history: History, assigned: Assigned, population: Population) -> datetime | None:
    if population.exposure is ExposureRule.ASSIGNMENT:
        return assigned.at
    moments = [event.ts for event in _sightings(history, assigned, population) if event.names != "another"]
    return min((moment for moment in moments if moment >= assigned.at), default=None)


def _strayed(
    experiment: Experiment, history: History, assigned: Assigned, question: Question, population: Population
) -> bool:
    # What is older than all assignments is not looked at.
    since = min(row.at for row in history.assignments) - MOST_AHEAD
    others = {variant.key for variant in experiment.variants} - {experiment.variants[assigned.variant].key}
    return any(
        event.names == "this"
        and isinstance(named := (event.properties or {}).get("variant"), str)
        and named in others
        and event.ingested_at >= since
        and (question.start is None or event.ts >= question.start)
        and _before(event.ts, question.end)
        for event in _sightings(history, assigned, population)
    )


def _sightings(history: History, assigned: Assigned, population: Population) -> Iterator[Happened]:
    for event in history.events:
        of_type = event.event_type == population.exposure_event_type and not event.foreign
        if of_type and event.user_id == assigned.user_id:
            yield event


def _counts_as_exposed(each: _Candidate, question: Question) -> bool:
    return each.reason is None and each.exposed_at is not None and _before(each.exposed_at, question.end)


def _fits_all(context: dict[str, Any], question: Question) -> bool:
    return all(_fits(context, wanted) for wanted in question.context)


def _fits(context: dict[str, Any], wanted: ContextFilter) -> bool:
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
