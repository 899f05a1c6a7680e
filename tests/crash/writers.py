"""Writers that send assignments and events from several threads and keep a journal of what was acknowledged."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from tests.service_process import ServiceProcess

BATCH = 20
BATCH_EVERY = 4
ASK_AGAIN_EVERY = 5
PAUSE_AFTER_REFUSAL_S = 0.05


class Sent(NamedTuple):
    """An event as it was sent; it must be stored just so."""

    user_id: str
    value: float


class Given(NamedTuple):
    """A stored assignment as it was answered; it never changes."""

    variant: str
    assigned_at: str


@dataclass
class Journal:
    """What was sent and what came of it. Writers share it: each works on users and events of its own."""

    experiment: str
    event_type: str
    sent: dict[str, Sent] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    given: dict[str, Given] = field(default_factory=dict)
    # Variants given while PostgreSQL was away: a promise without a stored assignment.
    promised: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)

    @property
    def unanswered(self) -> list[str]:
        return [event_id for event_id in self.sent if event_id not in self.acknowledged]

    def note_answer(self, answer: httpx.Response) -> dict[str, Any] | None:
        """Count an answer and return its body if it says that something was stored or is known."""
        self.statuses[answer.status_code] += 1
        if answer.status_code in {200, 201}:
            body: dict[str, Any] = answer.json()
            return body
        if answer.status_code != 503:
            self.surprises.append(f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}")
        elif int(answer.headers.get("retry-after", 0)) < 1:
            self.surprises.append(f"{answer.request.method} {answer.url}: 503 without Retry-After")
        return None

    def note_assignment(self, user_id: str, body: dict[str, Any]) -> None:
        """Note a user's variant; it is a surprise when it differs from what was answered before."""
        if body["variant"] is None:
            self.surprises.append(f"{user_id} has no variant: {body['reason']}")
            return
        variant = body["variant"]["key"]
        earlier = self.given[user_id].variant if user_id in self.given else self.promised.get(user_id)
        if earlier is not None and earlier != variant:
            self.surprises.append(f"{user_id} moved from {earlier} to {variant}")
        if body["enrolled"]:
            given = Given(variant, body["assigned_at"])
            if self.given.setdefault(user_id, given) != given:
                self.surprises.append(f"{user_id}: {given} after {self.given[user_id]}")
        else:
            self.promised[user_id] = variant


class Writer(threading.Thread):
    """Enrols users and records their events, one request after the other, until stopped or the service is gone."""

    def __init__(self, service: ServiceProcess, journal: Journal, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._client = service.client()
        self._journal = journal
        self._stopping = threading.Event()
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        try:
            with self._client:
                self._write()
        except httpx.TransportError:
            pass  # The service was killed; what was under way is in doubt, and is sent again after the restart.
        except BaseException as error:  # noqa: BLE001  # The test raises it in its own thread.
            self.failure = error

    def _write(self) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            user_id = f"{self.name}-user-{number}"
            self._assign(user_id)
            self._send([self._event(user_id, number)])
            if number % BATCH_EVERY == 0:
                batch = [self._event(user_id, number + index) for index in range(BATCH)]
                self._send([*batch, batch[0]])  # The last one is a duplicate within its own batch.
            if number % ASK_AGAIN_EVERY == 0:
                self._assign(user_id)

    def _assign(self, user_id: str) -> None:
        path = f"/api/v1/experiments/{self._journal.experiment}/assignment/{user_id}"
        if (body := self._journal.note_answer(self._client.get(path))) is not None:
            self._journal.note_assignment(user_id, body)

    def _event(self, user_id: str, number: int) -> str:
        event_id = str(uuid.uuid4())
        self._journal.sent[event_id] = Sent(user_id, number / 4)
        return event_id

    def _send(self, event_ids: Sequence[str]) -> None:
        if not send(self._client, self._journal, event_ids):
            self._stopping.wait(PAUSE_AFTER_REFUSAL_S)


def send(client: httpx.Client, journal: Journal, event_ids: Sequence[str]) -> bool:
    """Send events of the journal, alone or as a batch; returns whether they were acknowledged."""
    events = [
        {"event_id": event_id, "event_type": journal.event_type, **journal.sent[event_id]._asdict()}
        for event_id in event_ids
    ]
    answer = (
        client.post("/api/v1/events", json=events[0])
        if len(events) == 1
        else client.post("/api/v1/events/batch", json={"events": events})
    )
    body = journal.note_answer(answer)
    if body is None:
        return False
    if body.get("rejected"):
        journal.surprises.append(f"rejected: {body['errors']}")
    journal.acknowledged.update(event_ids)
    return True


@contextmanager
def writing(service: ServiceProcess, journal: Journal, prefix: str, *, threads: int = 4) -> Iterator[None]:
    """Write from several threads for the length of the block."""
    writers = [Writer(service, journal, f"{prefix}-{index}") for index in range(threads)]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.stop()
    for writer in writers:
        if writer.failure is not None:
            raise writer.failure
