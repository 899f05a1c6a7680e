"""The shop's customers: what they buy, and how the tested changes alter it. All that is true is written here."""

import math
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

Json = dict[str, Any]

VIEW, PURCHASE = "view", "purchase"

BUY_PROBABILITY = 0.10
MEAN_ORDER = 40.0
# The standard deviation of the logarithm of an order's value.
ORDER_SPREAD = 0.5

# Shares of purchases that reach the service in an odd way.
SENT_TWICE = 0.05
SENT_LATE = 0.10
DATED_BEFORE = 0.03
# Users who never met an experiment, for each user who did.
STRANGERS = 0.02


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant and what it does: factors on the probability to buy and on the value of an order."""

    key: str
    name: str
    allocation_pct: float
    buys: float = 1.0
    spends: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """An experiment of the shop; its first arm is the control."""

    slug: str
    name: str
    arms: tuple[Arm, ...]

    @property
    def control(self) -> Arm:
        return self.arms[0]

    def body(self, key: str) -> Json:
        """Return what creates it."""
        variants = [
            {
                "key": arm.key,
                "name": arm.name,
                "allocation_pct": arm.allocation_pct,
                "is_control": arm is self.control,
            }
            for arm in self.arms
        ]
        return {"key": key, "name": self.name, "variants": variants, "status": "running"}

    def arm(self, key: str) -> Arm:
        return next(arm for arm in self.arms if arm.key == key)

    def mean_of(self, factor: str) -> float:
        """Return the average of a factor over the users, by allocation."""
        return sum(arm.allocation_pct / 100 * float(getattr(arm, factor)) for arm in self.arms)


CHECKOUT = Plan(
    "checkout",
    "Checkout on one page",
    (
        Arm("control", "Three pages", 50),
        Arm("one-page", "One page", 50, buys=1.25),
    ),
)
ADVICE = Plan(
    "advice",
    "What else to buy",
    (
        Arm("control", "No advice", 40),
        Arm("similar", "Similar products", 30, spends=1.2),
        Arm("popular", "Popular products", 30),
    ),
)
PLANS = (CHECKOUT, ADVICE)


def true_differences(plan: Plan, arm: Arm) -> Mapping[str, float]:
    """Return the true difference from the control for each metric.

    The two experiments are independent, so the other one enters by the average of its arms.
    """
    (other,) = (item for item in PLANS if item is not plan)

    def buys(item: Arm) -> float:
        return BUY_PROBABILITY * item.buys * other.mean_of("buys")

    def order(item: Arm) -> float:
        return MEAN_ORDER * item.spends * other.mean_of("spends")

    control = plan.control
    return {
        "conversion_rate": buys(arm) - buys(control),
        "avg_value": order(arm) - order(control),
        "value_per_user": buys(arm) * order(arm) - buys(control) * order(control),
    }


@dataclass(frozen=True, slots=True)
class Customer:
    """A user with an arm in each experiment, exposed to both from `since` on."""

    user_id: str
    arms: Mapping[str, str]
    since: datetime

    @classmethod
    def of(cls, answers: Mapping[str, Json]) -> "Customer":
        """Put together what the service answered, by the experiments' slugs."""
        moments = [datetime.fromisoformat(answer["assigned_at"]) for answer in answers.values()]
        arms = {slug: str(answer["variant"]["key"]) for slug, answer in answers.items()}
        return cls(next(iter(answers.values()))["user_id"], arms, max(moments))


@dataclass(frozen=True, slots=True)
class Purchase:
    """What the shop knows to be true, to be compared with what the service counts."""

    customer: Customer
    value: float


@dataclass(frozen=True, slots=True)
class Day:
    """What a group of customers did: events to send now and later, and the purchases that count."""

    now: Sequence[Json]
    later: Sequence[Json]
    purchases: Sequence[Purchase]


def a_day(customers: Sequence[Customer], dice: random.Random) -> Day:
    """Let every customer look around once, and some of them buy."""
    now: list[Json] = []
    later: list[Json] = []
    purchases: list[Purchase] = []
    for customer in customers:
        now.append(_event(customer.user_id, VIEW))
        if dice.random() >= BUY_PROBABILITY * _factor(customer, "buys"):
            continue
        purchase = Purchase(customer, _order(customer, dice))
        event = _event(customer.user_id, PURCHASE, value=purchase.value)
        purchases.append(purchase)
        if dice.random() < SENT_LATE:
            event["timestamp"] = (customer.since + timedelta(milliseconds=1)).isoformat()
            later.append(event)
        else:
            now.append(event)
        if dice.random() < SENT_TWICE:
            later.append(event)
        if dice.random() < DATED_BEFORE:
            yesterday = (customer.since - timedelta(days=1)).isoformat()
            later.append(_event(customer.user_id, PURCHASE, value=purchase.value, timestamp=yesterday))
    return Day(now, later, purchases)


def strangers(count: int, prefix: str) -> Iterator[Json]:
    """Yield purchases of users who are in no experiment."""
    for number in range(count):
        yield _event(f"{prefix}-stranger-{number}", PURCHASE, value=MEAN_ORDER)


def _event(user_id: str, event_type: str, **fields: float | str) -> Json:
    return {"event_id": str(uuid.uuid4()), "user_id": user_id, "event_type": event_type, **fields}


def _factor(customer: Customer, factor: str) -> float:
    return math.prod(float(getattr(plan.arm(customer.arms[plan.slug]), factor)) for plan in PLANS)


def _order(customer: Customer, dice: random.Random) -> float:
    """Draw from the lognormal distribution with the customer's mean; to whole cents, which leaves the mean alone."""
    mean = MEAN_ORDER * _factor(customer, "spends")
    return round(dice.lognormvariate(math.log(mean) - ORDER_SPREAD**2 / 2, ORDER_SPREAD), 2)
