"""What a client sees of an answer that is made while it is sent."""

import asyncio
from typing import Any

import pytest

from app.core.errors import Conflict
from app.exports import download
from app.exports.download import Download
from app.exports.errors import ClientTooSlow
from app.exports.values import Produce, Write

Message = dict[str, Any]


class Client:
    """Takes what is sent, and may go or stop taking."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.went = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self) -> Message:
        await self.went.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.messages.append(message)

    async def get(self, produce: Produce) -> None:
        answer = Download(produce, media_type="text/csv", headers={"X-Of": "test"})
        await answer({"type": "http"}, self.receive, self.send)  # type: ignore[arg-type]  # ASGI's loose messages.

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def is_whole(self) -> bool:
        return bool(self.messages) and self.messages[-1].get("more_body") is False


@pytest.mark.parametrize("pieces", [[], [b""], [b"a", b"", b"b"]])
async def test_download__that_ends__is_whole(pieces: list[bytes]) -> None:
    client = Client()

    async def produce(write: Write) -> None:
        for piece in pieces:
            await write(piece)

    await client.get(produce)

    assert client.messages[0]["status"] == 200
    assert dict(client.messages[0]["headers"])[b"x-of"] == b"test"
    assert b"content-length" not in dict(client.messages[0]["headers"])
    assert (client.body, client.is_whole) == (b"".join(pieces), True)


async def test_download__fails_before_the_first_byte__sends_nothing_and_lets_the_error_out() -> None:
    client = Client()

    async def produce(write: Write) -> None:
        await write(b"")
        raise Conflict("not possible")

    with pytest.raises(Conflict):
        await client.get(produce)
    assert client.messages == []


@pytest.mark.parametrize("error", [Conflict("dropped meanwhile"), RuntimeError("a bug")])
async def test_download__fails_later__is_never_ended(error: Exception) -> None:
    client = Client()

    async def produce(write: Write) -> None:
        await write(b"half")
        raise error

    with pytest.raises(type(error)):
        await client.get(produce)
    assert (client.body, client.is_whole) == (b"half", False)


async def test_download__client_goes__cancels_the_work_and_waits_for_its_end() -> None:
    client, cleaned_up = Client(), asyncio.Event()

    async def produce(write: Write) -> None:
        await write(b"half")
        client.went.set()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned_up.set()

    await client.get(produce)
    assert cleaned_up.is_set()
    assert not client.is_whole


async def test_download__client_takes_nothing__is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_LONGEST_STALL_S", 0.05)
    client = Client()

    async def produce(write: Write) -> None:
        await write(b"first")
        client.takes.clear()
        await write(b"second")

    with pytest.raises(ClientTooSlow):
        await client.get(produce)
    assert (client.body, client.is_whole) == (b"first", False)
