"""A start that fails halfway."""

import threading

import pytest
from starlette.types import Message

from app.core.settings import Settings
from app.main import create_app


async def test_start__postgresql_away__fails_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 1: nobody listens there.
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("CLICKHOUSE_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_PORT", "1")
    app = create_app(Settings.from_environment())
    before = _clickhouse_threads()
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        said.append(message)

    with pytest.raises(Exception, match="PostgreSQL cannot be reached"):
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    assert [message["type"] for message in said] == ["lifespan.startup.failed"]
    assert _clickhouse_threads() == before


def _clickhouse_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("clickhouse")}
