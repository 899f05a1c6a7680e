"""A diagnosis says the same whichever store measures, also while one of them is away."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB

from app.core.changes import Changes
from app.core.clickhouse import ClickHouse
from app.diagnosis.service import DiagnosisService
from app.diagnosis.values import Code, Diagnosis, Finding, Outcome
from app.experiments.registry import ExperimentRegistry
from app.results.values import Source
from tests.integration.results.services import Bench, BrokenClickHouse
from tests.integration.results.world import Assigned, Happened, History, Overridden, World

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_NOW = _T0 + timedelta(days=20)
_HOUR = timedelta(hours=1)


def _history() -> History:
    """Return 400 users, three of five of them in the control, whose effect wears off and of whom one pays most."""
    assignments = [
        Assigned(
            f"user-{number}",
            0 if number % 5 < 3 else 1,
            _T0 + number * _HOUR / 4,
            _T0 + number * _HOUR / 4,
            {"device": "phone" if number % 2 else "desktop", "age": number % 3},
        )
        for number in range(400)
    ]
    events = [
        Happened(
            assigned.user_id,
            "buy",
            assigned.at + timedelta(days=day) + _HOUR,
            # Half of them came to be known when the others were in the history already.
            _T0 + timedelta(days=12) + index * _HOUR / 100,
            value=5000.0 if index == 7 else 1.0 + index % 3,
            names="this",
        )
        for index, assigned in enumerate(assignments)
        for day in (-2, 0, 0, 1, 3, 4, 5)[(0 if assigned.variant == 1 else 2) :]
    ]
    exposures = [
        Happened("user-3", "exposure", _T0 + 40 * _HOUR, _T0, names="this", properties={"variant": "control"}),
    ]
    overridden = [Overridden("user-5", 1, _T0, _T0)]
    return History(assignments, overridden, [*events, *exposures])


async def _diagnose(world: World, key: str, project_id: int, bench: Bench, clickhouse: ClickHouse | None) -> Diagnosis:
    changes = Changes(world.database)
    registry = ExperimentRegistry(world.database, changes)
    await changes.start()
    service = DiagnosisService(
        database=world.database,
        clickhouse=clickhouse,
        registry=registry,
        watermark=bench.read_watermark,
        clock=bench.clock,
    )
    diagnosis = await service.diagnose(project_id, key)
    await changes.stop()
    return diagnosis


def _without_lag(diagnosis: Diagnosis) -> dict[str, Any]:
    """Leave out what depends on when and where one looked, and on when the experiment was made."""
    left_out = {Code.STALE_DATA, Code.EXPOSURE_BEFORE_START}
    return {
        "findings": [one for one in diagnosis.findings if one.code not in left_out],
        "checked": [one for one in diagnosis.checked if one.code not in left_out],
    }


def _of(diagnosis: Diagnosis, code: Code) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.code is code)


async def test_diagnosis__hot_both_and_without_history__finds_the_same(world: World) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history())

    async def diagnosed(watermark: datetime | Exception | None, clickhouse: ClickHouse | None) -> Diagnosis:
        bench = Bench(watermark=watermark, now=_NOW)
        return await _diagnose(world, experiment.key, experiment.project_id, bench, clickhouse)

    hot = await diagnosed(None, None)
    both = await diagnosed(_T0 + timedelta(days=12, hours=2), world.clickhouse)
    away = await diagnosed(_NOW, BrokenClickHouse())

    assert (hot.source, both.source, away.source) == (Source.HOT, Source.BOTH, Source.HOT)
    assert _without_lag(hot) == _without_lag(both) == _without_lag(away)
    assert hot.findings


async def test_diagnosis__known_world__shows_its_numbers(world: World) -> None:
    experiment = await world.experiment()
    await world.store(experiment, _history())
    bench = Bench(watermark=_T0 + timedelta(days=12, hours=2), now=_NOW)

    diagnosis = await _diagnose(world, experiment.key, experiment.project_id, bench, world.clickhouse)

    # User 5 has an override, user 3 was seen in both variants.
    assert _of(diagnosis, Code.SRM).evidence["observed"] == {"control": 239, "treatment_1": 159}
    assert _of(diagnosis, Code.USERS_IN_TWO_VARIANTS).evidence["users"] == 1
    prior = _of(diagnosis, Code.PRE_EXPOSURE_DIFFERENCE)
    assert (prior.evidence["control_value"], prior.evidence["variant_value"]) == (0, 1)
    tails = _of(diagnosis, Code.HEAVY_TAILS).evidence
    assert tails["metric"] == "value_per_user"
    assert float(str(tails["share_of_squares"])) > 0.9
    assert {one.code for one in diagnosis.checked if one.outcome is Outcome.FINE} >= {Code.EMPTY_METRIC}


@pytest.mark.parametrize("value", [1e308, 5e-324])
async def test_diagnosis__values_at_the_ends_of_their_range__is_still_an_answer(world: World, value: float) -> None:
    experiment = await world.experiment()
    history = _history()
    events = [replace(event, value=value) for event in history.events]
    await world.store(experiment, replace(history, events=events))
    bench = Bench(watermark=_T0 + timedelta(days=12, hours=2), now=_NOW)

    diagnosis = await _diagnose(world, experiment.key, experiment.project_id, bench, world.clickhouse)

    assert {one.code for one in diagnosis.findings} | {one.code for one in diagnosis.checked} == set(Code)


@pytest.fixture
async def dropped(world: World) -> AsyncIterator[None]:
    """PostgreSQL has dropped events that count."""
    values = {"until": _NOW}
    async with world.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO dropped_partitions (name, upper_bound, row_count) VALUES ('events_p202602', :until, 1)"),
            values,
        )
    yield
    async with world.database.begin() as connection:
        await connection.execute(text("DELETE FROM dropped_partitions"))


@pytest.mark.usefixtures("dropped")
async def test_diagnosis__events_that_the_history_alone_has__finds_the_same_as_both_did(world: World) -> None:
    whole, dropped = await world.experiment(), await world.experiment()
    history = _history()
    await world.store(whole, history)
    await world.store_cold(dropped, history)
    await world.store_hot(dropped, replace(history, events=()))
    watermark = _T0 + timedelta(days=12, hours=18)

    before, after = [
        await _diagnose(world, one.key, one.project_id, Bench(watermark=watermark, now=_NOW), world.clickhouse)
        for one in (whole, dropped)
    ]

    assert _of(after, Code.USERS_IN_TWO_VARIANTS).evidence["users"] == 1
    assert _of(after, Code.SRM).evidence["observed"] == {"control": 239, "treatment_1": 159}
    assert _without_lag(after) == _without_lag(before)


@pytest.mark.usefixtures("dropped")
async def test_diagnosis__empty_metrics_and_events_that_the_history_alone_has__says_why(world: World) -> None:
    experiment = await world.experiment()
    users = [Assigned(f"user-{number}", number % 2, _T0, _T0) for number in range(20)]
    views = [Happened(user.user_id, "view", _T0 + hours * _HOUR, _T0 + _HOUR) for user in users for hours in (-3, 2)]
    await world.store_hot(experiment, History(users))
    await world.store_cold(experiment, History(users, (), views))

    diagnosis = await _diagnose(
        world, experiment.key, experiment.project_id, Bench(watermark=_NOW, now=_NOW), world.clickhouse
    )

    finding = _of(diagnosis, Code.EMPTY_METRIC)
    assert (
        finding.evidence.items()
        >= {
            "metric": "value_per_user",
            "reason": "WITHOUT_NUMBER",
            "events_sent": 40,
            "events_before_exposure": 20,
            "events_without_number": 20,
        }.items()
    )


@pytest.mark.usefixtures("dropped")
async def test_diagnosis__events_dropped_and_no_history__checks_what_it_can_and_says_why_not_the_rest(
    world: World,
) -> None:
    by_assignment, by_event = await world.experiment(), await world.experiment()
    for experiment in (by_assignment, by_event):
        await world.store_hot(experiment, _history())
    async with world.database.begin() as connection:
        await connection.execute(
            text("UPDATE experiments SET population = :population WHERE id = :id").bindparams(
                bindparam("population", type_=JSONB)
            ),
            {"id": by_event.id, "population": {"exposure": "event"}},
        )

    diagnoses = [
        await _diagnose(world, experiment.key, experiment.project_id, Bench(watermark=None, now=_NOW), None)
        for experiment in (by_assignment, by_event)
    ]

    for diagnosis in diagnoses:
        reasons = {one.code: one.reason or "" for one in diagnosis.checked}
        # Who was in two variants is not known, and so neither who counts.
        for code in (
            *(Code.SRM, Code.SRM_BY_DAY, Code.SRM_BY_ATTRIBUTE, Code.SRM_SEQUENTIAL, Code.USERS_IN_TWO_VARIANTS),
            *(Code.EMPTY_METRIC, Code.SMALL_SAMPLE, Code.NOVELTY),
        ):
            assert "EVENTS_RETENTION_DAYS" in reasons[code]
        assert Code.EXPOSURE_BEFORE_START in {one.code for one in diagnosis.findings}
