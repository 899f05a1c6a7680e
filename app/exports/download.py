"""An answer that is made while it is sent."""

import asyncio
from collections.abc import Mapping

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core.errors import AppError
from app.exports.errors import ClientTooSlow
from app.exports.values import Produce

log = structlog.get_logger()

# A client that takes nothing for so long has gone, or holds back others for nothing.
_LONGEST_STALL_S = 60.0


class Download(Response):
    """Sends what `produce` writes.

    What fails before the first byte is a problem like any other. What fails later cuts the connection without the last
    chunk, so that every client sees that something is missing. When the client goes, `produce` is cancelled at once.
    """

    def __init__(self, produce: Produce, *, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(media_type=media_type, headers=dict(headers))
        # Its length is not known in advance.
        del self.headers["content-length"]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI's signature.
        producing = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({producing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            producing.cancel()
            await asyncio.wait({producing})
        if producing.cancelled():
            log.info("export.abandoned")
        else:
            producing.result()

    async def _send(self, send: Send) -> None:
        begun = False

        async def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(piece: bytes) -> None:
            if piece:
                await begin()
                await _send_in_time(send, piece)

        try:
            await self._produce(write)
            await begin()
        except Exception as error:
            if begun:
                # The answer has its status already, so that this is the only place where the reason can be said.
                expected = isinstance(error, AppError | ClientTooSlow)
                report = log.warning if expected else log.error
                report("export.cut", reason=str(error) or type(error).__name__, exc_info=None if expected else error)
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_in_time(send: Send, piece: bytes) -> None:
    try:
        async with asyncio.timeout(_LONGEST_STALL_S):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except TimeoutError as error:
        raise ClientTooSlow(f"The client took nothing for {_LONGEST_STALL_S:.0f} seconds.") from error


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
