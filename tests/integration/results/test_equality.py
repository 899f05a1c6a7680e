"""PostgreSQL, ClickHouse and both together observe the same, to the last bit, whatever the history."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.events.messages import MOST_AHEAD
from app.experiments.population import ContextValue, ExposureRule, Population
from app.experiments.values import Experiment
from app.results.analysis import answer
from app.results.cold import ColdStore
from app.results.hot import HotStore
from app.results.provenance import Provenance
from app.results.values import (
    ArmObservations,
    CohortWidth,
    ContextFilter,
    Granularity,
    Metric,
    Observations,
    Question,
    Source,
    Subject,
)
from tests.integration.results.reference import Arm, broken_down, by_cohort, sums_of, tally
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_START = datetime(2026, 3, 1, tzinfo=UTC)
_MOST_SLOTS = 20_001

# Few moments, so that events fall on exposures, on bounds and on the split; a microsecond beside them, too.
_moments = st.builds(
    lambda steps, us: _START + timedelta(hours=steps, microseconds=us),
    st.integers(0, 12),
    st.sampled_from([-1, 0, 0, 0, 1]),
)
_users = st.sampled_from(["a", "b", "c", "d", "é ü", "user,\"'\\"])
_types = st.sampled_from(["buy", "view", "click"])
_contexts = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "country": st.sampled_from(["DE", "FR", "1", "true"]),
        "age": st.sampled_from([1, 1.0, "1", 2.5, 1e-7, 2**53, -0.0, -1.5e-9, 1e21, 123e18, 0.000123, 7e299]),
        "new": st.booleans(),
        "nested": st.just({"x": [1]}),
    },
)
_filters = st.sampled_from(
    [
        *[(ContextFilter("country", value),) for value in ("DE", "1", "true")],
        *[(ContextFilter("age", value),) for value in ("1", "1.0", "2.5", "1e-7", "9007199254740992", "1e21", "x")],
        *[(ContextFilter("new", value),) for value in ("true", "false", "True")],
        (ContextFilter("nested", '{"x":[1]}'),),
        (ContextFilter("country", "DE"), ContextFilter("new", "true")),
    ]
)
_plain_values = st.integers(-(10**6), 10**6).map(lambda cents: cents / 64)
# Sizes so far apart that the small ones are rounded away, and ties of rounding.
_any_values = st.floats(allow_nan=False, allow_infinity=False) | st.builds(
    math.ldexp, st.integers(-9, 9), st.integers(-70, 70)
)


_early = st.builds(lambda steps: _START + timedelta(hours=steps), st.integers(0, 4))
_late = st.builds(lambda steps: _START + timedelta(hours=steps), st.integers(8, 13))


def _mostly(usual: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the usual three times out of four; `one_of` alone would prefer what shrinks best."""
    return st.sampled_from([usual, usual, usual, seldom]).flatmap(lambda chosen: chosen)


def _with_sightings(events: list[Happened]) -> st.SearchStrategy[list[Happened]]:
    taken = {event.event_id for event in events}
    return _sightings.map(lambda sightings: [*events, *(row for row in sightings if row.event_id not in taken)])


def _histories(values: st.SearchStrategy[float]) -> st.SearchStrategy[History]:
    """Make histories in which most users are exposed early and most events count."""
    return st.builds(
        History,
        st.lists(
            st.builds(Assigned, _users, st.integers(0, 2), _mostly(_early, _moments), _moments, _contexts),
            min_size=3,
            max_size=6,
            unique_by=lambda row: row.user_id,
        ),
        st.lists(
            st.builds(Overridden, _users, st.integers(0, 2), _mostly(_early, _moments), _moments, st.booleans()),
            max_size=2,
            unique_by=lambda row: row.user_id,
        ),
        st.lists(
            st.builds(
                Happened,
                _users,
                _types,
                _moments,
                _moments,
                _mostly(values, st.none()),
                _mostly(st.just("none"), st.sampled_from(["this", "another"])),
                _mostly(st.just(False), st.booleans()),
                st.uuids(version=4),
            ),
            min_size=10,
            max_size=40,
            unique_by=lambda row: row.event_id,
        ).flatmap(_with_sightings),
    )


