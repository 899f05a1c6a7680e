"""The results service: sources, cache, answers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from app.core.clickhouse import ClickHouseUnavailable
from app.core.db import Database
from app.core.errors import Invalid
from app.experiments.errors import ExperimentNotFound
from app.experiments.values import Experiment
from app.results.answer import Results
from app.results.errors import NoSourceAvailable
from app.results.service import ResultsService
from app.results.values import ContextFilter, Granularity, Metric, Question, Source, SourceChoice
from app.results.verdicts import Verdict
from tests.integration.results.services import Bench, BrokenClickHouse, running_service
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
async def service(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=world.clickhouse) as running:
        yield running


@pytest.fixture
async def without_store(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    """A service whose PostgreSQL went away after it had learnt of the experiments."""
    nobody = Database.connect("postgresql+asyncpg://nobody@127.0.0.1:1/none", pool_size=1)
    async with running_service(world, bench, clickhouse=world.clickhouse, database=nobody) as running:
        yield running
    await nobody.close()


@pytest.fixture
async def without_history(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=BrokenClickHouse()) as running:
        yield running


@pytest.fixture
async def without_clickhouse(world: World, bench: Bench) -> AsyncIterator[ResultsService]:
    async with running_service(world, bench, clickhouse=None) as running:
        yield running


def _users(count: int, variant: int, *, converted: int, start: int = 0) -> tuple[list[Assigned], list[Happened]]:
    names = [f"user-{variant}-{start + number}" for number in range(count)]
    return (
        [Assigned(name, variant, _T0, _T0, {"country": "DE"}) for name in names],
        [Happened(name, "buy", _T0 + _HOUR, _T0 + _HOUR, 2.0) for name in names[:converted]],
    )


def _history(*arms: tuple[list[Assigned], list[Happened]]) -> History:
    return History([row for rows, _ in arms for row in rows], (), [event for _, events in arms for event in events])


@pytest.fixture
async def some(world: World) -> Experiment:
    """20 of 200 in the control and 60 of 200 in the treatment converted."""
    experiment = await world.experiment()
    await world.store(experiment, _history(_users(200, 0, converted=20), _users(200, 1, converted=60)))
    return experiment


async def _ask(service: ResultsService, experiment: Experiment, **question: object) -> Results:
    return await service.results(experiment.project_id, experiment.key, Question(**question))  # type: ignore[arg-type]


async def test_results__default_question__has_metrics_comparisons_and_a_winner(
    service: ResultsService, some: Experiment
) -> None:
    found = await _ask(service, some)

    control, treatment = found.variants
    assert control.metrics[Metric.CONVERSION_RATE].value == 0.1
    assert control.metrics[Metric.CONVERSION_RATE].lift_vs_control is None
    assert treatment.metrics[Metric.CONVERSION_RATE].lift_vs_control == 200.0
    assert treatment.metrics[Metric.UNIQUE_USERS].value == 60
    assert {metric.sample_size for metric in treatment.metrics.values()} == {200}
    assert found.summary.winning_variant == "treatment_1"
    assert found.summary.verdict is Verdict.TREATMENT_WINS
    assert [(entry.time, entry.count, entry.users) for entry in treatment.time_series] == [(_T0, 60, 60)]
    assert found.srm.observed == {"control": 200, "treatment_1": 200}
    assert not found.srm.mismatch
    assert found.metadata.total_users == 400
    assert {comparison.metric for comparison in found.comparisons} == {Metric.CONVERSION_RATE, Metric.UNIQUE_USERS}


@pytest.mark.parametrize(
    ("choice", "source"),
    [(SourceChoice.AUTO, Source.BOTH), (SourceChoice.HOT, Source.HOT), (SourceChoice.COLD, Source.COLD)],
)
async def test_results__source_chosen__is_named_and_all_agree(
    service: ResultsService, bench: Bench, some: Experiment, choice: SourceChoice, source: Source
) -> None:
    bench.watermark = FAR if choice is SourceChoice.COLD else _T0 + _HOUR / 2

    found = await _ask(service, some, source=choice, metrics=tuple(Metric))
    plain = await _ask(service, some, source=SourceChoice.HOT, metrics=tuple(Metric))

    assert found.metadata.source is source
    assert (found.variants, found.comparisons, found.srm, found.summary) == (
        plain.variants,
        plain.comparisons,
        plain.srm,
        plain.summary,
    )
    if source is Source.COLD:
        assert found.metadata.complete_until == bench.watermark


@pytest.mark.parametrize("watermark", [None, ClickHouseUnavailable("gone")])
async def test_results__no_watermark__answers_hot(
    service: ResultsService, bench: Bench, some: Experiment, watermark: Exception | None
) -> None:
    bench.watermark = watermark

    assert (await _ask(service, some)).metadata.source is Source.HOT
    with pytest.raises(NoSourceAvailable):
        await _ask(service, some, source=SourceChoice.COLD)


async def test_results__history_goes_away_meanwhile__answers_hot(
    without_history: ResultsService, bench: Bench, some: Experiment
) -> None:
    bench.watermark = _T0

    assert (await _ask(without_history, some)).metadata.source is Source.HOT


async def test_results__store_away__answers_cold_and_says_how_old(
    without_store: ResultsService, bench: Bench, some: Experiment
) -> None:
    bench.watermark = _T0 + 2 * _HOUR

    found = await _ask(without_store, some)

    assert found.metadata.source is Source.COLD
    assert found.metadata.complete_until == bench.watermark
    assert found.variants[1].metrics[Metric.CONVERSION_RATE].value == 0.3


async def test_results__both_away__is_unavailable(
    without_store: ResultsService, bench: Bench, some: Experiment
) -> None:
    bench.watermark = ClickHouseUnavailable("gone")

    with pytest.raises(NoSourceAvailable):
        await _ask(without_store, some)


async def test_results__asked_again__comes_from_the_cache_unless_fresh(
    service: ResultsService, bench: Bench, some: Experiment
) -> None:
    first = await _ask(service, some)
    bench.now += timedelta(seconds=1)

    assert await _ask(service, some) == first
    fresh = await _ask(service, some, fresh=True)
    assert fresh.metadata.computed_at == bench.now
    assert await _ask(service, some) == fresh
    assert {lifetime_s > 250 for lifetime_s in bench.cache.redis.lifetimes_s.values()} == {True}


async def test_results__without_series__is_kept_for_a_minute(
    service: ResultsService, bench: Bench, some: Experiment
) -> None:
    found = await _ask(service, some, with_series=False)

    assert [variant.time_series for variant in found.variants] == [(), ()]
    assert all(50 < lifetime_s <= 60 for lifetime_s in bench.cache.redis.lifetimes_s.values())


async def test_results__newer_row__is_seen_at_once(service: ResultsService, world: World, some: Experiment) -> None:
    before = await _ask(service, some)
    now = datetime.now(UTC)
    await world.store_hot(some, History([Assigned("new", 1, now, now)]))

    after = await _ask(service, some)

    assert after.metadata.total_users == before.metadata.total_users + 1
    # The newest row is too young for an answer to be kept: an older one may still be on its way into the database.
    assert (await _ask(service, some)).metadata is not after.metadata


async def test_results__traffic_of_others__leaves_the_kept_answer_in_force(
    service: ResultsService, bench: Bench, world: World, some: Experiment
) -> None:
    first = await _ask(service, some)
    bench.now += timedelta(seconds=1)
    now = datetime.now(UTC)
    elsewhere = await world.experiment()
    of_others = [
        Happened("u", "buy", now, now, None, foreign=True),
        Happened("u", "buy", now, now, None, names="another"),
    ]
    await world.store_hot(elsewhere, History([Assigned("u", 0, now, now)], [Overridden("v", 1, now, now)]))
    await world.store_hot(some, History([], (), of_others))

    assert await _ask(service, some) == first
    assert (await _ask(service, some, fresh=True)).metadata.computed_at == bench.now


@pytest.mark.parametrize("names", ["none", "this"])
async def test_results__newer_event__is_seen_at_once(
    service: ResultsService, world: World, some: Experiment, names: str
) -> None:
    before = await _ask(service, some)
    now = datetime.now(UTC)
    await world.store_hot(some, History([], (), [Happened("user-0-199", "buy", now, now, None, names=names)]))

    after = await _ask(service, some)

    counts = [found.variants[0].metrics[Metric.UNIQUE_USERS].value for found in (before, after)]
    assert counts == [20, 21]


async def test_results__cold_answer_behind_the_look_back__is_not_kept(
    service: ResultsService, bench: Bench, some: Experiment
) -> None:
    bench.watermark = _T0 + _HOUR

    await _ask(service, some, source=SourceChoice.COLD)

    assert not bench.cache.redis.kept


async def test_results__unknown_experiment__raises(service: ResultsService, some: Experiment) -> None:
    with pytest.raises(ExperimentNotFound):
        await service.results(some.project_id + 1, some.key, Question())


async def test_results__series_too_long__names_the_granularity(service: ResultsService, world: World) -> None:
    experiment = await world.experiment()
    events = [Happened("user", "buy", _T0 + timedelta(days=day), _T0, None) for day in (0, 30)]
    await world.store_hot(experiment, History([Assigned("user", 0, _T0, _T0)], (), events))

    with pytest.raises(Invalid) as refused:
        await _ask(service, experiment, granularity=Granularity.REALTIME)

    assert refused.value.extensions["errors"][0]["field"] == "granularity"  # type: ignore[index]
    assert await _ask(service, experiment, granularity=Granularity.HOUR)


async def test_results__nobody_exposed__every_value_is_null_with_a_reason(
    service: ResultsService, world: World
) -> None:
    experiment = await world.experiment(["50", "30", "20"])

    found = await _ask(service, experiment, metrics=tuple(Metric), min_sample=0)

    rates = [variant.metrics[Metric.CONVERSION_RATE] for variant in found.variants]
    assert [(rate.value, rate.null_reason) for rate in rates] == [(None, "EMPTY_ARM")] * 3
    assert (found.srm.p_value, found.srm.mismatch) == (None, False)
    assert found.summary.winning_variant is None
    assert found.summary.minimum_detectable_effect is None


async def test_results__users_in_an_arm_without_allocation__are_a_mismatch(
    service: ResultsService, world: World
) -> None:
    experiment = await world.experiment(["50", "50", "0"])
    arms = [_users(150, 0, converted=10), _users(150, 1, converted=80), _users(1, 2, converted=0)]
    await world.store_hot(experiment, _history(*arms))

    found = await _ask(service, experiment, min_sample=0)

    assert found.srm.expected["treatment_2"] == 0
    assert found.srm.mismatch
    assert (found.summary.winning_variant, found.summary.verdict) == (None, Verdict.SRM_MISMATCH)


async def test_results__overrides__never_touch_the_sample_ratio(service: ResultsService, world: World) -> None:
    experiment = await world.experiment()
    history = _history(_users(100, 0, converted=1), _users(100, 1, converted=1))
    overrides = [Overridden(f"tester-{number}", 1, _T0, _T0) for number in range(90)]
    await world.store_hot(experiment, History(history.assignments, overrides, history.events))

    with_them = await _ask(service, experiment, include_overrides=True)

    assert with_them.metadata.total_users == 290
    assert with_them.srm.observed == {"control": 100, "treatment_1": 100}


async def test_results__intervals_not_wanted__are_null_while_tests_and_winner_stay(
    service: ResultsService, some: Experiment
) -> None:
    found = await _ask(service, some, include_ci=False)

    comparison = found.comparisons[0]
    assert (comparison.difference_ci_lower, comparison.lift_ci_upper) == (None, None)
    assert comparison.p_value is not None
    assert found.variants[1].metrics[Metric.CONVERSION_RATE].ci_lower is None
    assert found.variants[1].time_series[0].ci_lower is None
    assert found.summary.winning_variant == "treatment_1"


async def test_results__many_comparisons_and_many_looks__have_numbers_of_their_own(
    service: ResultsService, world: World
) -> None:
    experiment = await world.experiment(["40", "30", "30"])
    arms = [_users(200, 0, converted=20), _users(150, 1, converted=28), _users(150, 2, converted=16)]
    await world.store_hot(experiment, _history(*arms))

    found = await _ask(service, experiment, metrics=(Metric.CONVERSION_RATE, Metric.VALUE_PER_USER, Metric.EVENT_COUNT))

    tested = [comparison for comparison in found.comparisons if comparison.metric != Metric.EVENT_COUNT]
    assert len(tested) == 4
    for comparison in tested:
        assert comparison.p_value is not None
        assert comparison.p_value_adjusted is not None
        assert comparison.always_valid_p_value is not None
        assert comparison.p_value <= min(comparison.p_value_adjusted, comparison.always_valid_p_value)
        assert comparison.always_valid_ci_lower is not None
        assert comparison.difference_ci_lower is not None
        assert comparison.always_valid_ci_lower < comparison.difference_ci_lower
    untested = [comparison for comparison in found.comparisons if comparison not in tested]
    assert [(comparison.p_value_adjusted, comparison.null_reason) for comparison in untested] == [(None, "NO_TEST")] * 2


async def test_results__context__keeps_users_who_have_it(service: ResultsService, some: Experiment) -> None:
    for country, users in (("DE", 400), ("FR", 0)):
        found = await _ask(service, some, context=(ContextFilter("country", country),))
        assert found.metadata.total_users == users


async def test_results__small_variants__are_marked_and_nobody_wins(service: ResultsService, some: Experiment) -> None:
    found = await _ask(service, some, min_sample=201)

    assert [variant.below_min_sample for variant in found.variants] == [True, True]
    assert found.summary.winning_variant is None
    assert found.variants[1].metrics[Metric.CONVERSION_RATE].value == 0.3


async def test_results__first_metric_has_no_test__nobody_wins(service: ResultsService, some: Experiment) -> None:
    found = await _ask(service, some, metrics=(Metric.EVENT_COUNT, Metric.CONVERSION_RATE))

    assert (found.summary.winning_variant, found.summary.verdict) == (None, Verdict.NO_TEST)


async def test_results__clickhouse_not_configured__answers_hot(
    without_clickhouse: ResultsService, bench: Bench, some: Experiment
) -> None:
    bench.watermark = FAR

    assert (await _ask(without_clickhouse, some)).metadata.source is Source.HOT
