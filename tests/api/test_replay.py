"""A real randomised experiment, replayed through the HTTP API alone, must give the published numbers.

The National Supported Work demonstration: R. Dehejia, S. Wahba, "Causal Effects in Nonexperimental Studies",
JASA 94 (1999). 445 men, 185 of them treated; earnings in 1975, before, and in 1978, after.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate, stats

from tests.service_process import ServiceProcess, experiment_body, wait_for_history

pytestmark = [pytest.mark.xdist_group("heavy"), pytest.mark.timeout(120)]

DATA = Path(__file__).parents[1] / "fixtures" / "nsw.csv"
AS_RANDOMISED, AS_IF_EVEN = "nsw-as-randomised", "nsw-as-if-even"
EARNED, EMPLOYED = "earned", "employed"
SOURCES = ["hot", "cold", "auto"]
ADJUSTED, UPPER_QUARTILE = "nsw-earned-by-earlier-earnings", "nsw-earned-upper-quartile"
METRICS = (
    {"key": ADJUSTED, "kind": "sum", "event_type": EARNED, "covariate_days": 365, "unit": "USD"},
    {"key": UPPER_QUARTILE, "kind": "quantile", "event_type": EARNED, "quantile": 0.75, "unit": "USD"},
)

# Computed from the file with scipy and statsmodels; the paper prints the difference as 1,794.
MEAN_TREATED, MEAN_CONTROL = 6349.1435, 4554.8011
DIFFERENCE, DIFFERENCE_INTERVAL = 1794.3424, (474.0105, 3114.6743)
WELCH_T, WELCH_DF, P_VALUE = 2.674145, 307.1325, 0.007892978
TREATED, CONTROL = 185, 260
TREATED_EMPLOYED, CONTROL_EMPLOYED = 140, 168


@dataclass(frozen=True, slots=True)
class Man:
    user_id: str
    variant: str
    earned_before: float
    earned_after: float


@pytest.fixture(scope="module")
def men() -> list[Man]:
    with DATA.open(encoding="utf-8", newline="") as file:
        return [
            Man(
                f"man-{number}",
                "treatment" if float(row["treat"]) else "control",
                float(row["re75"]),
                float(row["re78"]),
            )
            for number, row in enumerate(csv.DictReader(file))
        ]


@pytest.fixture(scope="module")
def replayed(service: ServiceProcess, men: list[Man]) -> Iterator[httpx.Client]:
    """A client of a service that holds both experiments, in PostgreSQL and in ClickHouse."""
    with service.client() as client:
        replay(client, men)
        wait_for_history(client, AS_IF_EVEN)
        yield client


def replay(client: httpx.Client, men: list[Man]) -> None:
    assigned_at = datetime.now(UTC) - timedelta(days=365)
    before, after = assigned_at - timedelta(days=300), assigned_at + timedelta(days=300)
    for metric in METRICS:
        client.post("/api/v1/metrics", json=metric).raise_for_status()
    imported = [{"user_id": man.user_id, "variant": man.variant, "assigned_at": assigned_at.isoformat()} for man in men]
    for key, shares in ((AS_RANDOMISED, (58.43, 41.57)), (AS_IF_EVEN, (50, 50))):
        client.post("/api/v1/experiments", json=experiment_body(key, *shares)).raise_for_status()
        answer = client.post(f"/api/v1/experiments/{key}/assignments/import", json={"assignments": imported})
        assert answer.raise_for_status().json()["accepted"] == len(men)
    for events in (
        [event(man, EARNED, before, man.earned_before) for man in men],
        [event(man, EARNED, after, man.earned_after) for man in men],
        [event(man, EMPLOYED, after) for man in men if man.earned_after > 0],
    ):
        answer = client.post("/api/v1/events/batch", json={"events": events})
        assert answer.raise_for_status().json()["accepted"] == len(events)


def event(man: Man, event_type: str, moment: datetime, value: float | None = None) -> dict[str, Any]:
    return {"user_id": man.user_id, "event_type": event_type, "timestamp": moment.isoformat(), "value": value}


def results(
    client: httpx.Client, experiment: str, source: str, event_type: str, *metrics: str, **question: Any
) -> dict[str, Any]:
    answer = client.get(
        f"/api/v1/experiments/{experiment}/results",
        params={"event_type": event_type, "metrics": metrics, "source": source, "fresh": True, **question},
    )
    body: dict[str, Any] = answer.raise_for_status().json()
    return body


def metric_of(answer: dict[str, Any], variant: str, metric: str) -> dict[str, Any]:
    found: dict[str, Any] = next(arm["metrics"][metric] for arm in answer["variants"] if arm["key"] == variant)
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_results__replayed_experiment__has_the_published_earnings(replayed: httpx.Client, source: str) -> None:
    answer = results(replayed, AS_RANDOMISED, source, EARNED, "value_per_user", "event_count")

    treated, control = (metric_of(answer, key, "value_per_user") for key in ("treatment", "control"))
    assert (treated["sample_size"], control["sample_size"]) == (TREATED, CONTROL)
    assert treated["value"] == pytest.approx(MEAN_TREATED, abs=5e-5)
    assert control["value"] == pytest.approx(MEAN_CONTROL, abs=5e-5)
    comparison = next(item for item in answer["comparisons"] if item["metric"] == "value_per_user")
    assert comparison["method"] == "welch_t"
    assert comparison["difference"] == pytest.approx(DIFFERENCE, abs=5e-5)
    assert comparison["statistic"] == pytest.approx(WELCH_T, abs=5e-7)
    assert comparison["df"] == pytest.approx(WELCH_DF, abs=5e-5)
    assert comparison["p_value"] == pytest.approx(P_VALUE, abs=5e-10)
    interval = comparison["difference_ci_lower"], comparison["difference_ci_upper"]
    assert interval == pytest.approx(DIFFERENCE_INTERVAL, abs=5e-5)
    # Earnings of 1975 lie before the assignment: one event of each man counts, not two.
    assert metric_of(answer, "treatment", "event_count")["value"] == TREATED
    assert metric_of(answer, "control", "event_count")["value"] == CONTROL
    assert answer["summary"]["winning_variant"] == "treatment"
    assert answer["metadata"]["total_users"] == TREATED + CONTROL


@pytest.mark.parametrize("source", SOURCES)
def test_results__replayed_experiment__has_the_published_employment(replayed: httpx.Client, source: str) -> None:
    answer = results(replayed, AS_RANDOMISED, source, EMPLOYED, "conversion_rate", "unique_users")

    assert metric_of(answer, "treatment", "unique_users")["value"] == TREATED_EMPLOYED
    assert metric_of(answer, "control", "unique_users")["value"] == CONTROL_EMPLOYED
    assert metric_of(answer, "treatment", "conversion_rate")["value"] == pytest.approx(TREATED_EMPLOYED / TREATED)
    assert metric_of(answer, "control", "conversion_rate")["value"] == pytest.approx(CONTROL_EMPLOYED / CONTROL)


@pytest.mark.parametrize("source", SOURCES)
def test_results__sample_ratio__is_flagged_against_an_even_plan_only(replayed: httpx.Client, source: str) -> None:
    as_randomised = results(replayed, AS_RANDOMISED, source, EARNED, "value_per_user")
    as_if_even = results(replayed, AS_IF_EVEN, source, EARNED, "value_per_user")

    assert as_randomised["srm"]["observed"] == {"control": CONTROL, "treatment": TREATED}
    assert as_randomised["srm"]["mismatch"] is False
    assert as_randomised["srm"]["p_value"] > 0.9
    assert as_if_even["srm"]["mismatch"] is True
    assert as_if_even["srm"]["p_value"] < 0.001
    assert as_if_even["summary"]["winning_variant"] is None


def test_results__any_source__says_the_same(replayed: httpx.Client) -> None:
    metrics = ("conversion_rate", "unique_users", "event_count", "avg_value", "value_per_user", "p95_value")
    answers = [results(replayed, AS_RANDOMISED, source, EARNED, *metrics) for source in SOURCES]

    assert [answer.pop("metadata")["source"] for answer in answers] == ["hot", "cold", "both"]
    counted = [answer.pop("provenance")["events_counted"] for answer in answers]
    assert counted[0] == counted[1] == counted[2]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("source", SOURCES)
def test_results__earlier_earnings_as_covariate__are_taken_out_as_a_regression_does(
    replayed: httpx.Client, men: list[Man], source: str
) -> None:
    before, after = (np.array([getattr(man, name) for man in men]) for name in ("earned_before", "earned_after"))
    treated = np.array([man.variant == "treatment" for man in men])
    slope = sm.OLS(after, sm.add_constant(before)).fit().params[1]
    left = after - slope * before
    test = stats.ttest_ind(left[treated], left[~treated], equal_var=False)
    interval = test.confidence_interval(0.95)
    variances = [sum(values[arm].var(ddof=1) / arm.sum() for arm in (treated, ~treated)) for values in (left, after)]

    by_key = comparison(results(replayed, AS_RANDOMISED, source, EARNED, ADJUSTED))
    by_name = comparison(results(replayed, AS_RANDOMISED, source, EARNED, "value_per_user", cuped_days=365))

    found = by_key["cuped"]
    assert (found["theta"], found["p_value"]) == pytest.approx((slope, test.pvalue))
    assert found["difference"] == pytest.approx(left[treated].mean() - left[~treated].mean())
    assert (found["difference_ci_lower"], found["difference_ci_upper"]) == pytest.approx(tuple(interval))
    assert found["variance_reduction_percent"] == pytest.approx(100 * (1 - variances[0] / variances[1]))
    assert found["variance_reduction_percent"] > 0
    assert by_name["cuped"] == found
    assert by_key["p_value"] == pytest.approx(P_VALUE, abs=5e-10)
    # With a flat prior the belief is the normal likelihood of the difference.
    error = math.sqrt(variances[1])
    assert by_key["bayes"]["prob_better"] == pytest.approx(stats.norm.cdf(DIFFERENCE / error), abs=1e-6)
    credible = (by_key["bayes"]["credible_lower"], by_key["bayes"]["credible_upper"])
    assert credible == pytest.approx(stats.norm.interval(0.95, DIFFERENCE, error), abs=1e-3)


@pytest.mark.parametrize("source", SOURCES)
def test_results__upper_quartile_of_earnings__has_the_interval_of_order_statistics(
    replayed: httpx.Client, men: list[Man], source: str
) -> None:
    answer = results(replayed, AS_RANDOMISED, source, EARNED, UPPER_QUARTILE)

    for variant in ("treatment", "control"):
        earned = np.array([man.earned_after for man in men if man.variant == variant])
        found = metric_of(answer, variant, UPPER_QUARTILE)
        exact: Any = stats.quantile_test(earned, q=0, p=0.75).confidence_interval(0.95)
        assert found["value"] == pytest.approx(np.quantile(earned, 0.75))
        assert (found["ci_lower"], found["ci_upper"]) == (exact.low, exact.high)
    assert comparison(answer)["method"] == "quantile_z"


@pytest.mark.parametrize("source", SOURCES)
def test_results__employment__is_believed_better_as_the_beta_posteriors_say(
    replayed: httpx.Client, source: str
) -> None:
    treated = stats.beta(1 + TREATED_EMPLOYED, 1 + TREATED - TREATED_EMPLOYED)
    control = stats.beta(1 + CONTROL_EMPLOYED, 1 + CONTROL - CONTROL_EMPLOYED)
    expected, _ = integrate.quad(lambda rate: treated.pdf(rate) * control.cdf(rate), 0, 1, epsabs=1e-12)

    found = comparison(results(replayed, AS_RANDOMISED, source, EMPLOYED, "conversion_rate"))

    assert found["bayes"]["prob_better"] == pytest.approx(expected, abs=1e-8)


def comparison(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the one comparison of an answer."""
    (found,) = answer["comparisons"]
    return dict(found)
