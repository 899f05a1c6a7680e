"""Requests that are no HTTP: answered as every other failure is, with a problem and a request id."""

import os

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.core.errors import MalformedRequest
from app.core.problems import problem_response
from app.core.requests import REQUEST_ID_HEADER

log = structlog.get_logger()


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's protocol, but for what it says to a request that it cannot read."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # Says no more than that it could not be read.
        """Answer, and close the connection: nobody knows where the next request would begin."""
        request_id = os.urandom(16).hex()
        response = problem_response(MalformedRequest())
        headers = [*response.raw_headers, (REQUEST_ID_HEADER, request_id.encode()), (b"connection", b"close")]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + lines + b"\r\n" + bytes(response.body))
        self.transport.close()
        log.info("request.malformed", request_id=request_id)
