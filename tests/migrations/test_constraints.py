"""The schema itself refuses wrong states, whatever the program does."""

from typing import Any

import asyncpg
import pytest

from tests.factories import unique
from tests.migrations.conftest import Scratch

pytestmark = pytest.mark.xdist_group("migrations")

_Refused = (
    asyncpg.CheckViolationError,
    asyncpg.ForeignKeyViolationError,
    asyncpg.UniqueViolationError,
    asyncpg.ExclusionViolationError,
    asyncpg.NotNullViolationError,
    asyncpg.RestrictViolationError,
    asyncpg.NumericValueOutOfRangeError,
)


def _value(value: object) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, bool | int | float) else "'" + str(value).replace("'", "''") + "'"


def _insert(table: str, **columns: object) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(map(_value, columns.values()))})"


def _experiment(**changes: object) -> str:
    columns: dict[str, object] = {
        "project_id": 1,
        "key": unique("exp"),
        "name": "E",
        "status": "draft",
        "seed": "s",
        "traffic_pct": 100,
        "change_epoch": 1,
        **changes,
    }
    return _insert("experiments", **columns)


def _variant(key: str, start: int, end: int, /, **changes: object) -> str:
    columns: dict[str, object] = {
        "key": key,
        "name": "V",
        "position": {"a": 0, "b": 1}.get(key, 2),
        "allocation_pct": (end - start) / 100,
        "is_control": key == "a",
        "bucket_start": start,
        "bucket_end": end,
        **changes,
    }
    names = ", ".join(columns)
    values = ", ".join(map(_value, columns.values()))
    return f"INSERT INTO variants (experiment_id, {names}) SELECT max(id), {values} FROM experiments"


_GOOD_VARIANTS = (_variant("a", 0, 5000), _variant("b", 5000, 10_000))


def _made(scratch: Scratch) -> dict[str, Any]:
    """Store an experiment with two variants and return their ids."""
    (row,) = scratch.run(
        _experiment(),
        *_GOOD_VARIANTS,
        "SELECT experiment_id, min(id) AS a, max(id) AS b FROM variants"
        " WHERE experiment_id = (SELECT max(id) FROM experiments) GROUP BY experiment_id",
    )
    return row


def test_experiment__good_one__is_stored(migrated: Scratch) -> None:
    assert _made(migrated)["experiment_id"]


@pytest.mark.parametrize(
    "changes",
    [
        *({"status": "unknown"}, {"status": "DRAFT"}, {"status": None}, {"key": "A"}, {"key": ""}, {"key": "a b"}),
        *({"key": "1a"}, {"key": "a" * 65}, {"key": "a\n"}, {"name": ""}, {"name": "n" * 201}, {"seed": ""}),
        *({"seed": "a:b"}, {"seed": "s" * 65}, {"seed": "a\n"}, {"traffic_pct": -0.01}, {"traffic_pct": 100.01}),
        *({"traffic_pct": None}, {"version": 0}, {"project_id": 999}, {"status": "running"}, {"status": "paused"}),
        *({"status": "completed", "started_at": "2026-01-01Z"}, {"status": "completed", "ended_at": "2026-01-01Z"}),
        *(
            {"starts_at": "2026-01-02Z", "ends_at": "2026-01-01Z"},
            {"starts_at": "2026-01-01Z", "ends_at": "2026-01-01Z"},
        ),
    ],
)
def test_experiment__wrong_state__is_refused(migrated: Scratch, changes: dict[str, object]) -> None:
    with pytest.raises(_Refused):
        migrated.run(_experiment(**changes), *_GOOD_VARIANTS)


def test_experiment__key_taken_in_its_project__is_refused(migrated: Scratch) -> None:
    key = unique("exp")
    migrated.run(_experiment(key=key), *_GOOD_VARIANTS)
    with pytest.raises(asyncpg.UniqueViolationError):
        migrated.run(_experiment(key=key), *_GOOD_VARIANTS)


