"""`python -m demo`: run two experiments against the running service and judge its results by the known truth."""

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tqdm import tqdm

from demo.api import DemoFailed, Shop, token_from_environment, url_from_environment
from demo.report import METRICS, effects, effects_table, miscounts, results_table
from demo.shop import PLANS, PURCHASE, STRANGERS, Customer, Day, Plan, Purchase, a_day, strangers

USERS = 20_000
FEWEST_USERS = 1000
# Users are assigned so many at a time, and events sent so many.
CHUNK = 1000
BATCH = 500
CONNECTIONS = 4

Json = dict[str, Any]
T = TypeVar("T")


def main() -> int:
    """Run the demo; returns 0 when the service counted what was sent."""
    options = _options()
    try:
        shop = Shop(options.url.rstrip("/"), options.token or token_from_environment())
        try:
            return Demo(shop, users=options.users, seed=options.seed).run()
        finally:
            shop.close()
    except DemoFailed as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--url", default=url_from_environment(), help="the service; default: DEMO_URL or PORT")
    parser.add_argument("--token", default="", help="a token; default: DEMO_TOKEN, or the first of BEARER_TOKENS")
    parser.add_argument("--users", type=int, default=USERS, help="how many customers the shop has")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="what the customers draw from")
    options = parser.parse_args()
    if options.users < FEWEST_USERS:
        parser.error(f"--users: at least {FEWEST_USERS:,}, or there would be nothing to see")
    return options


class Demo:
    """One run, with experiments, users and events of its own."""

    def __init__(self, shop: Shop, *, users: int, seed: int) -> None:
        self._shop = shop
        self._seed = seed
        self._run = f"{time.time_ns():x}"
        self._keys = {plan.slug: f"demo-{plan.slug}-{self._run}" for plan in PLANS}
        self._user_ids = [f"demo-{self._run}-{number}" for number in range(users)]
        self._purchases: list[Purchase] = []

    def run(self) -> int:
        started = time.monotonic()
        for plan in PLANS:
            self._shop.create_experiment(plan.body(self._keys[plan.slug]))
        print(f"{len(PLANS)} experiments, {len(self._user_ids):,} users, --seed {self._seed}")
        sent = self._live()
        answers = {plan.slug: self._ask(plan) for plan in PLANS}
        print(f"{sent['accepted']:,} events accepted, {sent['duplicates']:,} recognised as sent before", end="")
        print(f"; {time.monotonic() - started:.0f} s\n")
        return self._report(answers)

    def _live(self) -> Json:
        """Let all customers live a day; late and repeated events follow when everything else has been sent."""
        sent = {"accepted": 0, "duplicates": 0}
        days: list[Day] = []
        with (
            ThreadPoolExecutor(CONNECTIONS) as executor,
            tqdm(total=len(self._user_ids), unit=" users", desc="a day in the shop") as bar,
        ):
            for day, outcomes in executor.map(self._live_chunk, enumerate(_chunks(self._user_ids, CHUNK))):
                days.append(day)
                _add(sent, outcomes)
                bar.update(min(CHUNK, len(self._user_ids) - bar.n))
        self._purchases = [purchase for day in days for purchase in day.purchases]
        later = [event for day in days for event in day.later]
        later += strangers(int(len(self._user_ids) * STRANGERS), f"demo-{self._run}")
        random.Random(self._seed).shuffle(later)
        with tqdm(total=len(later), unit=" events", desc="late and repeated") as bar:
            for batch in _chunks(later, BATCH):
                _add(sent, [self._shop.send_events(batch)])
                bar.update(len(batch))
        return sent

    def _live_chunk(self, numbered: tuple[int, Sequence[str]]) -> tuple[Day, list[Json]]:
        number, user_ids = numbered
        answers = {slug: self._shop.assign(key, user_ids) for slug, key in self._keys.items()}
        customers = [Customer.of(dict(zip(answers, both, strict=True))) for both in zip(*answers.values(), strict=True)]
        day = a_day(customers, random.Random(f"{self._seed}/{number}"))
        return day, [self._shop.send_events(batch) for batch in _chunks(day.now, BATCH)]

    def _ask(self, plan: Plan) -> Json:
        return self._shop.results(
            self._keys[plan.slug], event_type=PURCHASE, metrics=[*METRICS, "event_count"], fresh=True
        )

    def _report(self, answers: dict[str, Json]) -> int:
        wrong: list[str] = []
        for plan in PLANS:
            answer = answers[plan.slug]
            summary, srm = answer["summary"], answer["srm"]
            print(f"{plan.name} ({self._keys[plan.slug]})\n{results_table(plan, answer)}")
            print(
                f"  winner by {summary['metric']}: {summary['winning_variant'] or 'none'} ({summary['verdict']})",
                end="",
            )
            print(f"; sample ratio p = {srm['p_value']:.2f}; source: {answer['metadata']['source']}\n")
            wrong += miscounts(plan, answer, self._purchases, len(self._user_ids))
        found = [effect for plan in PLANS for effect in effects(plan, answers[plan.slug])]
        print(f"The truth, which only the demo knows\n{effects_table(found)}")
        within = sum(effect.is_within for effect in found)
        print(f"  {within} of {len(found)} intervals hold the true effect; at 95 %, one in twenty need not.\n")
        if wrong:
            print("WRONG: " + "\nWRONG: ".join(wrong))
            return 1
        print(
            f"Every one of {len(self._purchases):,} purchases is counted once, to the cent: repeated events are not"
            " counted again, late ones are counted, and those from before the assignment or of strangers are not."
        )
        return 0


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _add(sent: Json, outcomes: Sequence[Json]) -> None:
    for outcome in outcomes:
        for name in sent:
            sent[name] += outcome[name]


if __name__ == "__main__":
    sys.exit(main())
