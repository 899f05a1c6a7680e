"""Clients that write over HTTP and never give up, and one that asks what became of it; all keep one ledger."""

import random
import threading
import time
import uuid
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from tests.crash.writers import Journal, Sent
from tests.pipeline.kafka.installation import Experiment
from tests.service_process import TOKEN

BATCH = 20
BATCH_EVERY = 4
REPEAT_EVERY = 5
BULK = 5
BULK_EVERY = 3
LONGEST_PAUSE_S = 0.04
PAUSE_BEFORE_RETRY_S = 0.1
ASK_EVERY_S = 0.2
# No server is away for so long.
ANSWERED_WITHIN_S = 120.0


@dataclass
class Enrolments:
    """The assignments of one experiment, and when each was acknowledged."""

    experiment_id: int
    journal: Journal
    acknowledged_at: list[datetime] = field(default_factory=list)


@dataclass
class Ledger:
    """What was written and when that was acknowledged. Clients share it: each has users and events of its own.

    An event is sent when its user's assignments are acknowledged, so that it counts in every experiment.
    """

    event_type: str
    experiments: dict[str, Enrolments] = field(default_factory=dict)
    events: Journal = field(init=False)
    # When each new event was acknowledged, in this order.
    acknowledged_at: list[datetime] = field(default_factory=list)
    asked_users: set[str] = field(default_factory=set)
    # What was wrong with answers to questions, and where the answers came from.
    wrong: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.events = Journal("", self.event_type)

    def add(self, experiment: Experiment) -> None:
        """Have every user take part in the experiment."""
        self.experiments[experiment.key] = Enrolments(experiment.id, Journal(experiment.key, self.event_type))

    @property
    def experiment(self) -> str:
        """Return the key of any of the experiments."""
        return next(iter(self.experiments))

    @property
    def surprises(self) -> list[str]:
        journals = [self.events, *(enrolments.journal for enrolments in self.experiments.values())]
        return [*self.wrong, *(surprise for journal in journals for surprise in journal.surprises)]

    def note_events(self, event_ids: Sequence[str]) -> None:
        with self._lock:
            new = set(event_ids) - self.events.acknowledged
            self.events.acknowledged |= new
            self.acknowledged_at += [datetime.now(UTC)] * len(new)

    def note_assignment(self, experiment: str, answer: dict[str, Any]) -> bool:
        """Note an answer; tells whether the user is enrolled."""
        enrolments, user_id = self.experiments[experiment], answer["user_id"]
        with self._lock:
            is_new = answer["enrolled"] and user_id not in enrolments.journal.given
            enrolments.journal.note_assignment(user_id, answer)
            if is_new:
                enrolments.acknowledged_at.append(datetime.now(UTC))
        return bool(answer["enrolled"])

    def events_until(self, moment: datetime) -> int:
        return bisect_right(self.acknowledged_at, moment)

    def users_until(self, experiment: str, moment: datetime) -> int:
        return bisect_right(self.experiments[experiment].acknowledged_at, moment)


