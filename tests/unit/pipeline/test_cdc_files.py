"""The files in `debezium/` agree with each other, with the migration and with the code."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from app.pipeline.messages import BEAT
from app.pipeline.models import cdc_heartbeat
from app.pipeline.topics import TOPICS_FILE, topics
from app.pipeline.transform import LARGEST_PAYLOAD_BYTES

FOLDER = TOPICS_FILE.parent
CONFIG: dict[str, Any] = json.loads((FOLDER / "connector.json").read_text())["config"]
MIGRATION = FOLDER.parent / "alembic" / "versions" / "0002_change_data_capture.py"


def _properties(name: str) -> dict[str, str]:
    lines = (FOLDER / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


WORKER = _properties("connect-distributed.properties")
BROKER = _properties("kafka-server.properties")


def test_connector__password__is_where_only_the_worker_can_read_it() -> None:
    reference = re.fullmatch(r"\$\{env:(\w+)\}", CONFIG["database.password"])

    assert reference is not None
    assert WORKER["config.providers.env.param.allowlist.pattern"] == reference[1]
    assert not [key for key in CONFIG if key.startswith("database.") and key != "database.password"]


def test_connector__publication__is_the_migration_s() -> None:
    sql = MIGRATION.read_text()

    assert f"CREATE PUBLICATION {CONFIG['publication.name']} FOR TABLE outbox_events, {cdc_heartbeat.name}" in sql
    assert CONFIG["table.include.list"] == f"public.outbox_events,public.{cdc_heartbeat.name}"
    assert cdc_heartbeat.name in CONFIG["heartbeat.action.query"]


def test_connector__snapshot__leaves_beats_out() -> None:
    statement = CONFIG["snapshot.select.statement.overrides.public.outbox_events"]

    assert CONFIG["snapshot.mode"] == "when_needed"
    assert f"WHERE type <> '{BEAT}'" in statement


@pytest.mark.parametrize(
    ("predicate", "table"), [("isOutboxRow", "outbox_events"), ("isHeartbeatRow", cdc_heartbeat.name)]
)
def test_connector__predicates__match_their_tables(predicate: str, table: str) -> None:
    pattern = CONFIG[f"predicates.{predicate}.pattern"]

    assert re.fullmatch(pattern, f"{CONFIG['topic.prefix']}.public.{table}")
    assert not re.fullmatch(pattern, f"{CONFIG['topic.prefix']}xpublicx{table}")


def test_topics__that_connect_and_debezium_name__are_listed() -> None:
    names = {topic.name for topic in topics()}
    of_connect = {WORKER[f"{kind}.storage.topic"] for kind in ("config", "offset", "status")}

    assert of_connect | {CONFIG["offsets.storage.topic"], f"__debezium-heartbeat.{CONFIG['topic.prefix']}"} <= names
    assert len(names) == len(topics())


def test_topics__with_rows__take_what_the_connector_may_send_and_that_is_more_than_the_loader_takes() -> None:
    longest_sent = int(CONFIG["producer.override.max.request.size"])

    assert longest_sent > LARGEST_PAYLOAD_BYTES
    for topic in topics():
        if topic.aggregatetype is not None:
            assert int(topic.config["max.message.bytes"]) > longest_sent


def test_topics__that_connect_keeps_its_state_in__are_compacted_and_have_the_worker_s_partitions() -> None:
    listed = {topic.name: topic for topic in topics()}

    for name in (*(WORKER[f"{kind}.storage.topic"] for kind in ("config", "offset", "status")),):
        assert listed[name].config["cleanup.policy"] == "compact"
        assert listed[name].partitions == 1
    assert WORKER["offset.storage.partitions"] == WORKER["status.storage.partitions"] == "1"


def test_exactly_once__worker_and_connector__both_ask_for_it() -> None:
    assert WORKER["exactly.once.source.support"] == "enabled"
    assert CONFIG["exactly.once.support"] == "required"
    assert BROKER["auto.create.topics.enable"] == "false"


def test_offsets__of_groups_without_members__outlast_dead_letters() -> None:
    letters = next(topic for topic in topics() if topic.name == "experiments.dead-letters")

    kept_ms = int(BROKER["offsets.retention.minutes"]) * 60_000
    assert kept_ms > int(letters.config["retention.ms"])


def test_files__every_one__mentions_no_secret_and_no_place_of_one_machine() -> None:
    for path in sorted(FOLDER.iterdir()):
        text = path.read_text()
        assert not re.search(r"(?i)password\s*=\s*\S", text), path.name
        assert str(Path.home()) not in text, path.name