# Exposure events, most of which name a variant; some as no variant is named, or where it means nothing.
_shown = st.sampled_from(["control", "treatment_1", "treatment_2", "gone", 1, True, None, ["control"]])
_sightings = st.lists(
    st.builds(
        Happened,
        _users,
        st.just("exposure"),
        _moments,
        _moments,
        st.none(),
        _mostly(st.just("this"), st.sampled_from(["none", "another"])),
        _mostly(st.just(False), st.booleans()),
        st.uuids(version=4),
        _mostly(st.builds(lambda shown: {"variant": shown, "page": "checkout"}, _shown), st.none()),
    ),
    max_size=8,
    unique_by=lambda row: row.event_id,
)
_populations = st.builds(
    Population,
    st.sampled_from(list(ExposureRule)),
    _mostly(st.just("exposure"), st.just("view")),
    _mostly(st.just(()), st.sampled_from([("a",), ("user,\"'\\", "é ü", "nobody")])),
    _mostly(
        st.just(()),
        st.sampled_from(
            [
                (ContextValue("country", "DE"),),
                (ContextValue("age", "1"), ContextValue("new", "true")),
                (ContextValue("country", "FR"), ContextValue("nested", "x")),
            ]
        ),
    ),
)
_questions = st.builds(
    Question,
    event_types=_mostly(st.just(()), st.sampled_from([("buy",), ("view", "click")])),
    start=_mostly(st.none(), _moments),
    end=_mostly(st.none(), _mostly(_late, _moments)),
    granularity=st.sampled_from(list(Granularity)),
    metrics=_mostly(st.just(tuple(Metric)), st.sampled_from([(Metric.CONVERSION_RATE,), (Metric.P95_VALUE,)])),
    include_overrides=st.booleans(),
    context=_mostly(st.just(()), _filters),
    with_series=_mostly(st.just(True), st.just(False)),
    breakdown=_mostly(st.none(), st.sampled_from(["country", "age", "age", "new", "nested", "absent"])),
)


@pytest.fixture(scope="module")
def hot(world: World) -> HotStore:
    return HotStore(world.database)


@pytest.fixture(scope="module")
def cold(world: World) -> ColdStore:
    return ColdStore(world.clickhouse)


# Every example takes a dozen round trips, so shrinking would take minutes.
_MANY = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@_MANY
@given(history=_histories(_plain_values), question=_questions, population=_populations, split=_moments, data=st.data())
async def test_observations__same_history__equal_from_every_source_and_as_counted_by_hand(
    world: World,
    hot: HotStore,
    cold: ColdStore,
    history: History,
    question: Question,
    population: Population,
    split: datetime,
    data: Any,
) -> None:
    experiment = replace(await world.experiment(["50", "30", "20"]), population=population)

    seen = await _observe_everywhere(world, hot, cold, experiment, history, question, split, data)

    expected = tally(experiment, history, question, population)
    _assert_all_as_counted(seen, expected, question)
    assert seen.late_events == sum(arm.late for arm in expected.values())
    if question.breakdown is not None:
        segments = broken_down(experiment, history, question, population)
        assert {(segment.value, segment.is_rest) for segment in seen.segments} == set(segments)
        for segment in seen.segments:
            arms = segments[segment.value, segment.is_rest]
            _assert_all_as_counted(segment.observations, arms, replace(question, with_series=False))


# Hours of a history become quarters of days, so that exposures lie on midnights, on a Monday's too, and beside them.
_STRETCHED = 6


def _stretched(moment: datetime) -> datetime:
    hours = round((moment - _START) / timedelta(hours=1))
    return moment + (_STRETCHED - 1) * timedelta(hours=hours)


def _over_days(history: History) -> History:
    """Spread a history over some days; nothing is ingested more than a day before it happens."""
    return History(
        [
            replace(row, at=_stretched(row.at), ingested_at=max(_stretched(row.ingested_at), _stretched(row.at)))
            for row in history.assignments
        ],
        [replace(row, at=_stretched(row.at)) for row in history.overrides],
        [
            replace(
                row,
                ts=_stretched(row.ts),
                ingested_at=max(_stretched(row.ingested_at), _stretched(row.ts) - MOST_AHEAD),
            )
            for row in history.events
        ],
    )


# The same statements, with other cells: what is new shows in few examples.
@settings(_MANY, max_examples=6)
@given(
    history=_histories(_plain_values).map(_over_days),
    question=_questions,
    width=st.sampled_from(list(CohortWidth)),
    population=_populations,
    split=_moments.map(_stretched),
    data=st.data(),
)
async def test_cohorts__same_history__equal_from_every_source_and_as_counted_by_hand(
    world: World,
    hot: HotStore,
    cold: ColdStore,
    history: History,
    question: Question,
    width: CohortWidth,
    population: Population,
    split: datetime,
    data: Any,
) -> None:
    experiment = replace(await world.experiment(["50", "30", "20"]), population=population)
    start, end = (None if bound is None else _stretched(bound) for bound in (question.start, question.end))
    asked = replace(question, breakdown=None, cohorts=width, granularity=Granularity.DAY, start=start, end=end)

    seen = await _observe_everywhere(world, hot, cold, experiment, history, asked, split, data)

    _assert_all_as_counted(seen, tally(experiment, history, asked, population), asked)
    cohorts = by_cohort(experiment, history, asked, population)
    assert [segment.since for segment in seen.segments] == sorted(filter(None, cohorts), reverse=True)
    for segment in seen.segments:
        arms = cohorts[segment.since]
        for arm in arms.values():  # Who was never exposed came on no day.
            arm.assigned_by_plan = arm.exposed_by_plan
        _assert_all_as_counted(segment.observations, arms, replace(asked, with_series=False))
    for variant in experiment.variants:
        assert seen.of(variant.id).exposed == sum(one.observations.of(variant.id).exposed for one in seen.segments)


