"""The answer by when users came: a novelty effect is seen day by day, and what is not there is not found."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.results.observed import PLACES
from tests.conftest import shared_stores
from tests.factories import Json, expect_problem, make_experiment, unique
from tests.psql import pasted
from tests.service_process import ServiceProcess, wait_for_history

pytestmark = pytest.mark.timeout(120)

USERS = 60  # Of each variant on each day.
CONTROL = (20, 22, 19, 21, 20, 18)
NOVELTY = (44, 41, 20, 19, 22, 20)
STEADY = (29, 31, 28, 27, 30, 28)
# A midnight, long enough ago that nothing of it is still to come.
FIRST = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=20)


class Told:
    """An experiment of six days, imported with its own times: who bought of each day's users is decided here."""

    def __init__(self, client: httpx.Client, treatment: tuple[int, ...]) -> None:
        self.client = client
        self.metric = self._metric("bought", kind="conversion", window="2d")
        self.others = [
            self._metric("spend", kind="sum", covariate_days=7, winsorize=0.9),
            self._metric("median", kind="quantile", quantile=0.5),
        ]
        self.key = make_experiment(client)["key"]
        rows, events = [], []
        for variant, by_day in (("v0", CONTROL), ("v1", treatment)):
            for day, buyers in enumerate(by_day):
                for number in range(USERS):
                    user = f"{variant}-{day}-{number}"
                    # The first one comes at midnight, the last one a microsecond before the next.
                    last = timedelta(days=1, microseconds=-1)
                    exposed_at = FIRST + timedelta(days=day) + last * number / (USERS - 1)
                    rows.append({"user_id": user, "variant": variant, "assigned_at": exposed_at.isoformat()})
                    if number < buyers:
                        at = exposed_at + timedelta(hours=number % 40)
                        events.append(
                            {
                                "user_id": user,
                                "event_type": "purchase",
                                "timestamp": at.isoformat(),
                                "value": number % 7,
                                "experiment_id": self.key,
                            }
                        )
        answer = client.post(f"/experiments/{self.key}/assignments/import", json={"assignments": rows}).json()
        assert answer["accepted"] == len(rows), answer["errors"][:3]
        answer = client.post("/events/batch", json={"events": events}).json()
        assert answer["accepted"] == len(events), answer["errors"][:3]

    def _metric(self, name: str, **fields: Any) -> str:
        key = unique(name)
        answer = self.client.post("/metrics", json={"key": key, "event_type": "purchase", **fields})
        assert answer.status_code == 201, answer.text
        return key

    def ask(self, source: str = "hot", **question: Any) -> Json:
        asked: Json = {"fresh": "true", "source": source, "min_sample": 50, "metrics": [self.metric, "unique_users"]}
        answer = self.client.get(f"/experiments/{self.key}/results", params=asked | question)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body


@pytest.fixture(scope="module")
def novel(service: ServiceProcess, client: httpx.Client) -> Told:
    world = Told(client, NOVELTY)
    with service.client() as without_path:
        wait_for_history(without_path, world.key)
    return world


@pytest.fixture(scope="module")
def steady(client: httpx.Client) -> Told:
    return Told(client, STEADY)


def _of_rate(told: Told, found: Json) -> Json:
    (one,) = [one for one in found["homogeneity"] if one["metric"] == told.metric]
    return dict(one)


def test_cohorts__of_an_effect_that_wears_off__show_it_and_the_test_rejects(novel: Told) -> None:
    answer = novel.ask(cohorts="day")

    found = answer["cohorts"]
    assert answer["breakdown"] is None
    assert found["width"] == "day"
    days = [FIRST + timedelta(days=number) for number in range(6)]
    assert [datetime.fromisoformat(one["since"]) for one in found["cohorts"]] == days
    assert [datetime.fromisoformat(one["until"]) for one in found["cohorts"]] == [*days[1:], FIRST + timedelta(days=6)]
    assert [one["users"] for one in found["cohorts"]] == [2 * USERS] * 6
    assert sum(one["users"] for one in found["cohorts"]) == answer["metadata"]["total_users"]
    assert all(one["srm"]["observed"] == {"v0": USERS, "v1": USERS} for one in found["cohorts"])
    effects = [one["comparisons"][0]["difference"] for one in found["cohorts"]]
    assert effects == pytest.approx([(t - c) / USERS for c, t in zip(CONTROL, NOVELTY, strict=True)])
    assert found["family"]["tested"] == 6
    one = _of_rate(novel, found)
    assert (one["parts"], one["left_out"], one["df"]) == (6, 0, 5)
    assert one["p_value"] < 0.001
    assert one["p_value_holm"] == one["p_value"]
    assert one["i_squared_percent"] > 50
    assert found["homogeneity"][1]["null_reason"] == "NO_TEST"
    assert found["poststratified"][0]["strata"] == 6


def test_cohorts__of_a_steady_effect__do_not_differ(steady: Told) -> None:
    found = steady.ask(cohorts="day")["cohorts"]

    one = _of_rate(steady, found)
    assert one["p_value"] > 0.5
    assert one["i_squared_percent"] == 0
    assert found["poststratified"][0]["p_value"] < 0.001


