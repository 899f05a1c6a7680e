"""The answer by the values of an attribute: each segment is what a filter on its value would say."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.factories import Json, unique, variant_bodies
from tests.service_process import ServiceProcess, wait_for_history

pytestmark = pytest.mark.timeout(120)

COUNTRIES: tuple[Any, ...] = ("DE", "FR", 7, None)
USERS = 96


class Told:
    """Users of some countries, and what they did."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.metrics = [
            self._metric("spend", kind="sum", event_type="purchase", covariate_days=7, direction="down"),
            self._metric("bought", kind="conversion", event_type="purchase"),
            self._metric("median", kind="quantile", event_type="purchase", quantile=0.5),
        ]
        variants = variant_bodies(50, 50)
        body = {"key": unique("by-country"), "name": "By country", "variants": variants, "status": "running"}
        answer = client.post("/experiments", json=body)
        assert answer.status_code == 201, answer.text
        self.key = answer.json()["key"]
        self._send()

    def _metric(self, name: str, **fields: Any) -> str:
        key = unique(name)
        assert self.client.post("/metrics", json={"key": key, **fields}).status_code == 201
        return key

    def _send(self) -> None:
        events = []
        for number in range(USERS):
            user, country = f"{self.key}-{number}", COUNTRIES[number % len(COUNTRIES)]
            context = {} if country is None else {"country": country}
            body = {"experiment": self.key, "user_id": user, "context": context}
            assert self.client.post("/assignments", json=body).json()["enrolled"]
            before = datetime.now(UTC) - timedelta(days=2)
            events.append(
                {"user_id": user, "event_type": "purchase", "value": number % 5, "timestamp": before.isoformat()}
            )
            events += [
                {"user_id": user, "event_type": "purchase", "value": number % 5 + count} for count in range(number % 3)
            ]
        answer = self.client.post("/events/batch", json={"events": events}).json()
        assert answer["rejected"] == 0, answer["errors"][:3]

    def ask(self, source: str = "hot", **question: Any) -> Json:
        asked: Json = {"fresh": "true", "source": source, "min_sample": 1, "metrics": [*self.metrics, "value_per_user"]}
        answer = self.client.get(f"/experiments/{self.key}/results", params=asked | question)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body


@pytest.fixture(scope="module")
def told(service: ServiceProcess, client: httpx.Client) -> Told:
    world = Told(client)
    with service.client() as without_path:
        wait_for_history(without_path, world.key)
    return world


def _without_families(comparison: Json) -> Json:
    return {name: value for name, value in comparison.items() if not name.startswith("p_value_")}


def test_breakdown__of_an_attribute__has_the_largest_values_first_and_those_without_one_last(told: Told) -> None:
    answer = told.ask(breakdown="country")

    found = answer["breakdown"]
    assert found["attribute"] == "country"
    assert [segment["value"] for segment in found["segments"]] == ["7", "DE", "FR", None]
    assert [segment["users"] for segment in found["segments"]] == [USERS // 4] * 4
    assert not any(segment["is_rest"] for segment in found["segments"])
    assert sum(segment["srm"]["observed"]["v0"] for segment in found["segments"]) == answer["srm"]["observed"]["v0"]
    assert all(variant["time_series"] == [] for segment in found["segments"] for variant in segment["variants"])
    assert found["family"]["comparisons"] == 4 * 4
    assert told.ask()["breakdown"] is None


@pytest.mark.parametrize("value", ["DE", "FR", "7"])
def test_breakdown__segment__says_what_a_filter_on_its_value_says(told: Told, value: str) -> None:
    segments = told.ask(breakdown="country", cuped_days=3)["breakdown"]["segments"]
    (segment,) = [item for item in segments if item["value"] == value]

    question: Json = {"context.country": value, "cuped_days": 3}
    filtered = told.ask(**question)

    assert segment["users"] == filtered["metadata"]["total_users"]
    assert segment["srm"] == filtered["srm"]
    assert [item["metrics"] for item in segment["variants"]] == [item["metrics"] for item in filtered["variants"]]
    compared = [[_without_families(item) for item in found["comparisons"]] for found in (segment, filtered)]
    assert compared[0] == compared[1]
    assert compared[0][0]["cuped"]["variance_reduction_percent"] is not None


def test_breakdown__from_every_source__is_the_same(told: Told) -> None:
    answers = {source: told.ask(source, breakdown="country") for source in ("hot", "cold", "auto")}

    assert [answer["metadata"]["source"] for answer in answers.values()] == ["hot", "cold", "both"]
    assert answers["cold"]["breakdown"] == answers["hot"]["breakdown"]
    assert answers["auto"]["breakdown"] == answers["hot"]["breakdown"]
    assert answers["auto"]["comparisons"] == answers["hot"]["comparisons"]


def test_breakdown__of_all_users__has_every_comparison_with_the_segments_as_strata(told: Told) -> None:
    answer = told.ask(breakdown="country")
    segments, found = answer["breakdown"]["segments"], answer["breakdown"]["poststratified"]

    assert [(one["variant"], one["control"], one["metric"]) for one in found] == [
        (one["variant"], one["control"], one["metric"]) for one in answer["comparisons"]
    ]
    for one in found:
        if one["metric"] == told.metrics[2]:
            assert one["null_reason"] == "NO_STRATIFIED_FORM"
            continue
        # The differences of the segments, by their users.
        parts = [
            (segment["users"], compared["difference"])
            for segment in segments
            for compared in segment["comparisons"]
            if compared["metric"] == one["metric"]
        ]
        weighted = sum(users * difference for users, difference in parts) / USERS
        assert one["difference"] == pytest.approx(weighted, rel=1e-9, abs=1e-12)
        assert one["difference_ci_lower"] < one["difference"] < one["difference_ci_upper"]
        assert one["variance_reduction_percent"] is not None
        assert one["strata"] == len(segments)


def test_breakdown__exported_as_json__has_the_strata_as_well(told: Told) -> None:
    question: Json = {"of": "results", "format": "json", "breakdown": "country", "source": "hot", "min_sample": 1}
    exported = told.client.get(f"/experiments/{told.key}/export", params=question | {"metrics": told.metrics})

    assert exported.status_code == 200, exported.text
    assert len(exported.json()["breakdown"]["poststratified"]) == len(told.metrics)


def test_breakdown__in_the_report__shows_the_strata(told: Told) -> None:
    question: Json = {"breakdown": "country", "metrics": told.metrics}
    shown = told.client.get(f"/experiments/{told.key}/report", params=question)

    assert f"{told.metrics[0]} of all users, with the parts as strata" in shown.text
    assert f"{told.metrics[2]} of all users" not in shown.text