class _Worker(threading.Thread, ABC):
    """Does something over and over until it is stopped; what goes wrong in it is raised by `working`."""

    def __init__(self, name: str, urls: Sequence[str], ledger: Ledger, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._urls = urls
        self._ledger = ledger
        self._dice = random.Random(f"{seed}/{name}")
        self._http = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        self._stopping = threading.Event()
        self.failure: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        number = 0
        try:
            with self._http:
                while not self._stopping.is_set():
                    number += 1
                    self.turn(number)
        except BaseException as error:  # noqa: BLE001  # The test raises it in its own thread.
            self.failure = error

    @abstractmethod
    def turn(self, number: int) -> None:
        """Do one round of this client's work."""

    def some_url(self) -> str:
        """Return any process of the service, as a balancer does."""
        return self._dice.choice(self._urls)


class Writer(_Worker):
    """Enrols users and sends their events; what got no answer, or a 503, is sent again just so until it is stored."""

    def turn(self, number: int) -> None:
        users = self._new_users(number)
        for experiment in self._ledger.experiments:
            self._enrol(experiment, users)
        for user_id in users:
            self._send_one(self._event(user_id, number))
        if number % BATCH_EVERY == 0:
            batch = [self._event(self._dice.choice(users), number + index) for index in range(BATCH)]
            self._send_batch([*batch, batch[0]])  # The last one is a duplicate within its own batch.
            self._send_batch(batch)
        if number % REPEAT_EVERY == 0:
            self._repeat(self._event(users[0], number))
        self._stopping.wait(self._dice.uniform(0, LONGEST_PAUSE_S))

    def _new_users(self, number: int) -> list[str]:
        count = BULK if number % BULK_EVERY == 0 else 1
        users = [f"{self.name}-{number}-{index}" for index in range(count)]
        self._ledger.asked_users.update(users)
        return users

    def _enrol(self, experiment: str, users: Sequence[str]) -> None:
        """Ask until all are enrolled: while PostgreSQL is away a variant is a mere promise."""
        missing = list(users)
        while missing:
            if len(users) == 1:
                answers = [self._ask("GET", f"/experiments/{experiment}/assignment/{users[0]}")]
            else:
                body = {"experiment": experiment, "user_ids": missing}
                answers = self._ask("POST", "/assignments/bulk", body)["assignments"]
            missing = [answer["user_id"] for answer in answers if not self._ledger.note_assignment(experiment, answer)]
            if missing:
                time.sleep(PAUSE_BEFORE_RETRY_S)

    def _event(self, user_id: str, number: int) -> str:
        event_id = str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
        self._ledger.events.sent[event_id] = Sent(user_id, number / 4)
        return event_id

    def _body(self, event_id: str) -> dict[str, object]:
        sent = self._ledger.events.sent[event_id]
        return {"event_id": event_id, "event_type": self._ledger.event_type, **sent._asdict()}

    def _send_one(self, event_id: str) -> str:
        answer = self._ask("POST", "/events", self._body(event_id))
        self._ledger.note_events([event_id])
        return str(answer["status"])

    def _send_batch(self, event_ids: Sequence[str]) -> None:
        answer = self._ask("POST", "/events/batch", {"events": [self._body(event_id) for event_id in event_ids]})
        if answer["rejected"] or answer["accepted"] + answer["duplicates"] != len(event_ids):
            self._ledger.wrong.append(f"batch of {len(event_ids)}: {answer}")
        self._ledger.note_events(event_ids)

    def _repeat(self, event_id: str) -> None:
        """Send an event again that was acknowledged."""
        self._send_one(event_id)
        if (status := self._send_one(event_id)) != "duplicate":
            self._ledger.wrong.append(f"{event_id} is {status} the second time")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        give_up_at = time.monotonic() + ANSWERED_WITHIN_S
        while time.monotonic() < give_up_at:
            try:
                answer = self._http.request(method, f"{self.some_url()}/api/v1{path}", json=body)
            except httpx.TransportError:
                pass
            else:
                if (said := self._ledger.events.note_answer(answer)) is not None:
                    return said
            time.sleep(PAUSE_BEFORE_RETRY_S)
        raise AssertionError(f"{method} {path} was not answered within {ANSWERED_WITHIN_S:.0f} s")


class Questioner(_Worker):
    """Asks for results, and compares each answer with what was acknowledged before the question.

    Answers that reach PostgreSQL hold all of that. While it is away, ClickHouse answers alone and says until when
    its answer is complete. No answer may hold more than was ever sent: that would be an event counted twice.
    """

    def turn(self, number: int) -> None:
        experiment = self._dice.choice(list(self._ledger.experiments))
        parameters: dict[str, str | bool] = {"metrics": "event_count", "include_ci": False, "fresh": number % 2 == 0}
        asked_at = datetime.now(UTC)
        try:
            answer = self._http.get(f"{self.some_url()}/api/v1/experiments/{experiment}/results", params=parameters)
        except httpx.TransportError:
            self._ledger.sources["no answer"] += 1
        else:
            if answer.status_code == 200:
                self._judge(experiment, asked_at, answer.json())
            else:
                self._note_refusal(answer)
        self._stopping.wait(ASK_EVERY_S)

    def _judge(self, experiment: str, asked_at: datetime, answer: dict[str, Any]) -> None:
        metadata, ledger = answer["metadata"], self._ledger
        ledger.sources[metadata["source"]] += 1
        until = asked_at
        if metadata["source"] == "cold":
            until = min(asked_at, datetime.fromisoformat(metadata["complete_until"]))
        events = sum(variant["metrics"]["event_count"]["value"] for variant in answer["variants"])
        for what, least, seen, most in (
            ("events", ledger.events_until(until), events, len(ledger.events.sent)),
            ("users", ledger.users_until(experiment, until), metadata["total_users"], len(ledger.asked_users)),
        ):
            if not least <= seen <= most:
                ledger.wrong.append(f"{experiment}: {seen} {what}, not {least} to {most}: {metadata}")

    def _note_refusal(self, answer: httpx.Response) -> None:
        self._ledger.sources[str(answer.status_code)] += 1
        if answer.status_code != 503:
            self._ledger.wrong.append(f"{answer.request.url}: {answer.status_code} {answer.text}")


@contextmanager
def working(urls: Sequence[str], ledger: Ledger, *, seed: int = 0, writers: int = 4) -> Iterator[None]:
    """Write and ask for the length of the block; all that was begun is acknowledged when it ends."""
    name = ledger.event_type
    workers: list[_Worker] = [Writer(f"{name}-{index}", urls, ledger, seed) for index in range(writers)]
    workers.append(Questioner(f"{name}-questions", urls, ledger, seed))
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure
