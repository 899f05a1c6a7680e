"""The compose file: valid to Compose itself, safe by default, and naming only what is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from app.core import settings as settings_module
from app.workers import settings as worker_settings_module
from tests.containers.programs import COMPOSE_FILE, ROOT, Json

pytestmark = [pytest.mark.xdist_group("containers"), pytest.mark.timeout(400)]

OUR_IMAGE = "experimentation-platform:local"
ONE_SHOTS = {"migrate", "register-connector"}
# The contract's ports, and Kafka's listener for programs on this machine.
PORTS = {
    "api": 8000,
    "kafka-ui": 8080,
    "grafana": 3000,
    "prometheus": 9090,
    "clickhouse": 8123,
    "connect": 8083,
    "postgres": 5432,
    "valkey": 6379,
    "kafka": 29092,
}
REQUIRED_SECRETS = {
    "SECRET_KEY",
    "METRICS_TOKEN",
    "CLICKHOUSE_PASSWORD",
    "POSTGRES_PASSWORD",
    "DATABASE_PASSWORD",
    "CDC_DATABASE_PASSWORD",
    "VALKEY_PASSWORD",
    "GRAFANA_PASSWORD",
}
# What the images of others read. Source: their documentation and entry points. Kafka's and Connect's are compared
# with the files in debezium/ elsewhere.
KNOWN = {
    "postgres": r"POSTGRES_(USER|PASSWORD|DB|INITDB_ARGS)",
    "clickhouse": r"CLICKHOUSE_(DB|USER|PASSWORD)",
    "kafka": r"CLUSTER_ID|KAFKA_[A-Z_]+",
    "connect": r"BOOTSTRAP_SERVERS|ADVERTISED_HOST_NAME|GROUP_ID|(CONFIG|OFFSET|STATUS)_STORAGE_TOPIC"
    r"|(KEY|VALUE)_CONVERTER|HEAP_OPTS|CONNECT_[A-Z_]+",
    "kafka-ui": r"KAFKA_CLUSTERS_0_(NAME|BOOTSTRAPSERVERS|READONLY|KAFKACONNECT_0_(NAME|ADDRESS))|JAVA_OPTS",
    "grafana": r"GF_(SECURITY|USERS|ANALYTICS|DASHBOARDS)_[A-Z_]+",
    "valkey": r"(?!)",
}
WITHOUT_VARIABLES = {"prometheus"}

# What the stack itself decides: addresses, its own ClickHouse, production; and what nothing in it reads.
FIXED = {
    *("HOST", "PORT", "DATA_DIR", "DEBUG", "PROMETHEUS_ENABLED"),
    *("CLICKHOUSE_SECURE", "CLICKHOUSE_CA_FILE", "CLICKHOUSE_CLUSTER"),
    *("RELAY_BATCH_ROWS", "RELAY_IDLE_SECONDS", "ASSIGNMENT_BUCKET_SIZE"),
    *("CONNECT_URL", "CDC_DATABASE_HOST", "CDC_DATABASE_PORT", "CDC_DATABASE_NAME", "CDC_DATABASE_USER"),
    "CDC_DATABASE_PASSWORD",
}

_HOST_IN_URL = re.compile(r"(?:://(?:[^@/\s]*@)?|@)(?P<host>[a-z][a-z0-9-]*):\d+|^(?P<bare>[a-z][a-z-]*):\d+$")
_PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+[\w.-]*")


def names_of_settings() -> set[str]:
    """Return every variable that the service and its workers read."""
    names: set[str] = set()
    for module in (settings_module, worker_settings_module):
        for group in vars(module).values():
            if isinstance(group, type) and issubclass(group, settings_module._Group):
                fields = group.model_fields
                names |= {str(field.validation_alias or name).upper() for name, field in fields.items()}
    return names


def is_ours(service: Json) -> bool:
    return bool(service["image"] == OUR_IMAGE)


def test_compose_file__without_secrets__names_each_that_is_missing(compose_config: Path) -> None:
    done = subprocess.run(
        [compose_config, COMPOSE_FILE, ROOT / ".env.example"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert set(re.findall(r"required variable (\w+) is missing", done.stderr)) == REQUIRED_SECRETS


def test_make_env__every_secret__is_random_and_long_and_nobody_elses_to_read(env_file: Path) -> None:
    values = dict(line.split("=", 1) for line in env_file.read_text().splitlines() if "=" in line and line[0] != "#")

    secrets = [values[name] for name in REQUIRED_SECRETS]
    assert len(set(secrets)) == len(REQUIRED_SECRETS)
    # Letters and digits need no quoting in URLs, shells and SQL.
    assert all(re.fullmatch(r"[0-9a-z]{32,}", secret) for secret in secrets)
    assert env_file.stat().st_mode & 0o077 == 0


def test_make_env__a_file_that_is_there__stays_as_it_is(env_file: Path) -> None:
    before = env_file.read_bytes()

    again = subprocess.run([env_file.parent / "deploy" / "make_env.sh"], capture_output=True, text=True, check=False)

    assert again.returncode == 1
    assert "stays as it is" in again.stderr
    assert env_file.read_bytes() == before


def test_compose_file__as_text__holds_no_secret_and_no_default_for_one() -> None:
    text = COMPOSE_FILE.read_text()

    assert "version" not in yaml.safe_load(text)
    for name in REQUIRED_SECRETS:
        assert re.search(rf"\$\{{{name}:\?", text), name
    assert re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKEN)\w*(?!\w|:\?)[^}]*\}", text.replace("${env:", "")) == []
    # Whatever is called so has its value from .env, or is handed on as it is there.
    named = re.findall(r"^ +(\w*(?:PASSWORD|SECRET|TOKEN)\w*):[ \t]*(.*)$", text, re.MULTILINE)
    assert named
    assert [(name, value) for name, value in named if value and not value.startswith("${")] == []


def test_tags__everything_from_outside__is_pinned(services: dict[str, Json]) -> None:
    tags = {name: service["image"] for name, service in services.items() if not is_ours(service)}

    assert {name: tag for name, tag in tags.items() if not _PINNED.fullmatch(tag)} == {}


def test_base_image__of_our_own__is_pinned() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases[0])
    assert set(bases[1:]) == {"base"}


def test_ports__published__are_the_contracts_on_this_machine_alone(services: dict[str, Json]) -> None:
    published = [(name, port) for name, service in services.items() for port in service.get("ports", [])]

    assert {port["host_ip"] for _, port in published} == {"127.0.0.1"}
    assert {name: int(port["published"]) for name, port in published} == PORTS
    assert [name for name, port in published if port["target"] != int(port["published"])] == []


def test_health__every_service_that_stays__has_a_check(services: dict[str, Json]) -> None:
    # Ours comes with the image.
    unchecked = {name for name, service in services.items() if "healthcheck" not in service and not is_ours(service)}

    assert unchecked == set()
    assert {name for name, service in services.items() if service.get("healthcheck", {}).get("disable")} == ONE_SHOTS
    assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_start__of_everything__waits_for_health_and_for_the_end_of_one_shots(services: dict[str, Json]) -> None:
    waits = [
        (name, other, wait["condition"])
        for name, service in services.items()
        for other, wait in service.get("depends_on", {}).items()
    ]

    expected = dict.fromkeys(ONE_SHOTS, "service_completed_successfully")
    assert [wait for wait in waits if wait[2] != expected.get(wait[1], "service_healthy")] == []
    # Each of ours needs the schema, so that the image that `migrate` builds is there, too.
    ours = {name for name, service in services.items() if is_ours(service)}
    assert {name for name, other, _ in waits if other == "migrate"} == ours - {"migrate"}
    # `up --wait` takes a one-shot's end for a failure unless something waits for that end.
    assert {other for _, other, _ in waits} >= ONE_SHOTS


def test_restarts__of_all_but_one_shots__go_on_until_stopped(services: dict[str, Json]) -> None:
    policies = {name: service["restart"] for name, service in services.items()}

    assert {name for name, policy in policies.items() if policy != "unless-stopped"} == ONE_SHOTS
    assert {policies[name] for name in ONE_SHOTS} == {"on-failure:3"}


def test_limits__every_service__has_one_of_memory_and_of_logs(services: dict[str, Json]) -> None:
    for name, service in services.items():
        assert int(service["mem_limit"]) > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_our_processes__in_containers__can_write_nothing_and_gain_nothing(services: dict[str, Json]) -> None:
    for name, service in services.items():
        if is_ours(service):
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert "privileged" not in service, name


def test_image__of_our_processes__is_built_once_and_pulled_never(services: dict[str, Json]) -> None:
    ours = {name: service for name, service in services.items() if is_ours(service)}

    assert {name for name, service in ours.items() if "build" in service} == {"migrate"}
    assert {service["pull_policy"] for name, service in ours.items() if name != "migrate"} == {"never"}


def test_variables__of_our_processes__are_settings(services: dict[str, Json]) -> None:
    known = names_of_settings()

    unknown = {
        (name, variable)
        for name, service in services.items()
        if is_ours(service)
        for variable in service["environment"]
        if variable not in known
    }
    assert unknown == set()


def test_variables__of_other_images__are_theirs_or_of_what_we_mount(services: dict[str, Json]) -> None:
    for name, service in services.items():
        if is_ours(service) or name in WITHOUT_VARIABLES:
            continue
        # A mounted script, a command or a configuration of ours may read a variable, too.
        own_use = " ".join(service.get("command") or [])
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                source = Path(volume["source"])
                files = source.rglob("*") if source.is_dir() else [source]
                own_use += " ".join(file.read_text() for file in files if file.is_file())
        own_use += (ROOT / "debezium" / "connector.json").read_text() if name == "connect" else ""
        unknown = [
            variable
            for variable in service["environment"]
            if not re.fullmatch(KNOWN[name], variable) and not re.search(rf"\b{variable}\b", own_use)
        ]
        assert unknown == [], name


def test_env_example__every_name__is_read_by_somebody() -> None:
    listed = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert len(listed) == len(set(listed))
    interpolated = set(re.findall(r"\$\{(\w+):", COMPOSE_FILE.read_text()))
    assert set(listed) - names_of_settings() - interpolated == set()
    assert interpolated <= set(listed) | {"env"}


def test_env_example__every_setting_of_service_and_loader__is_handed_on(services: dict[str, Json]) -> None:
    listed = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))

    for name in ("api", "loader"):
        assert (listed & names_of_settings()) - FIXED - services[name]["environment"].keys() == set(), name


def test_hosts__in_every_value__are_services(services: dict[str, Json]) -> None:
    values = [str(value) for service in services.values() for value in (service.get("environment") or {}).values()]
    mounted = [
        ROOT / "deploy/prometheus/prometheus.yml",
        ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml",
    ]
    values += re.findall(r"[a-z:/]*[a-z-]+:\d+", "\n".join(path.read_text() for path in mounted))

    hosts = {
        match["host"] or match["bare"]
        for value in values
        for part in value.split(",")
        for match in [_HOST_IN_URL.search(part)]
        if match
    }
    assert hosts >= {"postgres", "valkey", "kafka", "connect", "prometheus", "api", "loader", "clickhouse"}
    assert hosts - {"localhost"} <= set(services)
    assert services["api"]["environment"]["CLICKHOUSE_HOST"] in services
    assert services["register-connector"]["environment"]["CDC_DATABASE_HOST"] in services


def test_mounts__from_this_repository__exist_and_are_read_only(services: dict[str, Json]) -> None:
    binds = [
        volume for service in services.values() for volume in service.get("volumes", []) if volume["type"] == "bind"
    ]

    assert binds
    for bind in binds:
        assert Path(bind["source"]).exists(), bind
        assert bind["read_only"], bind
    # Whole configurations of an image are not replaced, only added to.
    targets = {bind["target"] for bind in binds}
    assert "/etc/clickhouse-server/config.xml" not in targets
    assert "/etc/clickhouse-server/config.d" not in targets


def test_data__of_every_server_that_keeps_some__is_in_a_named_volume(project: Json, services: dict[str, Json]) -> None:
    kept = {
        volume["source"]: (name, volume["target"])
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if volume["type"] == "volume"
    }

    assert set(kept) == set(project["volumes"])
    # Since version 18 the image keeps each major version in a folder of its own below this one.
    assert kept["postgres-data"] == ("postgres", "/var/lib/postgresql")
    assert {name for name, _ in kept.values()} == {"postgres", "kafka", "clickhouse", "prometheus", "grafana"}


def test_secrets__of_servers__reach_only_those_who_need_them(env_file: Path, services: dict[str, Json]) -> None:
    lines = env_file.read_text().splitlines()
    secrets = {name: value for name, _, value in (line.partition("=") for line in lines) if name in REQUIRED_SECRETS}
    holders = {
        name: {
            service_name
            for service_name, service in services.items()
            if any(value in str(variable) for variable in (service.get("environment") or {}).values())
        }
        for name, value in secrets.items()
    }

    processes = {"api", "loader", "migrate"}
    assert holders == {
        "SECRET_KEY": processes,
        "METRICS_TOKEN": processes,  # Prometheus has it in a file.
        "CLICKHOUSE_PASSWORD": {*processes, "clickhouse"},
        "DATABASE_PASSWORD": {*processes, "postgres"},
        "VALKEY_PASSWORD": {*processes, "valkey"},
        "POSTGRES_PASSWORD": {"postgres"},
        "CDC_DATABASE_PASSWORD": {"postgres", "connect"},
        "GRAFANA_PASSWORD": {"grafana"},
    }
