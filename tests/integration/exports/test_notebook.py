"""The notebook recomputes what the service answers, from a running service and from downloaded files."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from tests.factories import Json, make_experiment, unique, user_path
from tests.service_process import ROOT, TOKEN, ServiceProcess

_NOTEBOOK = ROOT / "notebooks" / "recompute_results.ipynb"
_T0 = datetime(2026, 3, 1, tzinfo=UTC)
_QUERY = (
    "event_type=buy&metrics=conversion_rate&metrics=value_per_user&metrics=avg_value&metrics=unique_users"
    "&metrics=event_count&metrics=p95_value&confidence_level=90&start_date=2026-03-01&end_date=2026-03-20"
    "&compare=v2:v1&compare=v0:v2"
)
_BUILT_IN = "metrics=conversion_rate&metrics=value_per_user&metrics=avg_value&metrics=event_count&compare=v1:v2"


@pytest.fixture(scope="module")
def shop(client: httpx.Client) -> Json:
    """An experiment of three arms with purchases, some late, some before the exposure, and an override."""
    experiment = make_experiment(client, 40, 30, 30)
    dice = random.Random(5)
    users = [(unique("user"), f"v{dice.choice((0, 0, 1, 1, 2))}") for _ in range(900)]
    items = [
        {"user_id": user, "variant": variant, "assigned_at": (_T0 + timedelta(hours=index % 90)).isoformat()}
        for index, (user, variant) in enumerate(users)
    ]
    imported = client.post(f"/experiments/{experiment['id']}/assignments/import", json={"assignments": items})
    assert imported.json()["accepted"] == len(items)
    events = [
        {
            "user_id": user,
            "event_type": dice.choice(("buy", "buy", "view")),
            "timestamp": (_T0 + timedelta(hours=dice.uniform(-20, 400))).isoformat(),
            **({"value": round(dice.lognormvariate(3, 1), 2)} if dice.random() < 0.8 else {}),
        }
        for user, variant in users
        for _ in range(dice.choice((0, 1, 2 + int(variant[1]))))
    ]
    for start in range(0, len(events), 1000):
        sent = client.post("/events/batch", json={"events": events[start : start + 1000]})
        assert sent.json()["rejected"] == 0, sent.text
    path = f"/experiments/{experiment['id']}/overrides/{user_path(users[0][0])}"
    assert client.put(path, json={"variant": "v1"}).status_code == 200
    return experiment


def test_notebook__run_against_a_service__agrees_in_every_number(service: ServiceProcess, shop: Json) -> None:
    said = _run(
        EXPERIMENT=shop["key"],
        EXPERIMENT_API=f"{service.url}/api/v1",
        EXPERIMENT_TOKEN=TOKEN,
        EXPORT_QUERY=_QUERY,
    )
    # Three arms, six metrics with five numbers each, four comparisons of each metric with ten, and two of the split.
    assert f"{3 * 6 * 5 + 4 * 6 * 10 + 2} numbers agree" in said
    assert "Not recomputed" not in said


@pytest.fixture(scope="module")
def planned(client: httpx.Client) -> Json:
    """An experiment with a stored metric and a percentile in its plan, and a third arm that nobody is in."""
    stored = client.post("/metrics", json={"key": unique("revenue"), "kind": "sum", "event_type": "buy"})
    assert stored.status_code == 201, stored.text
    keys = {stored.json()["key"]: "primary", "p95_value": "secondary"}
    plan = {"metrics": [{"metric": key, "role": role} for key, role in keys.items()]}
    experiment = make_experiment(client, 50, 49.99, 0.01, plan=plan)
    dice = random.Random(7)
    users = [(unique("user"), f"v{dice.choice((0, 1))}") for _ in range(300)]
    items = [{"user_id": user, "variant": variant, "assigned_at": _T0.isoformat()} for user, variant in users]
    imported = client.post(f"/experiments/{experiment['id']}/assignments/import", json={"assignments": items})
    assert imported.json()["accepted"] == len(items), imported.text
    events = [
        {
            "user_id": user,
            "event_type": "buy",
            "timestamp": _T0.isoformat(),
            "value": round(dice.lognormvariate(3, 1), 2),
        }
        for user, _ in users
        for _ in range(dice.choice((0, 1, 2)))
    ]
    for number in range(30):
        user = unique("shopper")
        body = {"experiment": experiment["key"], "user_id": user, "context": {"shop": "ab"[number % 2], "floor": 1}}
        assert client.post("/assignments", json=body).status_code == 200
        events += [{"user_id": user, "event_type": "buy", "value": 1 + number / 7}] * (number % 3)
    assert client.post("/events/batch", json={"events": events}).json()["rejected"] == 0
    return {**experiment, "stored": stored.json()["key"]}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "metrics=p95_value&metrics=value_per_user&metrics=avg_value&metrics=event_count&compare=v1:v2&compare=v2:v1",
        "metrics=conversion_rate&metrics=value_per_user&context.shop=a&context.floor=1&include_ci=false",
        f"{_BUILT_IN}&event_type=nothing",
        f"{_BUILT_IN}&end_date=2026-02-01",
    ],
    ids=["as-planned", "pairs", "by-context", "no-events", "nobody"],
)
def test_notebook__what_it_does_not_know__is_named_and_the_rest_agrees(
    service: ServiceProcess, planned: Json, query: str
) -> None:
    said = _run(
        EXPERIMENT=planned["key"],
        EXPERIMENT_API=f"{service.url}/api/v1",
        EXPERIMENT_TOKEN=TOKEN,
        EXPORT_QUERY=query,
    )
    assert "numbers agree" in said
    if not query:
        assert f"{planned['stored']} (a stored metric)" in said
    if "p95_value" in query or not query:
        assert "p95_value ci_lower" in said
        assert "p95_value p_value" in said


def test_notebook__run_on_files_of_which_one_lacks_an_event__says_so(
    client: httpx.Client, shop: Json, tmp_path: Path
) -> None:
    for of, form, query in (("results", "json", _QUERY), ("assignments", "parquet", ""), ("events", "parquet", "")):
        answer = client.get(f"/experiments/{shop['key']}/export?of={of}&format={form}&{query}")
        assert answer.status_code == 200, answer.text
        (tmp_path / f"{shop['key']}-{of}.{form}").write_bytes(answer.content)

    with pytest.raises(CellExecutionError, match=r"here, .* from the service"):
        _run(EXPERIMENT=shop["key"], EXPORT_FOLDER=str(tmp_path))


def test_notebook__as_committed__holds_no_outputs() -> None:
    assert [cell for cell in _notebook().cells if cell.get("outputs") or cell.get("execution_count")] == []


def _run(**variables: str) -> str:
    """Execute the notebook and return what its last cell says."""
    notebook = _notebook()
    with _environment(variables), TemporaryDirectory() as folder:
        # Over sockets in a folder of its own: named after nothing else, two kernels at once would take the same ones.
        private = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(notebook, timeout=60, kernel_name="python3", config=private).execute()
    outputs = notebook.cells[-1].outputs
    return "".join(output.get("text", "") for output in outputs)


def _notebook() -> nbformat.NotebookNode:
    read: nbformat.NotebookNode = nbformat.read(_NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    return read


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The kernel is a process of its own, and takes over this one's environment."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