@pytest.mark.parametrize(
    "variants",
    [
        (_variant("a", 0, 10_000),),
        (_variant("a", 0, 5000), _variant("b", 5000, 9999)),
        (_variant("a", 1, 5000), _variant("b", 5000, 10_000)),
        (_variant("a", 0, 5000), _variant("b", 5001, 10_000)),
        (_variant("a", 0, 5001), _variant("b", 5000, 10_000)),
        (_variant("a", 0, 10_000), _variant("b", 0, 10_000)),
        (_variant("a", 0, 6000), _variant("b", 4000, 8000)),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_000, is_control=True)),
        (_variant("a", 0, 5000, is_control=False), _variant("b", 5000, 10_000)),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_001)),
        (_variant("a", -1, 5000), _variant("b", 5000, 10_000)),
        (_variant("a", 5000, 0), _variant("b", 0, 10_000)),
        (_variant("a", 0, 5000), _variant("a", 5000, 10_000, is_control=False, position=1)),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_000, position=0)),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_000, allocation_pct=101)),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_000, key="B")),
        (_variant("a", 0, 5000), _variant("b", 5000, 10_000, name="")),
    ],
    ids=[
        *("one", "short of the end", "late start", "gap", "overlap by one", "both all", "overlap and gap"),
        *("two controls", "no control", "past the end", "before the start", "reversed", "same key", "same position"),
        *("allocation", "key", "name"),
    ],
)
def test_variants__wrong_set__is_refused(migrated: Scratch, variants: tuple[str, ...]) -> None:
    with pytest.raises(_Refused):
        migrated.run(_experiment(), *variants)


def test_variants__zero_width_range__is_allowed(migrated: Scratch) -> None:
    migrated.run(_experiment(), _variant("a", 0, 10_000), _variant("b", 10_000, 10_000))


def test_variants__changed_later__still_have_to_cover(migrated: Scratch) -> None:
    made = _made(migrated)
    with pytest.raises(asyncpg.CheckViolationError):
        migrated.run(f"UPDATE variants SET bucket_end = 9000 WHERE id = {made['b']}")
    with pytest.raises(asyncpg.CheckViolationError):
        migrated.run(f"DELETE FROM variants WHERE id = {made['b']}")
    migrated.run(
        f"UPDATE variants SET bucket_end = 4000 WHERE id = {made['a']}",
        f"UPDATE variants SET bucket_start = 4000 WHERE id = {made['b']}",
    )


@pytest.mark.parametrize("table", ["assignments", "overrides"])
def test_user__with_a_variant_of_another_experiment__is_refused(migrated: Scratch, table: str) -> None:
    one, other = _made(migrated), _made(migrated)
    own: dict[str, object] = (
        {"source": "hash", "experiment_version": 1, "assigned_at": "2026-01-01Z"}
        if table == "assignments"
        else {"exposed_at": "2026-01-01Z", "change_epoch": 1}
    )

    def insert(**columns: object) -> str:
        return _insert(
            table, **{"experiment_id": one["experiment_id"], "user_id": "u", "variant_id": one["a"], **own, **columns}
        )

    for wrong in (
        *({"variant_id": other["a"]}, {"variant_id": 999_999}, {"experiment_id": 999_999}, {"variant_id": None}),
        *({"user_id": ""}, {"user_id": "x" * 257}),
    ):
        with pytest.raises(_Refused):
            migrated.run(insert(**wrong))
    migrated.run(insert())
    with pytest.raises(asyncpg.UniqueViolationError):
        migrated.run(insert(variant_id=one["b"]))
    with pytest.raises(_Refused):
        migrated.run(f"DELETE FROM variants WHERE experiment_id = {one['experiment_id']}")
    with pytest.raises(_Refused):
        migrated.run(f"DELETE FROM experiments WHERE id = {one['experiment_id']}")


def _metric(scratch: Scratch) -> int:
    """Store a metric with one version and return its id."""
    (row,) = scratch.run(
        _insert("metrics", project_id=1, key=unique("metric"), change_epoch=1),
        "INSERT INTO metric_versions (metric_id, version, name, recipe, direction)"
        " SELECT max(id), 1, 'M', '{}', 'up' FROM metrics RETURNING metric_id",
    )
    return int(row["metric_id"])


