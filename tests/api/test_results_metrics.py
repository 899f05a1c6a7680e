"""Stored metrics in results over HTTP: a small world, number by number, from every source."""

import math
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

from tests.api.results_world import (
    ARMS,
    DAY,
    FIRST_DAY,
    MEANS,
    RATES,
    RATIOS,
    User,
    counted,
    make_metrics,
    make_planned,
    make_users,
    reached,
    send,
    spend,
    spent_before,
)
from tests.conftest import MakeClient
from tests.factories import Json, expect_problem, make_experiment, unique
from tests.service_process import ServiceProcess, wait_for_history

pytestmark = pytest.mark.timeout(120)

SOURCES = ("hot", "cold", "auto")
TREATMENTS = ARMS[1:]


class Told:
    """What the service was told, and asks."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.keys = make_metrics(client)
        self.experiment = make_planned(client, self.keys)
        self.everybody = make_users()
        self.users = counted(self.everybody)
        send(client, self.experiment, self.everybody)

    def ask(self, source: str = "hot", **question: Any) -> Json:
        return ask(self.client, self.experiment, source=source, min_sample=10, **question)

    def of(self, arm: str) -> list[User]:
        return [user for user in self.users if user.arm == arm]


def ask(client: httpx.Client, experiment: Json, **question: Any) -> Json:
    answer = client.get(f"/experiments/{experiment['key']}/results", params={"fresh": "true", **question})
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


def value_of(answer: Json, arm: str, metric: str) -> Json:
    found: Json = next(variant["metrics"][metric] for variant in answer["variants"] if variant["key"] == arm)
    return found


def compared(answer: Json, arm: str, metric: str) -> Json:
    (found,) = [item for item in answer["comparisons"] if (item["variant"], item["metric"]) == (arm, metric)]
    return dict(found)


def numbers(users: Sequence[User], number: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([number(user) for user in users])


@pytest.fixture(scope="module")
def told(service: ServiceProcess, client: httpx.Client) -> Told:
    world = Told(client)
    with service.client() as without_path:
        wait_for_history(without_path, world.experiment["key"])
    return world


@pytest.fixture(scope="module")
def answer(told: Told) -> Json:
    return told.ask()


def test_results__of_a_plan__show_its_metrics_first_and_say_what_each_is(told: Told, answer: Json) -> None:
    keys = told.keys
    definitions = {item["key"]: item for item in answer["definitions"]}

    assert answer["metadata"]["metrics"][0] == keys["spend"]
    assert answer["metadata"]["metrics"][-2:] == ["conversion_rate", "unique_users"]
    assert set(answer["metadata"]["metrics"]) == {*keys.values(), "conversion_rate", "unique_users"}
    assert (answer["summary"]["metric"], answer["summary"]["decision"]["rule"]["metric"]) == (keys["spend"],) * 2
    assert (definitions[keys["spend"]]["role"], definitions[keys["spend"]]["exploratory"]) == ("primary", False)
    latency = definitions[keys["latency"]]
    assert (latency["role"], latency["margin"], latency["direction"]) == ("guardrail", 0.5, "down")
    assert (latency["unit"], latency["kind"], latency["version"]) == ("ms", "quantile", 1)
    assert (definitions[keys["views"]]["exploratory"], definitions["conversion_rate"]["exploratory"]) == (True, True)
    assert definitions["unique_users"]["kind"] is None
    assert answer["provenance"]["metric_versions"] == {**dict.fromkeys(keys.values(), 1)} | {
        "conversion_rate": None,
        "unique_users": None,
    }
    own = told.ask(metrics="attached")
    assert own["metadata"]["metrics"] == answer["metadata"]["metrics"][:-2]


def test_results__population__leaves_out_whom_it_names_and_says_so(told: Told, answer: Json) -> None:
    assert answer["metadata"]["total_users"] == len(told.users) == len(told.everybody) - 2
    assert answer["provenance"]["users_excluded"] == {"EXCLUDED_USER": 1, "TWO_VARIANTS": 1}


@pytest.mark.parametrize("name", [*MEANS, *RATES])
def test_results__mean_or_rate__is_that_of_a_plain_loop(told: Told, answer: Json, name: str) -> None:
    number, key = {**MEANS, **RATES}[name], told.keys[name]
    control = numbers(told.of("v0"), number)
    assert value_of(answer, "v0", key)["value"] == pytest.approx(control.mean())
    for arm in TREATMENTS:
        treatment = numbers(told.of(arm), number)
        found = compared(answer, arm, key)
        assert value_of(answer, arm, key)["value"] == pytest.approx(treatment.mean())
        assert found["difference"] == pytest.approx(treatment.mean() - control.mean())
        assert (found["n_variant"], found["n_control"]) == (len(treatment), len(control))
        if name in MEANS:
            test = stats.ttest_ind(treatment, control, equal_var=False)
            interval = test.confidence_interval(0.95)
            assert (found["method"], found["df"]) == ("welch_t", pytest.approx(test.df))
            assert (found["statistic"], found["p_value"]) == pytest.approx((test.statistic, test.pvalue))
            assert (found["difference_ci_lower"], found["difference_ci_upper"]) == pytest.approx(tuple(interval))
        else:
            pooled = np.concatenate([treatment, control]).mean()
            error = math.sqrt(pooled * (1 - pooled) * (1 / len(treatment) + 1 / len(control)))
            z = (treatment.mean() - control.mean()) / error
            assert found["method"] == "pooled_z"
            assert (found["statistic"], found["p_value"]) == pytest.approx((z, 2 * stats.norm.sf(abs(z))))


@pytest.mark.parametrize("name", RATIOS)
def test_results__ratio__is_that_of_a_plain_loop_with_users_as_units(told: Told, answer: Json, name: str) -> None:
    over, under = RATIOS[name]

    def estimate(arm: str) -> tuple[float, float]:
        x, y = numbers(told.of(arm), over), numbers(told.of(arm), under)
        ratio = x.sum() / y.sum()
        return ratio, float((x - ratio * y).var(ddof=1) / len(x) / y.mean() ** 2)

    control, control_variance = estimate("v0")
    for arm in TREATMENTS:
        treatment, variance = estimate(arm)
        found = compared(answer, arm, told.keys[name])
        z = (treatment - control) / math.sqrt(variance + control_variance)
        assert value_of(answer, arm, told.keys[name])["value"] == pytest.approx(treatment)
        assert (found["method"], found["statistic"]) == ("delta_z", pytest.approx(z))


def test_results__quantile__has_the_interval_of_its_users_as_clusters(told: Told, answer: Json) -> None:
    key = told.keys["latency"]
    errors = {}
    for arm in ARMS:
        values = [[event.properties["ms"] for event in user.after("view")] for user in told.of(arm)]
        everything = np.sort(np.array([value for own in values for value in own], dtype=float))
        found = value_of(answer, arm, key)
        assert found["value"] == np.quantile(everything, 0.5)
        # Deng, Knoblich, Lu 2018: how surely the share of values at most the quantile is known gives the ranks.
        low = everything[(len(everything) - 1) // 2]
        counts = np.array([(sum(value <= low for value in own), len(own)) for own in values if own], dtype=float)
        ratio = counts[:, 0].sum() / counts[:, 1].sum()
        residuals = counts[:, 0] - ratio * counts[:, 1]
        spread = math.sqrt(residuals.var(ddof=1) / len(counts)) / counts[:, 1].mean()
        half, middle = stats.norm.isf(0.025) * spread * len(everything), 0.5 * len(everything)
        ranks = math.floor(middle - half + 0.5), math.ceil(middle + half + 0.5)
        assert (found["ci_lower"], found["ci_upper"]) == tuple(everything[rank - 1] for rank in ranks)
        errors[arm] = (found["ci_upper"] - found["ci_lower"]) / 2 / stats.norm.isf(0.025)
    for arm in TREATMENTS:
        found = compared(answer, arm, key)
        difference = value_of(answer, arm, key)["value"] - value_of(answer, "v0", key)["value"]
        z = difference / math.hypot(errors[arm], errors["v0"])
        assert (found["method"], found["statistic"]) == ("quantile_z", pytest.approx(z))


def test_results__funnel__shows_who_got_as_far_as_each_step(told: Told, answer: Json) -> None:
    for arm in ARMS:
        steps = [sum(reached(user) >= step for user in told.of(arm)) for step in (1, 2)]
        assert value_of(answer, arm, told.keys["checkout"])["steps"] == steps
        assert value_of(answer, arm, told.keys["spend"])["steps"] is None


def test_results__cuped__stands_beside_the_raw_comparison_with_less_variance(told: Told, answer: Json) -> None:
    control, before_control = (numbers(told.of("v0"), number) for number in (spend, spent_before))
    for arm in TREATMENTS:
        treatment, before = (numbers(told.of(arm), number) for number in (spend, spent_before))
        after_all, before_all = np.concatenate([control, treatment]), np.concatenate([before_control, before])
        theta = np.cov(after_all, before_all)[0, 1] / before_all.var(ddof=1)
        test = stats.ttest_ind(treatment - theta * before, control - theta * before_control, equal_var=False)
        plain = treatment.var(ddof=1) / len(treatment) + control.var(ddof=1) / len(control)
        adjusted = (treatment - theta * before).var(ddof=1) / len(treatment) + (control - theta * before_control).var(
            ddof=1
        ) / len(control)

        found = compared(answer, arm, told.keys["spend"])["cuped"]

        assert (found["theta"], found["p_value"]) == pytest.approx((theta, test.pvalue))
        assert found["variance_reduction_percent"] == pytest.approx(100 * (1 - adjusted / plain))
        assert found["variance_reduction_percent"] > 5
        assert compared(answer, arm, told.keys["order"])["cuped"]["null_reason"] == "NO_COVARIATE"


def test_results__effect_over_time__is_what_was_known_by_the_end_of_each_day(told: Told, answer: Json) -> None:
    for name in ("spend", "bought"):
        for arm in TREATMENTS:
            (series,) = [
                item
                for item in answer["effect_over_time"]
                if (item["metric"], item["variant"]) == (told.keys[name], arm)
            ]
            points = series["points"]
            assert points[-1]["difference"] == compared(answer, arm, told.keys[name])["difference"]
            assert points[-1]["ci_lower"] == pytest.approx(
                compared(answer, arm, told.keys[name])["difference_ci_lower"]
            )
            for day, point in ((FIRST_DAY + number * DAY, points[number]) for number in range(4)):
                assert point["time"] == day.isoformat().replace("+00:00", "Z")
                known = {key: _known_by(told.of(key), day + DAY) for key in ("v0", arm)}
                assert (point["n_control"], point["n_variant"]) == (len(known["v0"]), len(known[arm]))
                number = {**MEANS, **RATES}[name]
                expected = numbers(known[arm], number).mean() - numbers(known["v0"], number).mean()
                assert point["difference"] == pytest.approx(expected)
    (quantile, _) = [item for item in answer["effect_over_time"] if item["metric"] == told.keys["latency"]]
    assert (quantile["points"], quantile["null_reason"]) == ([], "NO_DAILY_DATA")
    built_in = [item for item in answer["effect_over_time"] if item["metric"] == "conversion_rate"]
    assert all(item["points"] for item in built_in)


def _known_by(users: Sequence[User], moment: Any) -> list[User]:
    return [
        User(user.name, user.arm, user.exposed_at, [event for event in user.events if event.at < moment])
        for user in users
        if user.exposed_at < moment
    ]


def test_results__of_every_kind__are_the_same_from_every_source(told: Told) -> None:
    question = {"metrics": ["attached", "avg_value", "value_per_user", "p95_value", "event_count"], "cuped_days": 14}
    answers = {source: told.ask(source, **question) for source in SOURCES}

    assert [found["metadata"]["source"] for found in answers.values()] == ["hot", "cold", "both"]
    for found in answers.values():
        for part in ("metadata", "provenance"):
            found[part] = {
                name: found[part][name]
                for name in ("total_users", "metrics", "events_counted", "late_events", "users_excluded", "query_hash")
                if name in found[part] and name not in {"query_hash", "late_events"}
            }
    assert answers["cold"] == answers["hot"]
    assert answers["auto"] == answers["hot"]


def test_results__built_in_metrics__can_be_adjusted_and_followed_too(told: Told) -> None:
    plain = told.ask(metrics="value_per_user", event_type="purchase")
    found = told.ask(metrics="value_per_user", event_type="purchase", cuped_days=14, effect_over_time="true")
    own = told.ask(metrics=told.keys["spend"])

    assert plain["effect_over_time"][0]["null_reason"] == "NO_DAILY_DATA"
    assert compared(plain, "v1", "value_per_user")["cuped"]["null_reason"] == "NO_COVARIATE"
    for arm in TREATMENTS:
        by_key = compared(own, arm, told.keys["spend"])
        by_name = compared(found, arm, "value_per_user")
        assert by_name["cuped"] == by_key["cuped"]
        assert by_name["p_value"] == by_key["p_value"] == compared(plain, arm, "value_per_user")["p_value"]
    points = [[item["points"] for item in asked["effect_over_time"]] for asked in (found, own)]
    assert points[0] == points[1]
    assert own["metadata"]["metrics"] == [told.keys["spend"]]


def test_results__metric_of_no_experiment__is_exploratory_in_its_newest_version(told: Told) -> None:
    key = unique("loose")
    body = {"key": key, "kind": "count", "event_type": "view"}
    assert told.client.post("/metrics", json=body).status_code == 201
    before = told.ask(metrics=key)
    changed = told.client.patch(f"/metrics/{key}", json={"event_type": "purchase"})
    assert changed.status_code == 200, changed.text
    # Not `fresh`: what was kept of the older version must not answer for the newer one.
    after = told.client.get(f"/experiments/{told.experiment['key']}/results", params={"metrics": key}).json()

    assert [item["definitions"][0]["version"] for item in (before, after)] == [1, 2]
    assert after["definitions"][0]["exploratory"] is True
    assert after["summary"]["decision"]["verdict"] == "INVALID"
    assert [reason["code"] for reason in after["summary"]["decision"]["reasons"]] == ["PRIMARY_NOT_ASKED"]
    number = sum(len(user.after("purchase")) for user in told.of("v0")) / len(told.of("v0"))
    assert value_of(after, "v0", key)["value"] == pytest.approx(number)


def test_results__sealed_version__stays_while_the_metric_changes(told: Told, answer: Json) -> None:
    key = told.keys["views"]
    changed = told.client.patch(f"/metrics/{key}", json={"cap": 1})
    assert changed.status_code == 200, changed.text

    again = told.ask(metrics=key)

    assert again["definitions"][0]["version"] == 1
    assert again["definitions"][0]["exploratory"] is True
    assert value_of(again, "v0", key)["value"] == value_of(answer, "v0", key)["value"]


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("metrics=conversion_rate&metrics=no-such", "metrics.1", "no metric 'no-such'"),
        ("metrics=attached", "metrics.0", "it has none"),
        ("metrics=X", "metrics.0", "pattern"),
        ("&".join(f"metrics=m{number}" for number in range(51)), "metrics", "50"),
        ("cuped_days=0", "cuped_days", "1"),
        ("cuped_days=366", "cuped_days", "365"),
        ("breakdown=", "breakdown", "1"),
        ("breakdown=a%00", "breakdown", "control"),
        ("effect_over_time=often", "effect_over_time", "boolean"),
    ],
)
def test_results__bad_metrics__are_refused_by_name(client: httpx.Client, query: str, field: str, says: str) -> None:
    experiment = make_experiment(client)
    problem = expect_problem(client.get(f"/experiments/{experiment['id']}/results?{query}"), 422, field=field)
    assert any(says in error["detail"] for error in problem["errors"]), problem["errors"]
    if "no-such" in query:
        assert "GET /metrics" in problem["detail"]


def test_metrics__key_that_results_take_for_all__is_refused(client: httpx.Client) -> None:
    body = {"key": "attached", "kind": "count"}
    expect_problem(client.post("/metrics", json=body), 422, field="key")


def test_results__metric_of_another_project__is_unknown(
    service: ServiceProcess, client_of: MakeClient, told: Told, make_project: Any
) -> None:
    elsewhere = client_of(service, project=make_project())
    experiment = make_experiment(elsewhere)
    response = elsewhere.get(f"/experiments/{experiment['key']}/results", params={"metrics": told.keys["spend"]})
    expect_problem(response, 422, field="metrics.0")
