"""A proxy before ClickHouse that lets an insert through and then keeps the answer to itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

_TIMEOUT_S = 60.0
# What belongs to one connection, not to the request.
_OWN_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})


class HoldingProxy:
    """Passes everything on. While `holding`, inserts into `table` are stored and never answered."""

    def __init__(self, upstream: str, table: str) -> None:
        self.upstream = upstream
        self._insert = f"insert into {table} "
        self.holding = False
        # An insert has come, and is passed on next.
        self.arrived = threading.Event()
        self.stored = threading.Event()
        self.ended = threading.Event()
        # The insert_deduplication_token of every insert, in order.
        self.tokens: list[str] = []
        self.port = 0

    def is_insert(self, path: str, body: bytes) -> bool:
        """Tell whether a request is an insert into the table, and note its token."""
        values = parse_qs(urlsplit(path).query)
        said = "".join(values.get("query", [])) + body[:200].decode(errors="replace")
        if self._insert not in " ".join(said.replace("`", "").split()).lower() + " ":
            return False
        self.tokens += values.get("insert_deduplication_token", [])
        self.arrived.set()
        return True

    def hold(self) -> None:
        """Wait until answers need not be kept back any more."""
        self.stored.set()
        while self.holding and not self.ended.wait(0.02):
            pass


class _Handler(BaseHTTPRequestHandler):
    # One request a connection: an answer that never comes must hold up nobody else.
    protocol_version = "HTTP/1.0"
    proxy: HoldingProxy

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self._body()
        holds = self.proxy.is_insert(self.path, body) and self.proxy.holding
        try:
            answer = self._ask(body)
        except httpx.TransportError:
            return  # The connection ends without an answer.
        if holds:
            self.proxy.hold()
        else:
            self._answer(answer)

    def _ask(self, body: bytes) -> httpx.Response:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OWN_HEADERS}
        return httpx.request(
            self.command,
            f"{self.proxy.upstream}{self.path}",
            content=body,
            headers={**headers, "Accept-Encoding": "identity"},
            timeout=_TIMEOUT_S,
        )

    def _answer(self, answer: httpx.Response) -> None:
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed while they wait for an answer are what is tested."""


@contextmanager
def holding_proxy(upstream_port: int, *, table: str) -> Iterator[HoldingProxy]:
    """Serve on a free port for the length of the block."""
    proxy = HoldingProxy(f"http://127.0.0.1:{upstream_port}", table)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
