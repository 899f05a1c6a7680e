"""A small ClickHouse server: its HTTP interface, as far as the client uses it, over the engine in this process.

It compresses and speaks TLS like a server, and on demand an answer goes wrong in every way that servers, proxies
and networks know.
"""

import base64
import email
import email.policy
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import cramjam
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

USER, PASSWORD = "loader", "a password: with, signs"

# What a server reads from the URL besides settings.
NO_SETTINGS = frozenset({"query", "database", "wait_end_of_query", "client_protocol_version", "query_id"})
# The default of http_max_field_value_size: a form field may not be longer.
LONGEST_FIELD = 128 * 1024
AUTHENTICATION_FAILED = 516
# Code and text of an exception that comes after the answer has begun.
TOO_LATE = 241, "Code: 241. DB::Exception: Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"
TAG = "PU1FNUFH98"

# Others than the client's own, which are to read what these write.
CODECS = {"lz4": cramjam.lz4, "zstd": cramjam.zstd, "gzip": cramjam.gzip, "deflate": cramjam.zlib}


class Fault(StrEnum):
    """How an answer goes wrong."""

    RESET = "the connection is reset before the answer"
    RESET_AFTERWARDS = "the query is run, and the connection is reset before the answer"
    SILENCE = "no answer"
    CUT = "a part of an answer whose length was told"
    CUT_CHUNKS = "a part of an answer in chunks"
    STALL = "a part of an answer, and no more"
    EXCEPTION = "a part of an answer, and the text of an exception"
    TAGGED_EXCEPTION = "a part of an answer, and the text of an exception between tags"
    EXCEPTION_IN_HEADER = "status 200, and an exception's code in the header"
    BUSY = "status 503 of a balancer that finds no server"
    PROXY = "status 502 and a page of a proxy"


FAULTS_WITHOUT_QUERY = frozenset({Fault.RESET, Fault.BUSY, Fault.PROXY})


Misbehave = Callable[[bytes], Fault | None]


@dataclass
class _Request:
    """A query as it came: SQL, settings, bound parameters and rows that travel along."""

    sql: bytes
    database: str | None
    settings: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    tables: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)


class _FieldTooLong(Exception):
    pass


@contextmanager
def serving(
    connect: Callable[..., Client],
    *,
    port: int = 0,
    encoding: str | None = None,
    tls: ssl.SSLContext | None = None,
    misbehave: Misbehave = lambda _sql: None,
    part: float = 0.5,
    used_encodings: list[str | None] | None = None,
) -> Iterator[int]:
    """Serve on a local port, which is given, until the block ends.

    encoding: how answers are compressed for those who accept it.
    misbehave: is asked with each query's SQL which fault its answer shall have.
    part: how much of an answer gets through before it goes wrong, from 0 to 1.
    used_encodings: gets how each answer was compressed.
    """
    client = connect(database="default")
    server = _Server(port, client, encoding, misbehave, part, [] if used_encodings is None else used_encodings)
    if tls is not None:
        # The handshake is the connection's own thread's, not that of all.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
        client.close()