def test_cohorts__from_every_source__are_the_same(novel: Told) -> None:
    metrics = [novel.metric, *novel.others, "value_per_user", "p95_value"]
    answers = {source: novel.ask(source, cohorts="day", metrics=metrics) for source in ("hot", "cold", "auto")}

    assert [answer["metadata"]["source"] for answer in answers.values()] == ["hot", "cold", "both"]
    assert answers["cold"]["cohorts"] == answers["hot"]["cohorts"]
    assert answers["auto"]["cohorts"] == answers["hot"]["cohorts"]
    tested = [one["metric"] for one in answers["hot"]["cohorts"]["homogeneity"] if one["p_value"] is not None]
    assert tested == [novel.metric, *novel.others, "value_per_user"]


def test_cohorts__of_weeks__begin_on_mondays_and_hold_all_users(novel: Told) -> None:
    found = novel.ask(cohorts="week")["cohorts"]["cohorts"]

    beginnings = [datetime.fromisoformat(one["since"]) for one in found]
    assert {moment.weekday() for moment in beginnings} == {0}
    assert sum(one["users"] for one in found) == 12 * USERS
    assert all(
        datetime.fromisoformat(one["until"]) - since == timedelta(days=7)
        for one, since in zip(found, beginnings, strict=True)
    )


def test_cohorts__end_within_a_day__keep_those_who_came_before(novel: Told) -> None:
    end = FIRST + timedelta(days=1, hours=12)

    found = novel.ask(cohorts="day", end_date=end.isoformat())["cohorts"]["cohorts"]

    assert [one["users"] for one in found] == [2 * USERS, USERS]


def test_cohorts__fewer_users_than_the_least_sample__are_left_out_of_the_test(novel: Told) -> None:
    one = _of_rate(novel, novel.ask(cohorts="day", min_sample=61)["cohorts"])

    assert (one["parts"], one["left_out"], one["null_reason"]) == (0, 6, "TOO_FEW_GROUPS")
    assert one["left_out_parts"] == [0, 1, 2, 3, 4, 5]
    assert "min_sample" in one["notes"][0]


def test_cohorts__explained__are_counted_by_the_pasted_query(novel: Told, service: ServiceProcess) -> None:
    body = {"metrics": [novel.metric], "cohorts": "day", "source": "hot"}
    explained = novel.client.post(f"/experiments/{novel.key}/query/explain", json=body).json()

    (query,) = [one for one in explained["postgresql"]["queries"] if one["by_segment"] and one["part"] == "observed"]
    rows = pasted(shared_stores(service)["DATABASE_URL"], query["sql"])
    begins = {
        row["variant_id"]: datetime.fromtimestamp(int(row["bucket_us"]) / 1e6, UTC)
        for row in rows
        if row["kind"] == "cohort"
    }
    users: dict[datetime, int] = {}
    for row in rows:
        if row["kind"] == "entry":
            since = begins[str(int(row["variant_id"]) % PLACES)]
            users[since] = users.get(since, 0) + int(row["users"])
    assert users == {FIRST + timedelta(days=number): 2 * USERS for number in range(6)}
    assert any("`cohort`" in note for note in explained["notes"])


def test_cohorts__in_the_report__have_a_picture_and_the_test(novel: Told) -> None:
    shown = novel.client.get(f"/experiments/{novel.key}/report", params={"cohorts": "day", "metrics": novel.metric})

    assert shown.status_code == 200, shown.text
    assert "By the day of exposure" in shown.text
    assert f"Effect by day of exposure: {novel.metric}" in shown.text
    assert "Is the effect the same in all parts?" in shown.text
    assert f"{FIRST:%Y-%m-%d}" in shown.text


def test_cohorts__exported__are_in_json_and_have_no_place_in_a_table(novel: Told) -> None:
    path = f"/experiments/{novel.key}/export"
    question: Json = {"of": "results", "cohorts": "day", "metrics": novel.metric}

    exported = novel.client.get(path, params=question | {"format": "json"})
    refused = novel.client.get(path, params=question | {"format": "csv"})

    assert len(exported.json()["cohorts"]["cohorts"]) == 6
    assert "format=json" in expect_problem(refused, 422, field="cohorts")["detail"]


def test_cohorts__kept_answer__has_them_again(novel: Told) -> None:
    answer = novel.ask(cohorts="day")

    path = f"/experiments/{novel.key}/results/{answer['provenance']['answer_id']}"
    assert novel.client.get(path).json()["cohorts"] == answer["cohorts"]


def test_breakdown__of_the_same_users__has_the_test_as_well(novel: Told) -> None:
    found = novel.ask(breakdown="country")["breakdown"]

    assert [segment["value"] for segment in found["segments"]] == [None]
    assert _of_rate(novel, found)["null_reason"] == "TOO_FEW_GROUPS"


@pytest.mark.parametrize(
    ("question", "says"),
    [({"cohorts": "month"}, "day"), ({"cohorts": "day", "breakdown": "country"}, "leave out cohorts or breakdown")],
)
def test_cohorts__question_that_makes_no_sense__is_refused_with_the_way_out(
    steady: Told, question: Json, says: str
) -> None:
    asked = steady.client.get(f"/experiments/{steady.key}/results", params=question)
    explained = steady.client.post(f"/experiments/{steady.key}/query/explain", json=question)

    for response in (asked, explained):
        problem = expect_problem(response, 422, field="cohorts")
        assert any(says in error["detail"] for error in problem["errors"])
