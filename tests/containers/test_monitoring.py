"""Prometheus with the mounted configuration, and dashboards and alerts that ask for what the service tells."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.core.metrics import Metrics
from tests.containers.programs import ROOT, Json, await_success, free_port, mounted, require, running
from tests.factories import event_body, make_experiment
from tests.service_process import TOKEN, ServiceProcess, running_service, wait_until

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(300)]

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
ALERTS = DEPLOY / "prometheus" / "alerts.yml"

METRICS_TOKEN = "the-metrics-token"
# The contract names these three.
TITLES = {"API performance", "Business metrics", "System health"}
# Prometheus itself makes this one.
OF_PROMETHEUS = {"up"}
OF_TARGETS = {"job", "instance"}
FUNCTIONS = {
    *("sum", "min", "max", "count", "topk", "by", "rate", "increase", "histogram_quantile", "vector"),
    *("time", "or", "and"),
}
_HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
# Grafana fills this in; any range does for a check.
_INTERVAL = ("$__rate_interval", "1m")
_GRID_COLUMNS = 24


def dashboards() -> dict[str, Json]:
    return {path.stem: json.loads(path.read_text()) for path in DASHBOARDS}


def queries() -> dict[str, str]:
    """Return every expression of dashboards and alerts, by where it stands."""
    found = {
        f"{name}: {panel['title']}: {target['refId']}": target["expr"].replace(*_INTERVAL)
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return found | {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def labels_by_series() -> dict[str, set[str]]:
    """Return each series' name with the labels that the service gives it."""
    found: dict[str, set[str]] = {}
    for collector in Metrics().registry._collector_to_names:
        labels = set(getattr(collector, "_labelnames", ()))
        (family,) = collector.collect()
        names = [family.name, f"{family.name}_total"] if family.type == "counter" else [family.name]
        if family.type == "histogram":
            names += [f"{family.name}{part}" for part in _HISTOGRAM_PARTS]
        found |= {name: labels | ({"le"} if name.endswith("_bucket") else set()) for name in names}
    return found


def names_in(expression: str) -> set[str]:
    """Return whatever is neither a function nor within quotes, braces or a grouping."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)', " ", expression)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - FUNCTIONS


def labels_in(expression: str) -> set[str]:
    """Return the labels by which the expression selects and groups."""
    selected = re.findall(r"(\w+)\s*[=!]~?", " ".join(re.findall(r"\{([^}]*)\}", re.sub(r'"[^"]*"', '""', expression))))
    grouped = re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression)))
    return {*selected, *grouped}


def test_queries__of_dashboards_and_alerts__name_metrics_and_labels_that_the_service_has() -> None:
    known = labels_by_series()

    for where, expression in queries().items():
        names = names_in(expression)
        assert names, where
        assert names <= known.keys() | OF_PROMETHEUS, where
        assert labels_in(expression) <= OF_TARGETS.union(*(known.get(name, set()) for name in names)), where


def test_names_and_labels__of_any_query__are_found() -> None:
    query = 'sum by (le, route) (rate(a_bucket{status=~"5..", route!="b{c=d}"}[5m])) / vector(1) > 0'

    assert (names_in(query), labels_in(query)) == ({"a_bucket"}, {"le", "route", "status"})


def test_dashboards__of_the_contract__are_there_with_data_sources_that_exist() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]

    assert {dashboard["title"] for dashboard in dashboards().values()} == TITLES
    for name, dashboard in dashboards().items():
        assert dashboard["uid"] == name
        used = [panel["datasource"] for panel in dashboard["panels"]]
        used += [target["datasource"] for panel in dashboard["panels"] for target in panel["targets"]]
        assert {(source["type"], source["uid"]) for source in used} == {(one["type"], one["uid"]) for one in sources}


def test_dashboards__their_panels__say_what_they_show_and_do_not_overlap() -> None:
    for dashboard in dashboards().values():
        taken: set[tuple[int, int]] = set()
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in dashboard["panels"]:
            assert panel["title"]
            assert panel["description"]
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert taken.isdisjoint(cells), panel["title"]
            assert max(x for x, _ in cells) < _GRID_COLUMNS
            taken |= cells


def test_provisioning__of_grafana__looks_where_compose_mounts_the_dashboards(services: dict[str, Json]) -> None:
    providers = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/dashboards.yml").read_text())["providers"]
    grafana = services["grafana"]

    assert [mounted(grafana, provider["options"]["path"]) for provider in providers] == [DEPLOY / "grafana/dashboards"]
    assert mounted(grafana, "/etc/grafana/provisioning") == DEPLOY / "grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted(grafana, str(home.parent)) / home.name).exists()


def test_alerts__in_made_up_days__go_off_when_they_should() -> None:
    promtool = require("promtool", "prometheus")

    done = subprocess.run(
        [promtool, "test", "rules", Path(__file__).with_name("alerts.test.yml")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load(Path(__file__).with_name("alerts.test.yml").read_text())["tests"]
    quiet = {test["alertname"] for test in tested[0]["alert_rule_test"]}
    assert quiet == {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}


def test_alerts__each__says_what_is_wrong_and_how_bad() -> None:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service whose metrics want a token, with a little traffic behind it."""
    folder = tmp_path_factory.mktemp("watched")
    with running_service(folder / "data", METRICS_TOKEN=METRICS_TOKEN) as service:
        with httpx.Client(
            base_url=f"{service.url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
        ) as client:
            experiment = make_experiment(client)
            client.get(f"/experiments/{experiment['key']}/assignment/user-1").raise_for_status()
            client.post("/events", json=event_body(user_id="user-1")).raise_for_status()
            client.get(f"/experiments/{experiment['key']}/results").raise_for_status()
        yield service


