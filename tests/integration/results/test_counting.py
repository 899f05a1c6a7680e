"""What counts: the classic mistakes, three users at a time, from every source."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from app.events.messages import MOST_AHEAD
from app.experiments.population import EVERYBODY, ContextValue, ExposureRule, Population
from app.experiments.values import Experiment
from app.results.cold import ColdStore
from app.results.hot import HotStore
from app.results.values import (
    ArmObservations,
    CohortWidth,
    ContextFilter,
    Exclusion,
    Granularity,
    Metric,
    Observations,
    Question,
    Segment,
    Subject,
    ValueSums,
)
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_TICK = timedelta(microseconds=1)
_SUMS = Question(metrics=(Metric.CONVERSION_RATE, Metric.VALUE_PER_USER))
_BUY = Question(event_types=("buy",), metrics=(Metric.CONVERSION_RATE, Metric.VALUE_PER_USER))
_BY_EVENT = Population(ExposureRule.EVENT)

# Three users of the control, exposed at noon.
_THREE = tuple(Assigned(user, 0, _NOON, _NOON) for user in ("anna", "bert", "carl"))


def _event(user: str, ts: datetime = _NOON + _HOUR, value: float | None = None, **fields: object) -> Happened:
    return Happened(user, "buy", ts, fields.pop("ingested_at", ts), value, **fields)  # type: ignore[arg-type]


def _sighting(user: str, shown: object, ts: datetime = _NOON + _HOUR, **fields: object) -> Happened:
    names = fields.pop("names", "this")
    return Happened(user, "exposure", ts, ts, names=names, properties={"variant": shown}, **fields)  # type: ignore[arg-type]


class Observer:
    """Observes the control of a new experiment from every source, and insists that they agree."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hot, self._cold = HotStore(world.database), ColdStore(world.clickhouse)

    async def control(
        self,
        history: History,
        question: Question = _SUMS,
        population: Population = EVERYBODY,
        *,
        redelivered: Sequence[Happened] = (),
    ) -> ArmObservations:
        arms = await self.arms(history, question, population, redelivered=redelivered)
        return arms[0]

    async def arms(
        self,
        history: History,
        question: Question = _SUMS,
        population: Population = EVERYBODY,
        *,
        redelivered: Sequence[Happened] = (),
    ) -> list[ArmObservations]:
        experiment = replace(await self._world.experiment(), population=population)
        await self._world.store(experiment, history)
        await self._world.store_cold(experiment, History(events=redelivered))
        seen = await self.agreed(experiment, question)
        return [seen.of(variant.id) for variant in experiment.variants]

    async def agreed(self, experiment: Experiment, question: Question) -> Observations:
        subject = Subject.of(experiment)
        seen, _ = await self._hot.observe(subject, question, most_slots=1000)
        sources = [await self._cold.observe(subject, question, FAR, most_slots=1000)]
        for split in (_NOON, _NOON + _HOUR, FAR):
            tail, _ = await self._hot.tail(subject, question, split)
            sources.append(await self._cold.observe(subject, question, split, most_slots=1000, tail=tail))
        for source in sources:
            assert (source, source.late_events) == (seen, seen.late_events)
        return seen


@pytest.fixture(scope="module")
def observer(world: World) -> Observer:
    return Observer(world)


async def test_observe__event_before_exposure__is_not_counted(observer: Observer) -> None:
    events = [_event("anna", _NOON - _TICK), _event("bert", _NOON + _TICK)]

    seen = await observer.control(History(_THREE, events=events))

    assert (seen.exposed, seen.converters, seen.events) == (3, 1, 1)


async def test_observe__event_at_the_moment_of_exposure__counts(observer: Observer) -> None:
    seen = await observer.control(History(_THREE, events=[_event("anna", _NOON)]))

    assert seen.converters == 1


async def test_observe__event_ingested_before_its_users_exposure__counts(observer: Observer) -> None:
    late = [Assigned("anna", 0, _NOON, _NOON + 3 * _HOUR)]

    seen = await observer.control(History(late, events=[_event("anna", ingested_at=_NOON + _HOUR / 2)]))

    assert (seen.exposed, seen.converters) == (1, 1)


