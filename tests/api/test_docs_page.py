"""The documentation page in a real browser that has no way to the internet."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pytest

from tests.service_process import ServiceProcess, wait_until

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(120)]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RENDER_WITHIN_S = 30.0
DOCS = "/api/v1/docs"
LOCAL_SCHEMES = {"data", "blob", "about"}
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # Root in a container has no other way.
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever the page asks for elsewhere fails as it would without internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)

# The browser reads commands from descriptor 3 and writes messages to 4. They are moved out of each other's way first.
BECOME_BROWSER = """
import fcntl, os, sys
commands, messages = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(messages, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

COUNT_OPERATIONS = "document.querySelectorAll('.opblock').length"
OPEN_ONE = "document.querySelector('[id^=operations-events-record_event_] .opblock-summary-control').click()"
SHOWN_TEXT = "document.querySelector('.opblock.is-open')?.innerText ?? ''"


def browser() -> str:
    """Return the browser's path; skip without one, but not where it is sure to be installed."""
    for name in BROWSERS:
        if (path := shutil.which(name)) is not None:
            return path
    if os.environ.get("CI") == "true":
        pytest.fail("chromium is missing; continuous integration installs it")
    pytest.skip("chromium is missing: apt-get install chromium")


class Page:
    """A page of a browser, driven through the DevTools protocol over a pair of pipes."""

    def __init__(self, commands: IO[bytes], messages: IO[bytes]) -> None:
        self._commands = commands
        self._messages = messages
        self._ids = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result; keep the events that come before it."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._next_message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next_message(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._messages.read(1)) != b"\0":
            assert byte, "the browser has gone"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def evaluate(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def open_page(path: str, folder: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own and open an empty page."""
    command_end, commands = os.pipe()
    messages, message_end = os.pipe()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", BECOME_BROWSER, str(command_end), str(message_end)),
            *(path, *OPTIONS, f"--user-data-dir={folder}"),
        ],
        pass_fds=(command_end, message_end),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(command_end)
    os.close(message_end)
    try:
        with open(commands, "wb") as writing, open(messages, "rb") as reading:  # noqa: PTH123  # Descriptors, not paths.
            yield Page(writing, reading)
    finally:
        process.terminate()
        process.wait(30)


def test_docs_page__without_internet__shows_every_operation(service: ServiceProcess, tmp_path: Path) -> None:
    path = browser()
    with service.client() as client:
        paths = client.get("/api/v1/openapi.json").raise_for_status().json()["paths"]
    operations = sum(len(operations) for operations in paths.values())

    with open_page(path, tmp_path / "profile") as page:
        page.call("Page.navigate", url=f"{service.url}{DOCS}")
        wait_until(
            lambda: page.evaluate(COUNT_OPERATIONS) >= operations,
            f"{operations} operations are shown",
            within_s=RENDER_WITHIN_S,
        )
        page.evaluate(OPEN_ONE)
        wait_until(lambda: "event_id is known" in page.evaluate(SHOWN_TEXT), "an operation shows its answers")
        time.sleep(0.5)  # Late requests and complaints count, too.
        shown = page.evaluate(COUNT_OPERATIONS)

    assert shown == operations
    requested = [urlsplit(event["request"]["url"]) for event in page.heard("Network.requestWillBeSent")]
    elsewhere = [url.geturl() for url in requested if url.scheme not in LOCAL_SCHEMES and url.hostname != "127.0.0.1"]
    assert elsewhere == []
    assert len(requested) >= 4  # The page, its script, its style and the schema.
    assert page.heard("Network.loadingFailed") == []
    refused = [event["response"] for event in page.heard("Network.responseReceived")]
    assert [response["url"] for response in refused if response["status"] >= 400] == []
    assert page.heard("Runtime.exceptionThrown") == []
    assert [event for event in page.heard("Runtime.consoleAPICalled") if event["type"] in {"error", "assert"}] == []
    assert [event for event in page.heard("Log.entryAdded") if event["entry"]["level"] == "error"] == []