@pytest.fixture(scope="module")
def prometheus(
    services: dict[str, Json], watched: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """Prometheus with what compose mounts; the API's address is the running service's, and time runs faster."""
    require("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    service, port = services["prometheus"], free_port()
    (secret,) = service["secrets"]
    token_file = folder / "token"
    token_file.write_text(METRICS_TOKEN)
    changes = {
        "api:8000": watched.url.removeprefix("http://"),
        "localhost:9090": f"127.0.0.1:{port}",
        secret["target"]: str(token_file),
        "_interval: 10s": "_interval: 1s",
    }
    text = mounted(service, "/etc/prometheus/prometheus.yml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    (folder / "alerts.yml").write_text(mounted(service, "/etc/prometheus/alerts.yml").read_text())
    places = {"/etc/prometheus/prometheus.yml": folder / "prometheus.yml", "=/prometheus": f"={folder / 'data'}"}
    arguments = list(service["command"])
    for old, path in places.items():
        arguments = [argument.replace(old, str(path)) for argument in arguments]
    command = ["prometheus", *arguments, f"--web.listen-address=127.0.0.1:{port}"]
    check = [sys.executable, "-c", f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/-/ready')"]
    environment = {"PATH": os.environ["PATH"]}
    with running(command, log=folder / "log", environment=environment) as process:
        await_success(check, environment, process)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1") as client:
            yield client


def ask(prometheus: httpx.Client, path: str, **parameters: str) -> Any:
    answer = prometheus.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_prometheus__with_the_mounted_configuration__scrapes_the_service_by_its_token(prometheus: httpx.Client) -> None:
    def api_is_up() -> bool:
        return any(sample["value"][1] == "1" for sample in ask(prometheus, "/query", query='up{job="api"}')["result"])

    wait_until(api_is_up, "the service is scraped", within_s=20)

    targets = ask(prometheus, "/targets")["activeTargets"]
    assert {target["labels"]["job"] for target in targets} == {"api", "loader", "clickhouse", "prometheus"}


def test_prometheus__with_the_mounted_rules__evaluates_each_alert(prometheus: httpx.Client) -> None:
    def rules() -> list[Json]:
        return [rule for group in ask(prometheus, "/rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "rules are evaluated", within_s=20)

    assert {rule["health"] for rule in rules()} == {"ok"}


def test_queries__of_dashboards_and_alerts__are_answered_by_prometheus(prometheus: httpx.Client) -> None:
    for expression in queries().values():
        ask(prometheus, "/query", query=expression)


def test_metrics__of_a_running_service__are_all_those_that_it_declares(watched: ServiceProcess) -> None:
    with httpx.Client(headers={"Authorization": f"Bearer {METRICS_TOKEN}"}) as client:
        text = client.get(f"{watched.url}/metrics").raise_for_status().text

    families = {family.name for family in text_string_to_metric_families(text)}
    assert families >= {family.name for family in Metrics().registry.collect()}
