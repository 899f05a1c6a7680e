"""Requests, sent as fast as they are answered: by wrk, or without it by a generator in Python, which is slower."""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WRK = shutil.which("wrk")
GENERATOR = "wrk" if WRK else "Python, since wrk is missing: the generator itself is the limit"

# wrk runs this in its one thread. `next_request` returns the method, the path and the body.
_SCRIPT = """
wrk.headers["Authorization"] = "Bearer %(token)s"
wrk.headers["Content-Type"] = "application/json"
local n = 0
%(functions)s
request = function()
  n = n + 1
  return wrk.format(next_request(n))
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {"requests": %%d, "us": %%d, "p50": %%d, "p99": %%d, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class BenchmarkFailed(Exception):
    """A measurement went wrong; the message says which."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """A kind of request, told to wrk in Lua and to the other generator in Python, numbered from 1."""

    name: str
    lua: str
    python: Callable[[int], tuple[str, str, bytes]]


@dataclass(frozen=True, slots=True)
class Rate:
    """What a load brought about."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float


def returning_users(experiment: str, users: int) -> Traffic:
    """Ask for users who are assigned already."""
    path = f"/api/v1/experiments/{experiment}/assignment/user-"
    return Traffic(
        "returning users",
        f'function next_request(n) return "GET", "{path}" .. (n % {users}) end',
        lambda n: ("GET", f"{path}{n % users}", b""),
    )


def new_users(experiment: str) -> Traffic:
    """Ask for a user who has never been seen, each time another one."""
    path = f"/api/v1/experiments/{experiment}/assignment/new-{uuid.uuid4().hex[:8]}-"
    return Traffic(
        "new users",
        f'function next_request(n) return "GET", "{path}" .. n end',
        lambda n: ("GET", f"{path}{n}", b""),
    )


def event_batches(users: int, size: int) -> Traffic:
    """Send batches of events with ids of their own; one in ten has a value."""
    prefix = f"{uuid.uuid4().hex[:8]}-0000-4000-8000-"
    lua = f"""
local one = '{{"event_id":"{prefix}%012x","user_id":"user-%d","event_type":"view"}}'
local ten = '{{"event_id":"{prefix}%012x","user_id":"user-%d","event_type":"purchase","value":19.99}}'
function next_request(n)
  local events = {{}}
  for i = 1, {size} do
    local number = n * {size} + i
    events[i] = string.format(i % 10 == 0 and ten or one, number, number % {users})
  end
  return "POST", "/api/v1/events/batch", nil, '{{"events":[' .. table.concat(events, ",") .. ']}}'
end
"""

    def body(n: int) -> tuple[str, str, bytes]:
        events = [
            {"event_id": f"{prefix}{number:012x}", "user_id": f"user-{number % users}", "event_type": "view"}
            | ({"event_type": "purchase", "value": 19.99} if number % 10 == 0 else {})
            for number in range(n * size, (n + 1) * size)
        ]
        return "POST", "/api/v1/events/batch", json.dumps({"events": events}).encode()

    return Traffic(f"batches of {size} events", lua, body)


def send(traffic: Traffic, url: str, token: str, *, connections: int, seconds: float) -> Rate:
    """Keep every connection busy for that time.

    Raises:
        BenchmarkFailed: not every answer was a good one.
    """
    if WRK:
        return _send_with_wrk(WRK, traffic, url, token, connections=connections, seconds=seconds)
    return asyncio.run(_send_with_python(traffic, url, token, connections=connections, seconds=seconds))


def _send_with_wrk(wrk: str, traffic: Traffic, url: str, token: str, *, connections: int, seconds: float) -> Rate:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "requests.lua"
        script.write_text(_SCRIPT % {"token": token, "functions": traffic.lua}, encoding="utf-8")
        done = subprocess.run(
            [
                *(wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"),
                *("--timeout", "10s", "--script", str(script), url),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    if found["errors"] or not found["requests"]:
        raise BenchmarkFailed(f"{traffic.name}: {found['errors']} errors in {found['requests']} answers")
    return Rate(found["requests"], found["requests"] / found["us"] * 1e6, found["p50"] / 1000, found["p99"] / 1000)


async def _send_with_python(traffic: Traffic, url: str, token: str, *, connections: int, seconds: float) -> Rate:
    host, _, port = url.removeprefix("http://").partition(":")
    numbers = iter(range(1, 10**9))
    latencies_ms: list[float] = []
    started = time.perf_counter()
    until = started + seconds

    async def keep_busy() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (sent_at := time.perf_counter()) < until:
            method, path, body = traffic.python(next(numbers))
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 20"):
                raise BenchmarkFailed(f"{traffic.name}: {head.decode()}")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
            latencies_ms.append((time.perf_counter() - sent_at) * 1000)
        writer.close()

    await asyncio.gather(*(keep_busy() for _ in range(connections)))
    percentiles = statistics.quantiles(latencies_ms, n=100)
    return Rate(
        len(latencies_ms), len(latencies_ms) / (time.perf_counter() - started), percentiles[49], percentiles[98]
    )
