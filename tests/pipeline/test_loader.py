"""Loading: the same tables whatever the order, the repetitions and the batches."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.clickhouse import ClickHouse, ClickHouseRefused
from app.core.metrics import Metrics
from app.pipeline.loader import Loader
from app.pipeline.messages import Message
from tests.pipeline.outbox_run import column
from tests.pipeline.payloads import KINDS, event_message, payloads

TABLES = ("exposures", "overrides", "events", "experiments", "heartbeats", "dead_letters")
START = datetime(2026, 1, 1, tzinfo=UTC)


def _stream() -> list[Message]:
    """A little of everything: facts that stay, facts that change, and poison."""
    messages = [event_message(number) for number in range(1, 8)]
    for number in range(1, 5):
        at = START + timedelta(minutes=number)
        messages += [
            _message("assignment", "assignment.created", number, _assignment(number, at)),
            _message("override", "override.changed", number, _override(number, at)),
            _message("experiment", "experiment.changed", number, _experiment(number, at)),
            _message("heartbeat", "heartbeat.beat", number, _heartbeat(number, at)),
        ]
    return [*messages, _message("event", "event.recorded", 99, {"schema_version": 3})]


def _message(aggregatetype: str, type_: str, number: int, payload: dict[str, Any]) -> Message:
    return Message(
        UUID(int=number, version=4), aggregatetype, type_, msgspec.json.encode({"schema_version": 1, **payload})
    )


def _assignment(number: int, at: datetime) -> dict[str, Any]:
    return {
        "experiment_id": 1,
        "user_id": f"user-{number}",
        "variant_id": number,
        "source": "hash",
        "experiment_version": 1,
        "context": {},
        "exposed_at": at,
        "ingested_at": at,
    }


def _override(number: int, at: datetime) -> dict[str, Any]:
    return {
        "experiment_id": 1,
        "user_id": "tester",
        "variant_id": number,
        "exposed_at": at,
        "removed": number % 2 == 0,
        "epoch": number,
        "ingested_at": at,
    }


def _experiment(number: int, at: datetime) -> dict[str, Any]:
    return {
        "experiment_id": 1,
        "project_id": 1,
        "key": "checkout",
        "status": "running",
        "version": number,
        "definition": {"version": number},
        "ingested_at": at,
    }


def _heartbeat(number: int, at: datetime) -> dict[str, Any]:
    return {"lane": 0, "beat": number, "watermark": at, "ingested_at": at}


STREAM = _stream()


@st.composite
def deliveries(draw: st.DrawFn) -> list[list[Message]]:
    """The stream in any order, with repetitions, cut into batches."""
    repeated = draw(st.lists(st.sampled_from(STREAM), max_size=15))
    messages = draw(st.permutations([*STREAM, *repeated]))
    cuts = sorted(draw(st.sets(st.integers(1, len(messages) - 1), max_size=6)))
    return [messages[start:end] for start, end in zip([0, *cuts], [*cuts, len(messages)], strict=True)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=deliveries())
async def test_load__any_order_repetition_and_batches__leaves_the_same_tables(
    clickhouse: ClickHouse, loader: Loader, batches: list[list[Message]]
) -> None:
    for table in TABLES:
        await clickhouse.command(f"TRUNCATE TABLE {table}")
    for batch in batches:
        await loader.load(batch)
    tables = await _contents(clickhouse)

    assert len(tables["events"]) == 7
    assert [row["user_id"] for row in tables["exposures"]] == [f"user-{number}" for number in range(1, 5)]
    assert [row["epoch"] for row in tables["overrides"]] == [4]
    assert [row["version"] for row in tables["experiments"]] == [4]
    assert [row["beat"] for row in tables["heartbeats"]] == [4]
    assert len(tables["dead_letters"]) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), KINDS)
async def test_load__any_valid_payload__clickhouse_takes_it_and_gives_it_back(
    clickhouse: ClickHouse, loader: Loader, data: st.DataObject, kind: tuple[str, str]
) -> None:
    payload = data.draw(payloads(kind))
    message = Message(UUID(int=1), *kind, msgspec.json.encode(payload))

    loaded = await loader.load([message])

    ((table, count),) = loaded.rows.items()
    assert (count, loaded.dead) == (1, 0)
    (row,) = await clickhouse.rows(f"SELECT * FROM {table}")
    await clickhouse.command(f"TRUNCATE TABLE {table}")
    assert row == {name: _as_stored(value) for name, value in payload.items() if name in row}


async def test_load__row_that_clickhouse_refuses__is_put_aside_and_the_others_stored(
    make_clickhouse: Any, metrics: Metrics
) -> None:
    class RefusesThirteen(ClickHouse):
        async def insert_json(self, table: str, lines: Any, *, token: str | None = None) -> None:
            if table == "events" and any(b'"user-13"' in line for line in lines):
                raise ClickHouseRefused("Cannot parse", code=27)
            await super().insert_json(table, lines, token=token)

    clickhouse = await make_clickhouse(RefusesThirteen)
    messages = [event_message(number) for number in range(1, 20)]
    messages.insert(7, event_message(50, user_id="user-13"))

    loaded = await Loader(clickhouse, metrics).load(messages)

    assert loaded.dead == 1
    assert await column(clickhouse, "SELECT count() FROM events FINAL") == [19]
    assert await column(clickhouse, "SELECT message_id FROM dead_letters FINAL") == [UUID(int=50)]


async def test_load__payload_that_is_no_text__is_put_aside_readable(clickhouse: ClickHouse, loader: Loader) -> None:
    await loader.load([event_message(1)._replace(payload=b'{"a": "\xff"}')])

    assert await column(clickhouse, "SELECT payload FROM dead_letters") == ['{"a": "\\xff"}']


async def test_load__nothing__does_nothing(loader: Loader) -> None:
    loaded = await loader.load([])

    assert (dict(loaded.rows), loaded.dead) == ({}, 0)


async def _contents(clickhouse: ClickHouse) -> dict[str, list[dict[str, Any]]]:
    return {table: await clickhouse.rows(f"SELECT * FROM {table} FINAL ORDER BY ALL") for table in TABLES}


def _as_stored(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value