@pytest.mark.parametrize(
    "changes",
    [
        *({"built_in": "avg_value"}, {"metric_id": None}, {"metric_id": 999_999}, {"metric_version": 2}),
        *({"metric_id": None, "built_in": "avg_value"}, {"role": "main"}, {"role": None}, {"position": None}),
        *({"margin": 0.1}, {"role": "guardrail", "margin": 0}, {"role": "guardrail", "margin": 1}),
        *({"role": "primary", "exploratory": True}, {"experiment_id": 999_999}, {"exploratory": None}),
    ],
)
def test_attached_metric__wrong_one__is_refused(migrated: Scratch, changes: dict[str, object]) -> None:
    columns = {
        "experiment_id": _made(migrated)["experiment_id"],
        "position": 0,
        "metric_id": _metric(migrated),
        "metric_version": 1,
        "role": "secondary",
        "exploratory": False,
    }
    with pytest.raises(_Refused):
        migrated.run(_insert("experiment_metrics", **{**columns, **changes}))
    migrated.run(_insert("experiment_metrics", **columns))
    for table, column in (("metric_versions", "metric_id"), ("metrics", "id")):
        with pytest.raises(_Refused):
            migrated.run(f"DELETE FROM {table} WHERE {column} = {columns['metric_id']}")


def test_attached_metrics__two_primary_or_one_twice__are_refused(migrated: Scratch) -> None:
    experiment, metric = _made(migrated)["experiment_id"], _metric(migrated)

    def attach(position: int, **columns: object) -> str:
        fixed = {"experiment_id": experiment, "position": position, "exploratory": False}
        return _insert("experiment_metrics", **fixed, **columns)

    migrated.run(attach(0, metric_id=metric, role="primary"), attach(1, built_in="avg_value", role="secondary"))
    for wrong in (
        attach(2, built_in="p95_value", role="primary"),
        attach(2, metric_id=metric, role="secondary"),
        attach(2, built_in="avg_value", role="secondary"),
        attach(1, built_in="p95_value", role="secondary"),
    ):
        with pytest.raises(_Refused):
            migrated.run(wrong)


@pytest.mark.parametrize("changes", [{"hash": "x"}, {"hash": None}, {"document": None}, {"experiment_id": 999_999}])
def test_sealed_plan__wrong_one__is_refused_and_a_good_one_stays(migrated: Scratch, changes: dict[str, object]) -> None:
    experiment = _made(migrated)["experiment_id"]
    columns = {"experiment_id": experiment, "document": "{}", "hash": "0" * 64, "sealed_at": "2026-01-01Z"}
    with pytest.raises(_Refused):
        migrated.run(_insert("sealed_plans", **{**columns, **changes}))
    migrated.run(_insert("sealed_plans", **columns))
    for change in ("UPDATE sealed_plans SET document = ''", "DELETE FROM sealed_plans"):
        with pytest.raises(asyncpg.RestrictViolationError):
            migrated.run(f"{change} WHERE experiment_id = {experiment}")
    with pytest.raises(asyncpg.RestrictViolationError):
        migrated.run("TRUNCATE sealed_plans")


@pytest.mark.parametrize("source", ["override", "HASH", "", None])
def test_assignment__of_an_unknown_source__is_refused(migrated: Scratch, source: str | None) -> None:
    made = _made(migrated)
    with pytest.raises(_Refused):
        migrated.run(
            _insert(
                "assignments",
                experiment_id=made["experiment_id"],
                user_id="u",
                variant_id=made["a"],
                source=source,
                experiment_version=1,
                assigned_at="2026-01-01Z",
            )
        )


