"""The same answers through ClickHouse's HTTP interface as from the engine in the process."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from pydantic import SecretStr

from app.core.clickhouse import ClickHouse
from app.core.settings import ClickHouseSettings
from app.experiments.population import ContextValue, ExposureRule, Population
from app.results.cold import ColdStore
from app.results.hot import HotStore
from app.results.values import ContextFilter, Exclusion, Metric, Question, Subject
from tests.integration.results.world import FAR, Assigned, Happened, History, Overridden, World
from tests.pipeline import clickhouse_http

_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_SPLIT = _T0 + timedelta(hours=3)


@pytest.mark.parametrize(
    "context",
    [(), (ContextFilter("country", "D'E\\"),), (ContextFilter("age", "1e0"), ContextFilter("country", "D'E\\"))],
)
async def test_observe__history_behind_http__equals_the_hot_answer(
    world: World, engine_folder: Path, context: tuple[ContextFilter, ...]
) -> None:
    # As many ids as an experiment may list, together longer than a parameter may be.
    population = Population(
        ExposureRule.EVENT,
        "other",
        exclude_users=("user 2 é'\\", *(f"{number}{'é' * 250}" for number in range(1000))),
        exclude_context=(ContextValue("age", "2"),),
    )
    experiment = replace(await world.experiment(), population=population)
    await world.store(experiment, _history())
    subject = Subject.of(experiment)
    question = Question(
        metrics=tuple(Metric),
        event_types=("buy", "a 'type'\\"),
        start=_T0,
        end=_T0 + timedelta(days=3),
        include_overrides=True,
        context=context,
        breakdown="country",
    )

    def connect(**options: Any) -> Any:
        return clickhouse_connect.get_client(interface="chdb", path=str(engine_folder), tz_mode="aware", **options)

    seen, _ = await HotStore(world.database).observe(subject, question, most_slots=100)
    tail, _ = await HotStore(world.database).tail(subject, question, _SPLIT)
    with clickhouse_http.serving(connect) as port:
        server = await ClickHouse.connect_server(
            ClickHouseSettings(
                CLICKHOUSE_HOST="127.0.0.1",
                CLICKHOUSE_PORT=port,
                CLICKHOUSE_DATABASE=world.clickhouse.database,
                CLICKHOUSE_USER=clickhouse_http.USER,
                CLICKHOUSE_PASSWORD=SecretStr(clickhouse_http.PASSWORD),
            )
        )
        cold = ColdStore(server)
        by_cold = await cold.observe(subject, question, FAR, most_slots=100)
        by_both = await cold.observe(subject, question, _SPLIT, most_slots=100, tail=tail)
        await server.close()

    assert seen.of(experiment.control.id).events > 0
    assert seen.of(experiment.control.id).excluded == {Exclusion.EXCLUDED_USER: 1}
    assert [segment.value for segment in seen.segments] == ["D'E\\"]
    assert (by_cold, by_both) == (seen, seen)


def _history() -> History:
    assignments = [
        Assigned(f"user {number} é'\\", number % 2, _T0, _T0 + timedelta(hours=number), {"country": "D'E\\", "age": 1})
        for number in range(6)
    ]
    events = [
        Happened(assigned.user_id, event_type, _T0 + timedelta(hours=5), _T0 + timedelta(hours=number), number / 3)
        for number, assigned in enumerate(assignments)
        for event_type in ("buy", "a 'type'\\", "other")
    ]
    return History(assignments, [Overridden(assignments[0].user_id, 1, _T0, _T0)], events)
