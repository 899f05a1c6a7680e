"""The report: over HTTP, and in a real browser that has no way to the internet."""

import base64
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.test_docs_page import RENDER_WITHIN_S, Page, browser, open_page
from tests.factories import Json, ask_many, expect_problem, make_experiment, unique, variant_bodies
from tests.service_process import TOKEN, ServiceProcess, wait_until

_HOSTILE = (
    """</title></style></script><script>alert(1)</script><img src=x onerror="alert(2)">'"&<svg/onload=alert(3)>"""
)
# Texts that reach out of their picture, and pairs of texts of one picture that lie upon each other.
_MISPLACED = """
[...document.querySelectorAll('svg')].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
  const out = texts.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1
    || b.top < frame.top - 1 || b.bottom > frame.bottom + 1).map(([text]) => 'outside: ' + text);
  const over = texts.flatMap(([a, p], i) => texts.slice(i + 1).filter(([, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
    && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3).map(([b]) => a + ' upon ' + b));
  return [...out, ...over];
})
"""
_TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
_A4_INCHES = {"paperWidth": 8.27, "paperHeight": 11.69}


@pytest.fixture(scope="module")
def sold(client: httpx.Client) -> Json:
    """An experiment with a sealed plan, names that are markup, users and purchases."""
    key = unique("orders")
    metric = {"key": key, "name": _HOSTILE[:200], "kind": "count", "event_type": "purchase", "unit": '<b>"x"'}
    created = client.post("/metrics", json=metric)
    assert created.status_code == 201, created.text
    plan = {
        "hypothesis": _HOSTILE,
        "sample_size": 1000,
        "stopping_rule": "always_valid",
        "metrics": [
            {"metric": "conversion_rate", "role": "primary"},
            {"metric": "value_per_user", "role": "guardrail", "margin": 0.1},
            {"metric": key, "role": "secondary"},
        ],
    }
    variants = [{**variant, "name": _HOSTILE} for variant in variant_bodies(34, 33, 33)]
    experiment = make_experiment(client, name=_HOSTILE, description=_HOSTILE, variants=variants, plan=plan)
    users = [unique("user") for _ in range(300)]
    assigned = ask_many(client, experiment, users)
    events = [
        {"user_id": one["user_id"], "event_type": "purchase", "value": 10 + index % 7}
        for index, one in enumerate(assigned)
        if index % (3 if one["variant"]["key"] == "v0" else 2) == 0
    ]
    assert client.post("/events/batch", json={"events": events}).json()["rejected"] == 0
    return experiment


def _report(client: httpx.Client, experiment: Json, **query: Any) -> httpx.Response:
    return client.get(f"/experiments/{experiment['key']}/report", params={"source": "hot", **query})


def test_report__over_http__is_a_page_that_may_load_nothing(client: httpx.Client, sold: Json) -> None:
    response = _report(client, sold, metrics=["conversion_rate", "value_per_user"])

    assert response.status_code == 200, response.text
    headers = response.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert headers["content-disposition"] == f'inline; filename="{sold["key"]}-report.html"'
    html = response.text
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "Verified: the plan is as it was sealed" in html


def test_report__its_answer__is_kept_and_is_the_one_shown(client: httpx.Client, sold: Json) -> None:
    html = _report(client, sold, metrics="value_per_user", min_sample=7, fresh=True).text
    path = re.search(r"GET /api/v1(/experiments/\S+/results/[0-9a-f-]{36})", html)
    assert path is not None
    answer = client.get(path[1]).json()
    assert answer["metadata"]["min_sample"] == 7
    assert answer["provenance"]["query_hash"] in html
    assert answer["summary"]["decision"]["reasons"][0]["code"] in html


def test_report__wrong_questions__are_refused_as_those_of_results(client: httpx.Client, sold: Json) -> None:
    expect_problem(_report(client, sold, granularity="week"), 422, field="granularity")
    expect_problem(_report(client, sold, form="pdf"), 422, field="form")
    expect_problem(_report(client, sold, compare="v0:v9"), 422, field="compare")
    expect_problem(client.get("/experiments/no-such-experiment/report"), 404)


def test_report__draft_without_users__is_a_page_all_the_same(client: httpx.Client) -> None:
    response = _report(client, make_experiment(client, state="draft"))
    assert response.status_code == 200, response.text
    assert "Nobody has been exposed yet" in response.text
    assert "Not sealed" in response.text


def _open(page: Page, service: ServiceProcess, path: str) -> None:
    page.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {TOKEN}"})
    page.call("Page.navigate", url=f"{service.url}/api/v1{path}")
    wait_until(
        lambda: page.evaluate("document.querySelectorAll('dt').length") > 0,
        "the report is shown",
        within_s=RENDER_WITHIN_S,
    )


@pytest.mark.xdist_group("heavy")
@pytest.mark.timeout(120)
def test_report__in_a_browser__asks_for_nothing_else_and_can_be_printed(
    service: ServiceProcess, sold: Json, tmp_path: Path
) -> None:
    path = browser()
    query = "metrics=conversion_rate&metrics=value_per_user&metrics=avg_value&source=hot&compare=v2:v1"
    with open_page(path, tmp_path / "profile") as page:
        page.call("Emulation.setDeviceMetricsOverride", width=1000, height=1400, deviceScaleFactor=1, mobile=False)
        _open(page, service, f"/experiments/{sold['key']}/report?{query}")
        text = page.evaluate("document.body.innerText")
        misplaced = page.evaluate(_MISPLACED)
        too_wide = page.evaluate(_TOO_WIDE)
        printed = base64.b64decode(page.call("Page.printToPDF", **_A4_INCHES, printBackground=True)["data"])
        picture = base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
        page.call("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=True)
        too_wide_for_phones = page.evaluate(_TOO_WIDE)

    assert _HOSTILE in text
    for said in ("Plan", "Users", "Results", "Effect over time", "What to believe after the data", "Words"):
        assert said in text
    assert misplaced == []
    assert too_wide <= 0
    assert too_wide_for_phones <= 0
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 4
    assert picture.startswith(b"\x89PNG")
    requested = [event["request"]["url"] for event in page.heard("Network.requestWillBeSent")]
    assert requested == [f"{service.url}/api/v1/experiments/{sold['key']}/report?{query}"]
    assert page.heard("Page.javascriptDialogOpening") == []
    assert page.heard("Runtime.exceptionThrown") == []
    assert [event for event in page.heard("Log.entryAdded") if event["entry"]["level"] == "error"] == []