async def test_observe__users_without_events__count_in_the_mean(observer: Observer) -> None:
    events = [_event("anna", value=6.0), _event("anna", value=3.0)]

    seen = await observer.control(History(_THREE, events=events))

    assert (seen.exposed, seen.converters, seen.events) == (3, 1, 2)
    assert seen.sums == ValueSums(
        totals=Fraction(9), total_squares=Fraction(81), counts=2, count_squares=4, products=Fraction(18)
    )


async def test_observe__end_of_the_range__is_open(observer: Observer) -> None:
    end = _NOON + 2 * _HOUR
    assignments = (*_THREE, Assigned("dora", 0, end, end))
    events = [_event("anna", end - _TICK), _event("bert", end)]

    seen = await observer.control(History(assignments, events=events), Question(end=end))

    assert (seen.exposed, seen.converters) == (3, 1)


async def test_observe__start_of_the_range__is_closed_and_keeps_exposures(observer: Observer) -> None:
    start = _NOON + _HOUR
    events = [_event("anna", start - _TICK), _event("bert", start)]

    seen = await observer.control(History(_THREE, events=events), Question(start=start))

    assert (seen.exposed, seen.converters) == (3, 1)


async def test_observe__redelivered_event__counts_once(observer: Observer) -> None:
    events = [_event("anna", value=5.0)]

    seen = await observer.control(History(_THREE, events=events), redelivered=[*events, *events])

    assert seen.events == 1
    assert seen.sums.totals == 5


async def test_observe__overridden_users__left_out_even_if_assigned_before(observer: Observer) -> None:
    overrides = [
        Overridden("anna", 1, _NOON + _HOUR, _NOON + _HOUR),
        Overridden("bert", 1, _NOON, _NOON, removed=True),
        Overridden("dora", 1, _NOON, _NOON),
    ]
    events = [_event(user, _NOON + 2 * _HOUR) for user in ("anna", "bert", "dora")]

    control, treatment = await observer.arms(History(_THREE, overrides, events))

    assert (control.exposed, control.converters) == (2, 1)
    assert control.excluded == {Exclusion.OVERRIDE: 1}
    # Who was never assigned was never going to count.
    assert treatment == ArmObservations()


async def test_observe__overrides_included__count_with_their_own_variant_and_moment(observer: Observer) -> None:
    overrides = [Overridden("anna", 1, _NOON + _HOUR, _NOON + _HOUR), Overridden("dora", 1, _NOON, _NOON)]
    events = [_event("anna", _NOON + _HOUR - _TICK), _event("dora")]

    control, treatment = await observer.arms(History(_THREE, overrides, events), Question(include_overrides=True))

    assert (control.exposed, control.exposed_by_plan) == (2, 2)
    assert (treatment.exposed, treatment.exposed_by_plan, treatment.converters) == (2, 0, 1)


async def test_observe__exposed_by_event__counts_from_the_first_one_and_only_then(observer: Observer) -> None:
    shown = _NOON + 2 * _HOUR
    sightings = [_sighting("anna", "control", shown), _sighting("anna", "control", shown + _HOUR, names="none")]
    events = [_event("anna", shown - _TICK, 1.0), _event("anna", shown, 2.0), _event("bert", shown + _HOUR, 4.0)]

    seen = await observer.control(History(_THREE, events=[*sightings, *events]), replace(_BUY, end=FAR), _BY_EVENT)

    assert (seen.exposed, seen.exposed_by_plan, seen.assigned_by_plan) == (1, 1, 3)
    assert (seen.converters, seen.events, seen.sums.totals) == (1, 1, Fraction(2))


async def test_observe__several_exposure_events__multiply_no_sum(observer: Observer) -> None:
    sightings = [_sighting("anna", "control", _NOON + minute * _HOUR / 60) for minute in range(5)]

    for population in (EVERYBODY, _BY_EVENT):
        seen = await observer.control(
            History(_THREE, events=[*sightings, _event("anna", value=6.0)]), _BUY, population, redelivered=sightings
        )

        assert (seen.converters, seen.events) == (1, 1)
        assert (seen.sums.totals, seen.sums.total_squares) == (Fraction(6), Fraction(36))