@pytest.mark.parametrize(
    "changes",
    [
        *({"value": "NaN"}, {"value": "Infinity"}, {"value": "-Infinity"}, {"user_id": ""}, {"user_id": "x" * 257}),
        *({"event_type": ""}, {"event_type": "x" * 101}, {"ts": None}, {"project_id": None}, {"event_id": None}),
    ],
)
def test_event__wrong_one__is_refused(migrated: Scratch, changes: dict[str, object]) -> None:
    event = {
        "project_id": 1,
        "event_id": "00000000-0000-4000-8000-000000000000",
        "user_id": "u",
        "event_type": "x",
        "ts": "2026-01-01Z",
        "value": 1,
    }
    migrated.run(_insert("events", **event))
    with pytest.raises(_Refused):
        migrated.run(_insert("events", **{**event, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"scopes": "{}"}, {"scopes": "{root}"}, {"scopes": "{events,root}"}, {"token_hash": r"\x00"}, {"name": ""}),
        *({"project_id": 999}, {"scopes": None}, {"token_hash": None}),
    ],
)
def test_token__wrong_one__is_refused(migrated: Scratch, changes: dict[str, object]) -> None:
    token = {"name": "t", "token_hash": "\\x" + "0" * 64, "scopes": "{events}"}
    with pytest.raises(_Refused):
        migrated.run(_insert("api_tokens", **{**token, **changes}))


def test_installation__second_one__is_refused(migrated: Scratch) -> None:
    for statement in ("INSERT INTO installation DEFAULT VALUES", "INSERT INTO installation (single) VALUES (false)"):
        with pytest.raises(_Refused):
            migrated.run(statement)


def test_project__with_a_key_taken_or_malformed__is_refused(migrated: Scratch) -> None:
    for key in ("default", "A", "", "*"):
        with pytest.raises(_Refused):
            migrated.run(_insert("projects", key=key, name="P"))


_EVENT = "INSERT INTO events (project_id, event_id, user_id, event_type, ts, ingested_at) VALUES"
_OUTBOX = "INSERT INTO outbox_events (aggregatetype, aggregateid, type, payload, created_at) VALUES"


@pytest.mark.parametrize(
    ("parent", "key", "insert", "row"),
    [
        ("events", "ingested_at", _EVENT, "(1, gen_random_uuid(), 'u', 'x', now(), '{}')"),
        ("outbox_events", "created_at", _OUTBOX, "('event', 'u', 'x', '{{}}', '{}')"),
    ],
)
def test_make_partition__rows_waiting_in_default__move_into_it(
    migrated: Scratch, parent: str, key: str, insert: str, row: str
) -> None:
    inside = ["2040-03-01T00:00:00Z", "2040-03-15T12:00:00Z", "2040-03-31T23:59:59.999999Z"]
    outside = ["2040-02-29T23:59:59.999999Z", "2040-04-01T00:00:00Z"]
    migrated.run(f"{insert} {', '.join(row.format(moment) for moment in inside + outside)}")
    counted = (
        f"SELECT tableoid::regclass::text AS place, count(*) AS n FROM {parent} WHERE {key} > '2040-01-01Z' GROUP BY 1"
    )
    assert migrated.run(counted) == [{"place": f"{parent}_default", "n": 5}]
    make = f"SELECT make_partition('{parent}', '{parent}_p204003', '2040-03-01Z', '2040-04-01Z', '{key}') AS made"
    assert migrated.run(make) == [{"made": True}]
    places = {entry["place"]: entry["n"] for entry in migrated.run(counted)}
    assert places == {f"{parent}_default": 2, f"{parent}_p204003": 3}
    assert migrated.run(make) == [{"made": False}]
    migrated.run(f"{insert} {row.format('2040-03-20T00:00:00Z')}")
    places = {entry["place"]: entry["n"] for entry in migrated.run(counted)}
    assert places[f"{parent}_p204003"] == 4


def test_partitions__made_ahead__take_what_comes_now(migrated: Scratch) -> None:
    assert migrated.run("SELECT make_partitions_ahead(3, 7) AS made") == [{"made": 0}]
    assert migrated.run("SELECT make_partitions_ahead(5, 9) AS made") == [{"made": 4}]
    migrated.run(f"{_EVENT} (1, gen_random_uuid(), 'now', 'x', now(), now())")
    (place,) = migrated.run("SELECT tableoid::regclass::text AS place FROM events WHERE user_id = 'now'")
    assert place["place"] != "events_default"