@_MANY
@given(history=_histories(_any_values), question=_questions, split=_moments, data=st.data())
async def test_observations__values_of_any_size__equal_from_every_source_and_never_nan(
    world: World, hot: HotStore, cold: ColdStore, history: History, question: Question, split: datetime, data: Any
) -> None:
    experiment = await world.experiment(["50", "30", "20"])
    if question.granularity is Granularity.REALTIME:  # Minutes would be refused for their number.
        question = replace(question, granularity=Granularity.HOUR)

    seen = await _observe_everywhere(world, hot, cold, experiment, history, question, split, data)

    results = answer(experiment, question, seen, Provenance(Source.HOT, split, split))
    assert all(math.isfinite(number) for number in _floats(results))


async def _observe_everywhere(
    world: World,
    hot: HotStore,
    cold: ColdStore,
    experiment: Experiment,
    history: History,
    question: Question,
    split: datetime,
    data: Any,
) -> Observations:
    await world.store_hot(experiment, history)
    await _deliver(world, experiment, history, data)
    subject = Subject.of(experiment)

    by_hot, _ = await hot.observe(subject, question, most_slots=_MOST_SLOTS)
    by_cold = await cold.observe(subject, question, FAR, most_slots=_MOST_SLOTS)
    tail, _ = await hot.tail(subject, question, split)
    by_both = await cold.observe(subject, question, split, most_slots=_MOST_SLOTS, tail=tail)

    assert by_hot == by_cold
    assert by_hot == by_both
    assert by_hot.late_events == by_cold.late_events == by_both.late_events
    return by_hot


async def _deliver(world: World, experiment: Experiment, history: History, data: Any) -> None:
    """Bring the history to ClickHouse as a bad day would: in any order, some rows twice, in several inserts."""
    assignments = data.draw(_redelivered(history.assignments))
    events = data.draw(_redelivered(history.events))
    first, half = len(assignments) // 2, len(events) // 2
    await world.store_cold(experiment, History(assignments[:first], history.overrides, events[:half]))
    await world.store_cold(experiment, History(assignments[first:], (), events[half:]))


def _redelivered(rows: Any) -> st.SearchStrategy[list[Any]]:
    twice = st.lists(st.sampled_from(rows), max_size=8) if rows else st.just([])
    return twice.flatmap(lambda again: st.permutations([*rows, *again]))


def _assert_all_as_counted(seen: Observations, expected: dict[int, Arm], question: Question) -> None:
    assert set(seen.arms) == set(expected)
    for variant_id, arm in expected.items():
        _assert_as_counted(seen.of(variant_id), arm, question)


def _assert_as_counted(seen: ArmObservations, counted: Arm, question: Question) -> None:
    assert (seen.exposed, seen.exposed_by_plan) == (counted.exposed, counted.exposed_by_plan)
    assert (seen.assigned_by_plan, seen.excluded) == (counted.assigned_by_plan, counted.excluded)
    assert (seen.converters, seen.events) == (len(counted.converters), counted.events)
    if question.wants_sums:
        sums = seen.sums
        found = (sums.totals, sums.total_squares, sums.counts, sums.count_squares, sums.products)
        assert found == sums_of(counted)
    if question.with_series:
        slots = {(slot.time, slot.event_type): (slot.events, slot.users) for slot in seen.slots}
        assert slots == {key: (len(users), len(set(users))) for key, users in counted.slots.items()}
        assert {entries.time: entries.users for entries in seen.entries} == counted.entries
    if question.wants_p95:
        ordered = sorted(value for values in counted.values.values() for value in values)
        assert (seen.p95 is None) == (not ordered)
        if seen.p95 is not None:
            rank = Fraction(95, 100) * (len(ordered) - 1)
            below = int(rank)
            above = min(below + 1, len(ordered) - 1)
            assert (seen.p95.low, seen.p95.high) == (ordered[below], ordered[above])
            assert seen.p95.fraction == rank - below


def _floats(value: Any) -> Iterator[float]:
    match value:
        case float():
            yield value
        case dict():
            for inner in value.values():
                yield from _floats(inner)
        case tuple() | list():
            for inner in value:
                yield from _floats(inner)
        case object() if hasattr(value, "__dataclass_fields__"):
            for name in value.__dataclass_fields__:
                yield from _floats(getattr(value, name))