async def test_observe__exposure_event_before_the_assignment__exposes_nobody(observer: Observer) -> None:
    sightings = [_sighting("anna", "control", _NOON - _TICK), _sighting("bert", "control", _NOON)]

    seen = await observer.control(History(_THREE, events=sightings), _SUMS, _BY_EVENT)

    assert (seen.exposed, seen.assigned_by_plan) == (1, 3)


async def test_observe__exposure_event_of_elsewhere__exposes_nobody(observer: Observer) -> None:
    sightings = [_sighting("anna", "control", names="another"), _sighting("bert", "control", foreign=True)]

    seen = await observer.control(History(_THREE, events=sightings), _SUMS, _BY_EVENT)

    assert (seen.exposed, seen.assigned_by_plan) == (0, 3)


async def test_observe__exposure_event_at_the_end_of_the_range__comes_too_late(observer: Observer) -> None:
    end = _NOON + _HOUR
    sightings = [_sighting("anna", "control", end - _TICK), _sighting("bert", "control", end)]

    seen = await observer.control(History(_THREE, events=sightings), Question(end=end), _BY_EVENT)

    assert (seen.exposed, seen.assigned_by_plan) == (1, 3)


async def test_observe__another_type_of_exposure_event__is_the_one_that_counts(observer: Observer) -> None:
    population = Population(ExposureRule.EVENT, exposure_event_type="buy")

    seen = await observer.control(
        History(_THREE, events=[_sighting("anna", "control"), _event("bert")]), _BUY, population
    )

    assert (seen.exposed, seen.converters) == (1, 1)


@pytest.mark.parametrize("population", [EVERYBODY, _BY_EVENT])
async def test_observe__user_in_two_variants__is_left_out_and_counted(
    observer: Observer, population: Population
) -> None:
    sightings = [_sighting(user, "control") for user in ("anna", "bert", "carl")]
    sightings += [_sighting("anna", "treatment_1", _NOON + 3 * _HOUR)]
    events = [_event(user, _NOON + 2 * _HOUR) for user in ("anna", "bert")]

    control, treatment = await observer.arms(History(_THREE, events=[*sightings, *events]), _BUY, population)

    assert (control.exposed, control.exposed_by_plan, control.assigned_by_plan, control.converters) == (2, 2, 2, 1)
    assert control.excluded == {Exclusion.TWO_VARIANTS: 1}
    assert treatment == ArmObservations()


@pytest.mark.parametrize("shown", ["control", "gone", "", 1, True, None, ["treatment_1"], {"key": "treatment_1"}])
async def test_observe__exposure_event_names_no_other_variant__user_counts(observer: Observer, shown: object) -> None:
    seen = await observer.control(History(_THREE, events=[_sighting("anna", shown)]))

    assert (seen.exposed, seen.excluded) == (3, {})


async def test_observe__variant_named_by_an_event_that_does_not_count__user_counts(observer: Observer) -> None:
    end = _NOON + 2 * _HOUR
    sightings = [
        _sighting("anna", "treatment_1", names="none"),
        _sighting("anna", "treatment_1", names="another"),
        _sighting("bert", "treatment_1", foreign=True),
        # Older than all assignments by more than an event may be ahead of its ingestion.
        _sighting("bert", "treatment_1", _NOON - MOST_AHEAD - _TICK),
        _sighting("carl", "treatment_1", end),
    ]

    seen = await observer.control(History(_THREE, events=sightings), Question(end=end))

    assert (seen.exposed, seen.excluded) == (3, {})


async def test_observe__another_variant_was_shown_before_the_assignment__user_was_in_two(observer: Observer) -> None:
    seen = await observer.control(History(_THREE, events=[_sighting("anna", "treatment_1", _NOON - _HOUR)]))

    assert (seen.exposed, seen.excluded) == (2, {Exclusion.TWO_VARIANTS: 1})


async def test_observe__overridden_user_is_shown_the_forced_variant__is_counted_as_overridden(
    observer: Observer,
) -> None:
    overrides = [Overridden("anna", 1, _NOON, _NOON)]
    history = History(_THREE, overrides, [_sighting("anna", "treatment_1"), _sighting("anna", "control")])

    control, _ = await observer.arms(history)
    with_control, with_treatment = await observer.arms(history, Question(include_overrides=True))

    assert (control.exposed, control.excluded) == (2, {Exclusion.OVERRIDE: 1})
    assert (with_control.exposed, with_treatment.exposed) == (2, 1)
    assert (with_control.excluded, with_treatment.excluded) == ({}, {})


async def test_observe__excluded_users__are_left_out_and_counted_under_their_first_reason(observer: Observer) -> None:
    contexts: dict[str, dict[str, Any]] = {
        "anna": {"internal": True},
        "bert": {"internal": True},
        "carl": {"internal": "true"},
        "dora": {},
    }
    users = [Assigned(user, 0, _NOON, _NOON, context) for user, context in contexts.items()]
    overrides = [Overridden("anna", 1, _NOON, _NOON)]
    strayed = [_sighting(user, "treatment_1") for user in contexts]
    population = Population(
        exclude_users=("anna", "bert", "nobody"),
        exclude_context=(ContextValue("internal", "true"), ContextValue("internal", "yes")),
    )

    control, treatment = await observer.arms(History(users, overrides, strayed), _SUMS, population)
    _, forced = await observer.arms(History(users, overrides, strayed), Question(include_overrides=True), population)

    assert control.excluded == dict.fromkeys(Exclusion, 1)
    assert (control.exposed, treatment) == (0, ArmObservations())
    # The list is about the user, whatever forced the variant.
    assert (forced.exposed, forced.excluded) == (0, {Exclusion.EXCLUDED_USER: 1})


async def test_observe__context_filter__counts_excluded_users_within_it(observer: Observer) -> None:
    users = [Assigned(user, 0, _NOON, _NOON, {"country": user[0]}) for user in ("d1", "d2", "f1")]
    question = Question(context=(ContextFilter("country", "d"),))

    seen = await observer.control(History(users), question, Population(exclude_users=("d1", "f1")))

    assert (seen.exposed, seen.excluded) == (1, {Exclusion.EXCLUDED_USER: 1})


async def test_observe__late_events__are_counted_and_told(observer: Observer, world: World) -> None:
    experiment = await world.experiment()
    events = [
        _event(user, _NOON, ingested_at=_NOON + late) for user, late in (("anna", _HOUR), ("bert", _HOUR + _TICK))
    ]
    await world.store(experiment, History(_THREE, events=events))

    seen = await observer.agreed(experiment, Question())

    assert (seen.of(experiment.control.id).events, seen.late_events) == (2, 1)


async def test_observe__breakdown__observes_the_users_of_each_value(observer: Observer, world: World) -> None:
    experiment = await world.experiment()
    contexts: dict[str, dict[str, Any] | None] = {
        "anna": {"plan": 1},
        "bert": {"plan": "1"},
        "carl": {"plan": True},
        "dora": {"plan": {}},
        "emil": None,
    }
    users = [Assigned(user, number % 2, _NOON, _NOON, contexts[user]) for number, user in enumerate(contexts)]
    await world.store(experiment, History(users, events=[_event(user, value=2.0) for user in ("anna", "emil")]))

    seen = await observer.agreed(experiment, replace(_SUMS, breakdown="plan"))

    assert [(segment.value, segment.is_rest) for segment in seen.segments] == [
        ("1", False),
        ("true", False),
        (None, False),
    ]
    assert [_exposed_and_converted(segment, experiment) for segment in seen.segments] == [
        [(1, 1), (1, 0)],
        [(1, 0), (0, 0)],
        [(1, 1), (1, 0)],
    ]
    filtered = await observer.agreed(
        experiment, replace(_SUMS, with_series=False, context=(ContextFilter("plan", "1"),))
    )
    assert seen.segments[0].observations == filtered
    assert [seen.of(variant.id).exposed for variant in experiment.variants] == [3, 2]


async def test_observe__breakdown_with_many_values__keeps_the_largest_and_one_rest(
    observer: Observer, world: World
) -> None:
    experiment = await world.experiment()
    users = [Assigned(f"user-{number}", 0, _NOON, _NOON, {"page": f"p{number % 53:02}"}) for number in range(106 + 52)]
    await world.store(experiment, History(users))

    seen = await observer.agreed(experiment, Question(breakdown="page"))

    # All but `p52` have three users; of these the first ones by name are kept.
    assert [segment.value for segment in seen.segments] == [*(f"p{number:02}" for number in range(50)), None]
    assert seen.segments[-1].is_rest
    assert seen.segments[-1].observations.of(experiment.control.id).exposed == 3 + 3 + 2