class _Server(ThreadingHTTPServer):
    def __init__(
        self,
        port: int,
        client: Client,
        encoding: str | None,
        misbehave: Misbehave,
        part: float,
        used_encodings: list[str | None],
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.encoding = encoding
        self.misbehave = misbehave
        self.part = part
        self.used_encodings = used_encodings
        self.stopping = threading.Event()
        self._client = client
        self._lock = threading.Lock()

    def answer(self, request: _Request) -> tuple[bytes, bool]:
        with self._lock:
            return _run(self._client, request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up, or that refuse the certificate, are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    # Chunks came with 1.1. One request a connection: a server that stops must not leave connections half open.
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, b"Ok.\n")

    def do_POST(self) -> None:
        expected = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
        body = self._body()
        if self.headers.get("Authorization", "").encode() != expected:
            self._refuse(AUTHENTICATION_FAILED, "Code: 516. DB::Exception: Authentication failed")
            return
        try:
            request = _parse(self.path, self.headers.get("Content-Type", ""), body)
            fault = self.server.misbehave(request.sql)
            if fault in FAULTS_WITHOUT_QUERY:
                self._fail(fault)
                return
            result, has_rows = self.server.answer(request)
        except _FieldTooLong:
            self._send(400, b"Field value too long")
        except DatabaseError as error:
            self._refuse(error.code or 0, str(error))
        else:
            headers = {"X-ClickHouse-Format": "TabSeparated"} if has_rows else {}
            # Servers of this engine's version compress unless they are told not to.
            compressing = request.settings.get("enable_http_compression", "1") == "1"
            encoding = self._accepted(self.server.encoding) if compressing else None
            self.server.used_encodings.append(encoding)
            if encoding is not None:
                headers["Content-Encoding"] = encoding
            if fault is None:
                self._send(200, _compressed(result, encoding), headers)
            else:
                self._go_wrong(fault, result, headers)

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding")
        return body if encoding is None else bytes(CODECS[encoding].decompress(body))

    def _chunk(self) -> bytes:
        chunk = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return chunk

    def _accepted(self, encoding: str | None) -> str | None:
        accepted = self.headers.get("Accept-Encoding", "").replace(" ", "").split(",")
        return encoding if encoding in accepted else None

    def _refuse(self, code: int, message: str) -> None:
        self._send(500, message.encode(), {"X-ClickHouse-Exception-Code": str(code)})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._begin(status, {**(headers or {}), "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        summary = json.dumps({"written_rows": "0"})
        for name, value in {"X-ClickHouse-Summary": summary, "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_chunks(self, body: bytes, headers: Mapping[str, str], *, ended: bool) -> None:
        self._begin(200, {**headers, "Transfer-Encoding": "chunked"})
        if body:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        if ended:
            self.wfile.write(b"0\r\n\r\n")

    def _fail(self, fault: Fault) -> None:
        if fault is Fault.RESET:
            self._reset()
        else:
            self._send(503 if fault is Fault.BUSY else 502, b"<html>no server</html>")

    def _go_wrong(self, fault: Fault, body: bytes, headers: dict[str, str]) -> None:
        encoding = headers.get("Content-Encoding")
        whole = _compressed(body, encoding)
        part = whole[: int(len(whole) * self.server.part)]
        # A server that fails writes on where the rows end: its text is compressed as they are.
        rows = body[: int(len(body) * self.server.part)]
        match fault:
            case Fault.RESET_AFTERWARDS:
                self._reset()
            case Fault.SILENCE:
                self.server.stopping.wait()
            case Fault.CUT:
                self._begin(200, {**headers, "Content-Length": str(len(whole))})
                self.wfile.write(part)
            case Fault.CUT_CHUNKS:
                self._send_chunks(part, headers, ended=False)
            case Fault.STALL:
                self._begin(200, {**headers, "Content-Length": str(len(whole))})
                self.wfile.write(part)
                self.server.stopping.wait()
            case Fault.EXCEPTION:
                self._send_chunks(_compressed(rows + TOO_LATE[1].encode(), encoding), headers, ended=True)
            case Fault.TAGGED_EXCEPTION:
                text = f"{TOO_LATE[1]}\n{len(TOO_LATE[1])} {TAG}\r\n__exception__\r\n"
                late = f"\r\n__exception__\r\n{TAG}\r\n{text}".encode()
                tagged = {**headers, "X-ClickHouse-Exception-Tag": TAG}
                self._send_chunks(_compressed(rows + late, encoding), tagged, ended=True)
            case Fault.EXCEPTION_IN_HEADER:
                self._send(200, TOO_LATE[1].encode(), {"X-ClickHouse-Exception-Code": str(TOO_LATE[0])})

    def _reset(self) -> None:
        self.close_connection = True
        # Closed with data unsent and time to linger of zero, TCP sends a reset.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            self.connection.close()


def _compressed(body: bytes, encoding: str | None) -> bytes:
    return body if encoding is None else bytes(CODECS[encoding].compress(body))


def _parse(path: str, content_type: str, body: bytes) -> _Request:
    values = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))
    files: dict[str, bytes] = {}
    if content_type.startswith("multipart/form-data"):
        fields, files = _form(content_type, body)
        values |= fields
        body = b""
    # The SQL is in the URL, in the body, or begins in the one and ends, with an insert's rows, in the other.
    sql = b"\n".join(filter(None, [values.get("query", "").encode(), body]))
    request = _Request(sql, values.get("database"))
    for name, data in files.items():
        request.tables[name] = (values.pop(f"{name}_structure"), values.pop(f"{name}_format"), data)
    for name, value in values.items():
        if name.startswith("param_"):
            request.parameters[name.removeprefix("param_")] = value
        elif name not in NO_SETTINGS:
            request.settings[name] = value
    return request


def _form(content_type: str, body: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        data: Any = part.get_payload(decode=True)
        if part.get_filename() is not None:
            files[name] = data
        elif len(data) > LONGEST_FIELD:
            raise _FieldTooLong
        else:
            fields[name] = data.decode()
    return fields, files


def _run(client: Client, request: _Request) -> tuple[bytes, bool]:
    """Run a request on the engine; tells also whether the answer has rows in the default format."""
    # The client's own methods would bind and format anew what has come bound and formatted.
    backend: Any = client._backend  # type: ignore[attr-defined]  # Not part of its interface.
    run = backend._run_with_settings
    try:
        for name, (structure, format_, data) in request.tables.items():
            backend._run(f"CREATE TEMPORARY TABLE {name} ({structure}) ENGINE = Memory", "TabSeparated")
            if data:
                insert = f"INSERT INTO {name} FORMAT {format_}\n".encode() + data
                run(insert, "TabSeparated", request.settings, database=request.database)
        result = run(
            request.sql,
            "TabSeparated",
            backend._engine_settings(request.settings),
            params=request.parameters,
            database=request.database,
        )
    finally:
        for name in request.tables:
            backend._run(f"DROP TEMPORARY TABLE IF EXISTS {name}", "TabSeparated")
    body: bytes = result.bytes() or b""
    return body, bool(body) and b"FORMAT Native" not in request.sql
