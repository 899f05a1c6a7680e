"""A small ClickHouse server: its HTTP interface, as far as the client uses it, over the engine in this process."""

import base64
import email
import email.policy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

USER, PASSWORD = "loader", "a password: with, signs"

# What a server reads from the URL besides settings.
NO_SETTINGS = frozenset({"query", "database", "wait_end_of_query", "client_protocol_version", "query_id"})
# The default of http_max_field_value_size: a form field may not be longer.
LONGEST_FIELD = 128 * 1024
AUTHENTICATION_FAILED = 516


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
def serving(connect: Callable[..., Client], *, port: int = 0) -> Iterator[int]:
    """Serve on a local port, which is given, until the block ends."""
    client = connect(database="default")
    lock = threading.Lock()

    class Handler(_Handler):
        def answer(self, request: _Request) -> tuple[bytes, bool]:
            with lock:
                return _run(client, request)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        client.close()


class _Handler(BaseHTTPRequestHandler):
    # One request a connection: a server that stops must not leave connections half open.
    protocol_version = "HTTP/1.0"

    def answer(self, request: _Request) -> tuple[bytes, bool]:
        raise NotImplementedError

    def do_GET(self) -> None:
        self._send(200, b"Ok.\n")

    def do_POST(self) -> None:
        expected = b"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode())
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization", "").encode() != expected:
            self._refuse(AUTHENTICATION_FAILED, "Code: 516. DB::Exception: Authentication failed")
            return
        try:
            request = _parse(self.path, self.headers.get("Content-Type", ""), body)
            result, has_rows = self.answer(request)
        except _FieldTooLong:
            self._send(400, b"Field value too long")
        except DatabaseError as error:
            self._refuse(error.code or 0, str(error))
        else:
            self._send(200, result, {"X-ClickHouse-Format": "TabSeparated"} if has_rows else {})

    def log_message(self, *_: object) -> None:
        pass

    def _refuse(self, code: int, message: str) -> None:
        self._send(500, message.encode(), {"X-ClickHouse-Exception-Code": str(code)})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        summary = json.dumps({"written_rows": "0"})
        for name, value in {"X-ClickHouse-Summary": summary, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


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