async def test_observe__cohorts__have_the_users_of_each_day_from_midnight_on(observer: Observer, world: World) -> None:
    experiment = await world.experiment()
    midnight = datetime(2026, 3, 2, tzinfo=UTC)  # A Monday.
    users = [
        Assigned("anna", 0, midnight - _TICK, _NOON),
        Assigned("bert", 0, midnight, _NOON),
        Assigned("carl", 1, midnight + 24 * _HOUR - _TICK, _NOON),
        # Imported, from years ago.
        Assigned("dora", 1, datetime(2019, 12, 30, tzinfo=UTC), _NOON),
    ]
    events = [_event("anna", midnight + 50 * _HOUR), _event("carl", midnight), _event("dora")]
    await world.store(experiment, History(users, events=events))

    by_day = await observer.agreed(experiment, Question(cohorts=CohortWidth.DAY))
    by_week = await observer.agreed(experiment, Question(cohorts=CohortWidth.WEEK))

    days = [midnight, midnight - timedelta(days=1), datetime(2019, 12, 30, tzinfo=UTC)]
    assert [segment.since for segment in by_day.segments] == days
    assert [_exposed_and_converted(segment, experiment) for segment in by_day.segments] == [
        [(1, 0), (1, 0)],
        [(1, 1), (0, 0)],
        [(0, 0), (1, 1)],
    ]
    weeks = [midnight, midnight - timedelta(days=7), datetime(2019, 12, 30, tzinfo=UTC)]
    assert [segment.since for segment in by_week.segments] == weeks
    assert not any(segment.is_rest or segment.value for segment in (*by_day.segments, *by_week.segments))


async def test_observe__cohorts_where_events_expose__go_by_the_event_and_end_with_the_question(
    observer: Observer, world: World
) -> None:
    experiment = replace(await world.experiment(), population=_BY_EVENT)
    later = _NOON + timedelta(days=3)
    shown = [
        _sighting("anna", "control", later),
        _sighting("bert", "control", later + timedelta(days=1)),
        _sighting("carl", "control", later + timedelta(days=9)),
    ]
    users = (*_THREE, Assigned("dora", 0, _NOON, _NOON))  # Never shown anything.
    await world.store(experiment, History(users, events=shown))

    asked = Question(cohorts=CohortWidth.DAY, end=datetime(2026, 3, 5, 12, tzinfo=UTC) + _TICK)
    seen = await observer.agreed(experiment, asked)

    assert [segment.since for segment in seen.segments] == [datetime(2026, 3, day, tzinfo=UTC) for day in (5, 4)]
    control = experiment.control.id
    assert [segment.observations.of(control).exposed for segment in seen.segments] == [1, 1]
    assert [segment.observations.of(control).assigned_by_plan for segment in seen.segments] == [1, 1]
    assert seen.of(control).assigned_by_plan == 4


async def test_observe__overrides_included__are_in_the_cohort_of_the_override(observer: Observer, world: World) -> None:
    experiment = await world.experiment()
    forced = Overridden("anna", 1, _NOON + timedelta(days=2), _NOON)
    await world.store(experiment, History(_THREE, [forced]))

    with_them = await observer.agreed(experiment, Question(cohorts=CohortWidth.DAY, include_overrides=True))
    without = await observer.agreed(experiment, Question(cohorts=CohortWidth.DAY))

    assert [_exposed_and_converted(segment, experiment) for segment in with_them.segments] == [
        [(0, 0), (1, 0)],
        [(2, 0), (0, 0)],
    ]
    (cohort,) = without.segments
    assert cohort.observations.of(experiment.control.id).excluded == {Exclusion.OVERRIDE: 1}


async def test_observe__more_cohorts_than_are_shown__keeps_the_newest_and_one_rest(
    observer: Observer, world: World
) -> None:
    experiment = await world.experiment()
    users = [
        Assigned(f"user-{number}", number % 2, _NOON + timedelta(days=number % 53), _NOON) for number in range(106)
    ]
    await world.store(experiment, History(users))

    seen = await observer.agreed(experiment, Question(cohorts=CohortWidth.DAY))

    first = datetime(2026, 3, 1, tzinfo=UTC)
    assert [segment.since for segment in seen.segments] == [
        *(first + timedelta(days=number) for number in range(52, 2, -1)),
        None,
    ]
    assert [segment.is_rest for segment in seen.segments] == [False] * 50 + [True]
    assert _exposed_and_converted(seen.segments[-1], experiment) == [(3, 0), (3, 0)]


def _exposed_and_converted(segment: Segment, experiment: Experiment) -> list[tuple[int, int]]:
    arms = [segment.observations.of(variant.id) for variant in experiment.variants]
    return [(arm.exposed, arm.converters) for arm in arms]


async def test_observe__event_of_another_project__is_not_counted(observer: Observer) -> None:
    seen = await observer.control(History(_THREE, events=[_event("anna", foreign=True)]))

    assert seen.events == 0


async def test_observe__event_names_an_experiment__counts_for_that_one_alone(observer: Observer) -> None:
    events = [_event("anna", names="another"), _event("bert", names="this"), _event("carl", names="none")]

    seen = await observer.control(History(_THREE, events=events))

    assert seen.converters == 2


async def test_observe__same_user_on_several_days__is_one_user_of_each_bucket_and_one_in_all(
    observer: Observer,
) -> None:
    days = [_NOON + timedelta(days=day) for day in (0, 0, 1, 3)]

    seen = await observer.control(History(_THREE, events=[_event("anna", day) for day in days]))

    assert (seen.converters, seen.events) == (1, 4)
    assert [(slot.time.day, slot.events, slot.users) for slot in seen.slots] == [(1, 2, 1), (2, 1, 1), (4, 1, 1)]


async def test_observe__values_far_apart__sums_are_exact(observer: Observer) -> None:
    events = [_event("anna", value=1e16), _event("bert", value=1.0), _event("carl", value=-1e16)]

    seen = await observer.control(History(_THREE, events=events))

    assert seen.sums.totals == 1
    assert seen.sums.total_squares == 2 * Fraction(10) ** 32 + 1


@pytest.mark.parametrize("with_series", [False, True])
async def test_observe__long_before_1970__counts_in_its_day(observer: Observer, *, with_series: bool) -> None:
    then = datetime(1901, 2, 3, 23, 59, 59, 999_999, tzinfo=UTC)
    events = [Happened("anna", "buy", then, _NOON), Happened("anna", "buy", then + _TICK, _NOON)]

    seen = await observer.control(
        History([Assigned("anna", 0, then, _NOON)], events=events), Question(with_series=with_series)
    )

    assert (seen.exposed, seen.converters, seen.events) == (1, 1, 2)
    assert [slot.time.day for slot in seen.slots] == ([3, 4] if with_series else [])


@pytest.mark.parametrize("largest", [5e-324, 1e-310, 1e-300, 1.0, 1e22, 1.7976931348623157e308])
async def test_observe__largest_value_of_any_size__keeps_its_digits(observer: Observer, largest: float) -> None:
    events = [_event("anna", value=largest), _event("bert", value=-largest), _event("carl", value=largest)]

    seen = await observer.control(History(_THREE, events=events))

    assert seen.sums.totals == Fraction(largest)
    assert seen.sums.total_squares == 3 * Fraction(largest) ** 2


async def test_observe__most_slots__bounds_the_series(world: World) -> None:
    experiment = await world.experiment()
    minutes = [_event("anna", _NOON + timedelta(minutes=minute)) for minute in range(10)]
    await world.store(experiment, History(_THREE, events=minutes))
    subject, question = Subject(experiment.project_id, experiment.id), Question(granularity=Granularity.REALTIME)

    by_hot, _ = await HotStore(world.database).observe(subject, question, most_slots=4)
    by_cold = await ColdStore(world.clickhouse).observe(subject, question, FAR, most_slots=4)

    for seen in (by_hot, by_cold):
        arm = seen.of(experiment.control.id)
        assert (len(arm.slots), arm.events, arm.exposed) == (4, 10, 3)
