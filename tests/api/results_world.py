"""A small world whose every event is known, sent over HTTP, and what its metrics are by plain loops over it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.factories import Json, unique, variant_bodies

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
# Long enough ago that every window is over; a midnight, so that days are easy to tell.
FIRST_DAY = (datetime.now(UTC) - 60 * DAY).replace(hour=0, minute=0, second=0, microsecond=0)
ARMS = ("v0", "v1", "v2")
STRAYED, EXCLUDED = "user-3", "user-4"


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a user."""

    at: datetime
    kind: str
    value: float | None = None
    properties: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class User:
    """A user with everything that he did."""

    name: str
    arm: str
    exposed_at: datetime
    events: Sequence[Event]

    def after(self, kind: str, *, until: timedelta = 10_000 * DAY, since: timedelta = timedelta(0)) -> list[Event]:
        """Return the events of a type in a window after the exposure."""
        start, end = self.exposed_at + since, self.exposed_at + until
        return sorted(
            (event for event in self.events if event.kind == kind and start <= event.at < end),
            key=lambda event: event.at,
        )


def make_users(number: int = 120) -> list[User]:
    """Return users of three arms; who spends much before the exposure spends much after it."""
    rng = random.Random(7)
    users = []
    for index in range(number):
        arm = ARMS[index % 3]
        exposed_at = FIRST_DAY + 10 * HOUR * (index // 12) + 7 * HOUR
        taste = rng.choice([0, 1, 1, 2, 4])
        events = [
            Event(exposed_at - rng.randint(1, 200) * HOUR, "purchase", _price(rng, taste))
            for _ in range(rng.randint(0, taste))
        ]
        buys = taste + (1 if arm == "v1" and rng.random() < 0.6 else 0)
        events += [
            Event(exposed_at + rng.randint(0, 240) * HOUR, "view", None, {"ms": rng.randint(50, 900)})
            for _ in range(rng.randint(0, 3) + buys)
        ]
        for _ in range(buys if rng.random() < 0.8 else 0):
            kind = {"category": rng.choice(["book", "book", "gift-card"])}
            value = None if rng.random() < 0.1 else _price(rng, taste)
            events.append(Event(exposed_at + rng.randint(1, 240) * HOUR, "purchase", value, kind))
        # At the very moment of the exposure, which counts, and just before it, which does not.
        if index % 20 == 0:
            events += [
                Event(exposed_at, "view", None, {"ms": 100}),
                Event(exposed_at - timedelta(microseconds=1), "view", None, {"ms": 1}),
            ]
        users.append(User(f"user-{index}", arm, exposed_at, events))
    return users


def _price(rng: random.Random, taste: int) -> float:
    return rng.randint(10, 60) * (1 + taste) / 4


def counted(users: Sequence[User]) -> list[User]:
    """Return the users whom no rule leaves out."""
    return [user for user in users if user.name not in {STRAYED, EXCLUDED}]


def send(client: httpx.Client, experiment: Json, users: Sequence[User]) -> None:
    """Assign the users and send their events."""
    rows = [{"user_id": user.name, "variant": user.arm, "assigned_at": user.exposed_at.isoformat()} for user in users]
    path = f"/experiments/{experiment['key']}/assignments/import"
    for first in range(0, len(rows), 1000):
        answer = client.post(path, json={"assignments": rows[first : first + 1000]}).raise_for_status().json()
        assert answer["rejected"] == 0, answer["errors"][:3]
    events = [
        {
            "user_id": user.name,
            "event_type": event.kind,
            "timestamp": event.at.isoformat(),
            "value": event.value,
            "properties": event.properties,
        }
        for user in users
        for event in user.events
    ]
    # Shown another variant than the stored one.
    events.append(
        {
            "user_id": STRAYED,
            "event_type": "exposure",
            "experiment_id": experiment["id"],
            "timestamp": (FIRST_DAY + 20 * DAY).isoformat(),
            "properties": {"variant": "v1"},
        }
    )
    for first in range(0, len(events), 1000):
        answer = client.post("/events/batch", json={"events": events[first : first + 1000]}).raise_for_status().json()
        assert answer["rejected"] == 0, answer["errors"][:3]


def make_metrics(client: httpx.Client) -> dict[str, str]:
    """Make a metric of each kind; returns their keys by what they are called here."""
    purchase, view = {"event_type": "purchase"}, {"event_type": "view"}
    bodies: dict[str, Json] = {
        "revenue": {
            **purchase,
            "kind": "sum",
            "filters": [{"property": "category", "operator": "ne", "value": "gift-card"}],
            "covariate_days": 14,
            "unit": "EUR",
        },
        "spend": {**purchase, "kind": "sum", "covariate_days": 14},
        "bought": {**purchase, "kind": "conversion", "window": "7d", "covariate_days": 14},
        "views": {**view, "kind": "count", "cap": 6},
        "order": {**purchase, "kind": "mean"},
        "rate": {**purchase, "kind": "ratio", "value": "one", "denominator": {"event_type": "view", "value": "one"}},
        "latency": {
            **view,
            "kind": "quantile",
            "value": {"property": "ms"},
            "quantile": 0.5,
            "direction": "down",
            "unit": "ms",
        },
        "back": {**view, "kind": "retention", "days": {"first": 2, "last": 5}},
        "checkout": {"kind": "funnel", "steps": [view, purchase], "window": "5d"},
        "delay": {**purchase, "kind": "time_to_first", "unit": "s"},
    }
    keys = {}
    for name, body in bodies.items():
        keys[name] = unique(name)
        answer = client.post("/metrics", json={"key": keys[name], **body})
        assert answer.status_code == 201, answer.text
    return keys


def make_planned(client: httpx.Client, keys: dict[str, str], **plan: Any) -> Json:
    """Make an experiment with a plan: a primary metric, two guardrails and others; one is attached after the start."""
    roles: dict[str, Json] = {
        "spend": {"role": "primary"},
        "latency": {"role": "guardrail", "margin": 0.5},
        "rate": {"role": "guardrail"},
        **{name: {"role": "secondary"} for name in ("revenue", "bought", "order", "back", "checkout", "delay")},
    }
    # The primary metric is not the first one of the plan.
    order = ["bought", *(name for name in roles if name != "bought")]
    body = {
        "key": unique("planned"),
        "name": "Planned",
        "variants": variant_bodies(34, 33, 33),
        "population": {"exclude_users": [EXCLUDED]},
        "plan": {
            "hypothesis": "More is spent.",
            "sample_size": 100,
            "metrics": [{"metric": keys[name], **roles[name]} for name in order],
            **plan,
        },
        "status": "running",
    }
    answer = client.post("/experiments", json=body)
    assert answer.status_code == 201, answer.text
    experiment: Json = answer.json()
    attached = client.post(
        f"/experiments/{experiment['key']}/metrics", json={"metric": keys["views"], "role": "secondary"}
    )
    assert attached.status_code == 201, attached.text
    return experiment


# One user's numbers, by the same words as the metrics above: a numerator, and a denominator of ratios.
_Number = Callable[[User], float]


def revenue(user: User) -> float:
    kept = [event for event in user.after("purchase") if event.properties.get("category", "gift-card") != "gift-card"]
    return sum(event.value or 0.0 for event in kept)


def spend(user: User) -> float:
    return sum(event.value or 0.0 for event in user.after("purchase"))


def spent_before(user: User) -> float:
    return sum(event.value or 0.0 for event in user.after("purchase", since=-14 * DAY, until=timedelta(0)))


def bought(user: User) -> float:
    return float(bool(user.after("purchase", until=7 * DAY)))


def views(user: User) -> float:
    return float(min(6, len(user.after("view"))))


def back(user: User) -> float:
    return float(bool(user.after("view", since=2 * DAY, until=6 * DAY)))


def reached(user: User) -> int:
    """Return how many steps of the funnel a user did."""
    seen = user.after("view", until=5 * DAY)
    if not seen:
        return 0
    return 2 if any(event.at >= seen[0].at for event in user.after("purchase", until=5 * DAY)) else 1


def valued(user: User) -> float:
    return float(sum(event.value is not None for event in user.after("purchase")))


def purchases(user: User) -> float:
    return float(len(user.after("purchase")))


def all_views(user: User) -> float:
    return float(len(user.after("view")))


def delay(user: User) -> float:
    first = user.after("purchase")
    return (first[0].at - user.exposed_at).total_seconds() if first else 0.0


MEANS: dict[str, _Number] = {"revenue": revenue, "spend": spend, "views": views}
RATES: dict[str, _Number] = {"bought": bought, "back": back, "checkout": lambda user: float(reached(user) == 2)}
RATIOS: dict[str, tuple[_Number, _Number]] = {
    "order": (spend, valued),
    "rate": (purchases, all_views),
    "delay": (delay, lambda user: float(bool(user.after("purchase")))),
}
