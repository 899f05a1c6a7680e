"""What counts: the classic mistakes, three users at a time, from every source."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from app.experiments.values import Experiment
from app.results.cold import ColdStore
from app.results.hot import HotStore
from app.results.values import ArmObservations, Granularity, Metric, Question, Subject, ValueSums
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_TICK = timedelta(microseconds=1)
_SUMS = Question(metrics=(Metric.CONVERSION_RATE, Metric.VALUE_PER_USER))

# Three users of the control, exposed at noon.
_THREE = tuple(Assigned(user, 0, _NOON, _NOON) for user in ("anna", "bert", "carl"))


def _event(user: str, ts: datetime = _NOON + _HOUR, value: float | None = None, **fields: object) -> Happened:
    return Happened(user, "buy", ts, fields.pop("ingested_at", ts), value, **fields)  # type: ignore[arg-type]


class Observer:
    """Observes the control of a new experiment from every source, and insists that they agree."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hot, self._cold = HotStore(world.database), ColdStore(world.clickhouse)

    async def control(
        self, history: History, question: Question = _SUMS, *, redelivered: Sequence[Happened] = ()
    ) -> ArmObservations:
        arms = await self.arms(history, question, redelivered=redelivered)
        return arms[0]

    async def arms(
        self, history: History, question: Question = _SUMS, *, redelivered: Sequence[Happened] = ()
    ) -> list[ArmObservations]:
        experiment = await self._world.experiment()
        await self._world.store(experiment, history)
        await self._world.store_cold(experiment, History(events=redelivered))
        return await self._agreed(experiment, question)

    async def _agreed(self, experiment: Experiment, question: Question) -> list[ArmObservations]:
        subject = Subject(experiment.project_id, experiment.id)
        seen, _ = await self._hot.observe(subject, question, most_slots=1000)
        assert await self._cold.observe(subject, question, FAR, most_slots=1000) == seen
        for split in (_NOON, _NOON + _HOUR, FAR):
            tail, _ = await self._hot.tail(subject, question, split)
            assert await self._cold.observe(subject, question, split, most_slots=1000, tail=tail) == seen
        return [seen.of(variant.id) for variant in experiment.variants]


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
    assert treatment == ArmObservations()


async def test_observe__overrides_included__count_with_their_own_variant_and_moment(observer: Observer) -> None:
    overrides = [Overridden("anna", 1, _NOON + _HOUR, _NOON + _HOUR), Overridden("dora", 1, _NOON, _NOON)]
    events = [_event("anna", _NOON + _HOUR - _TICK), _event("dora")]

    control, treatment = await observer.arms(History(_THREE, overrides, events), Question(include_overrides=True))

    assert (control.exposed, control.exposed_by_plan) == (2, 2)
    assert (treatment.exposed, treatment.exposed_by_plan, treatment.converters) == (2, 0, 1)


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
