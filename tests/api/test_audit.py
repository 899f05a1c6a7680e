"""GET /audit/verify: an untouched log is whole; whatever is done to it behind the service's back is found."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from tests.conftest import MakeClient
from tests.factories import Json, expect_problem, make_experiment, unique, user_path, walk
from tests.service_process import ServiceProcess

# What somebody with the database's password can do: no trigger runs in such a session.
_PAST_THE_TRIGGERS = "SET LOCAL session_replication_role = replica"


@dataclass(frozen=True)
class Tenant:
    """A project with a log of its own."""

    service: ServiceProcess
    client: httpx.Client
    id: int

    def verify(self, **query: Any) -> Json:
        response = self.client.get("/audit/verify", params=query)
        assert response.status_code == 200, response.text
        report: Json = response.json()
        assert report["valid"] == (report["first_broken"] is None)
        return report

    def broken(self, **query: Any) -> tuple[int | None, str]:
        found = self.verify(**query)["first_broken"]
        assert found["detail"]
        return found["id"], found["reason"]

    def entries(self) -> list[Json]:
        """Return the entries from the first to the last."""
        sql = "SELECT * FROM audit_log WHERE project_id = $1 ORDER BY position"
        return self.service.rows(sql, self.id)

    def tamper(self, *statements: str) -> None:
        asyncio.run(_run(self.service.postgres_url, _PAST_THE_TRIGGERS, *statements))


async def _run(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url, ssl=False, timeout=10)
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def tenant(service: ServiceProcess, client_of: MakeClient, make_project: Callable[[], str]) -> Iterator[Tenant]:
    """A project with six entries: its making, an experiment's and its moves, and an override."""
    key = make_project()
    client = client_of(service, project=key)
    experiment = make_experiment(client, state="paused", config={"deep": [1.10, {"é": None}, '"\\']})
    client.patch(f"/experiments/{experiment['id']}", json={"name": 'Né"w'})
    path = f"/experiments/{experiment['id']}/overrides/{user_path('u')}"
    assert client.put(path, json={"variant": "v0"}).status_code == 200
    (project,) = service.rows("SELECT id FROM projects WHERE key = $1", key)
    yield Tenant(service, client, project["id"])
    client.close()


def test_audit__after_changes__is_one_chain_that_anybody_can_recompute(tenant: Tenant) -> None:
    entries = tenant.entries()
    last = bytes(32)
    for position, entry in enumerate(entries, start=1):
        content = [str(position), str(entry["id"]), entry["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ"), str(tenant.id)]
        content += [entry["actor"], entry["request_id"], entry["action"], entry["subject"], entry["details"]]
        last = hashlib.sha256(last + json.dumps(content, ensure_ascii=False).encode()).digest()
        assert (entry["position"], entry["hash"]) == (position, last)

    report = tenant.verify()

    assert report == {"valid": True, "entries": len(entries), "head": last.hex(), "first_broken": None}
    listed = [item for item in walk(tenant.client, "/audit") if item["hash"] in {e["hash"].hex() for e in entries}]
    assert [item["position"] for item in listed] == list(range(len(entries), 0, -1))


def test_audit__project_without_entries__is_whole(tenant: Tenant) -> None:
    tenant.tamper(
        f"DELETE FROM audit_log WHERE project_id = {tenant.id}", f"DELETE FROM audit_heads WHERE chain = {tenant.id}"
    )
    assert tenant.verify() == {"valid": True, "entries": 0, "head": None, "first_broken": None}


def test_audit__head_remembered__is_found_after_more_was_appended(tenant: Tenant) -> None:
    head = tenant.verify()["head"]
    make_experiment(tenant.client)
    assert tenant.verify(head=head)["valid"]
    assert tenant.broken(head=head[::-1]) == (None, "HEAD_NOT_FOUND")


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'token:999'",
        "at = at - interval '1 microsecond'",
        "details = details || '{\"more\": 1}'",
        "subject = 'experiment:1'",
        "request_id = ''",
    ],
)
def test_audit__entry_changed__is_found(tenant: Tenant, change: str) -> None:
    changed = tenant.entries()[2]
    tenant.tamper(f"UPDATE audit_log SET {change} WHERE id = {changed['id']}")

    assert tenant.broken() == (changed["id"], "CHANGED")
    assert tenant.verify()["first_broken"]["at"] is not None


@pytest.mark.parametrize(
    ("json_text", "shown"),
    [
        ("[1, 2]", [1, 2]),
        ("null", None),
        ('"x"', "x"),
        ("7", 7),
        ("true", True),
        ("{}", {}),
        ("[" * 300 + "]" * 300, "[" * 300 + "]" * 300),
    ],
    ids=["array", "null", "text", "number", "truth", "empty", "deep"],
)
def test_audit__details_replaced__are_listed_as_they_are_and_found(tenant: Tenant, json_text: str, shown: Any) -> None:
    (changed,) = [entry for entry in tenant.entries() if entry["action"] == "experiment.changed"]
    tenant.tamper(f"UPDATE audit_log SET details = '{json_text}' WHERE id = {changed['id']}")

    listed = {item["id"]: item["details"] for item in walk(tenant.client, "/audit", limit=2)}

    assert listed[changed["id"]] == shown
    assert len(listed) >= 6
    assert tenant.broken() == (changed["id"], "CHANGED")
    # What else reads the log goes on as well.
    for path in ("plan", "diagnosis"):
        response = tenant.client.get(f"/{changed['subject'].replace('experiment:', 'experiments/')}/{path}")
        assert response.status_code == 200, response.text


def test_audit__entry_removed_in_the_middle__is_found(tenant: Tenant) -> None:
    _, removed, next_one, *_ = tenant.entries()
    tenant.tamper(f"DELETE FROM audit_log WHERE id = {removed['id']}")

    assert tenant.broken() == (next_one["id"], "MISSING")


def test_audit__entry_removed_at_the_end__is_found_even_if_the_head_is_set_back(tenant: Tenant) -> None:
    head = tenant.verify()["head"]
    *_, before, last = tenant.entries()
    tenant.tamper(f"DELETE FROM audit_log WHERE id = {last['id']}")
    assert tenant.broken() == (None, "MISSING")

    tenant.tamper(
        f"UPDATE audit_heads SET entries = {before['position']}, hash = '\\x{before['hash'].hex()}'"
        f" WHERE chain = {tenant.id}"
    )
    assert tenant.verify()["valid"]
    assert tenant.broken(head=head) == (None, "HEAD_NOT_FOUND")


@pytest.mark.parametrize(
    ("place", "reason"),
    [("NULL, NULL", "UNCHAINED"), ("2000000, sha256('x')", "MISSING")],
)
def test_audit__entry_slipped_in__is_found(tenant: Tenant, place: str, reason: str) -> None:
    tenant.tamper(
        "INSERT INTO audit_log (project_id, actor, request_id, action, subject, position, hash)"
        f" VALUES ({tenant.id}, 'token:1', '', 'experiment.deleted', 'experiment:5', {place})"
    )
    (slipped_in,) = tenant.service.rows(
        "SELECT id FROM audit_log WHERE project_id = $1 ORDER BY id DESC LIMIT 1", tenant.id
    )
    assert tenant.broken() == (slipped_in["id"], reason)
    assert walk(tenant.client, "/audit", subject="experiment:5")


def test_audit__entry_slipped_in_over_another__is_found(tenant: Tenant) -> None:
    replaced = tenant.entries()[1]
    tenant.tamper(
        f"DELETE FROM audit_log WHERE id = {replaced['id']}",
        "INSERT INTO audit_log (project_id, actor, request_id, action, subject, position, hash)"
        f" VALUES ({tenant.id}, 'token:1', '', 'experiment.deleted', 'experiment:5', 2,"
        f" '\\x{replaced['hash'].hex()}')",
    )
    assert tenant.broken()[1] == "CHANGED"


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
def test_audit__changed_by_plain_sql__is_refused(tenant: Tenant, statement: str) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="can neither be changed nor deleted"):
        asyncio.run(_run(tenant.service.postgres_url, f"{statement} WHERE project_id = {tenant.id}"))
    assert tenant.verify()["valid"]


def test_audit__emptied_by_plain_sql__is_refused(tenant: Tenant) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="can neither be changed nor deleted"):
        asyncio.run(_run(tenant.service.postgres_url, "TRUNCATE audit_log"))
    assert tenant.entries()


def test_audit__of_an_override__names_the_user_and_the_variant(tenant: Tenant) -> None:
    experiment = make_experiment(tenant.client)
    path = f"/experiments/{experiment['id']}/overrides/{user_path('ü 1')}"
    for variant in ("v0", "v1"):
        assert tenant.client.put(path, json={"variant": variant}).status_code == 200
    assert tenant.client.delete(path).status_code == 204

    listed = walk(tenant.client, "/audit", subject=f"experiment:{experiment['id']}")

    assert [(item["action"], item["details"]) for item in listed[:3]] == [
        ("override.removed", {"user_id": "ü 1", "variant": "v1"}),
        ("override.put", {"user_id": "ü 1", "variant": "v1"}),
        ("override.put", {"user_id": "ü 1", "variant": "v0"}),
    ]


def test_audit__many_changes_at_once__leave_one_chain(tenant: Tenant, second_service: ServiceProcess) -> None:
    experiments = [make_experiment(tenant.client) for _ in range(3)]
    before = tenant.verify()["entries"]
    failures: list[str] = []

    def change(service: ServiceProcess, experiment: Json, number: int) -> None:
        with service.client() as client:
            for turn in range(5):
                path = f"/api/v1/experiments/{experiment['id']}/overrides/user-{number}-{turn}"
                headers = {"X-Project": tenant.client.headers["X-Project"]}
                response = client.put(path, json={"variant": "v0"}, headers=headers)
                if response.status_code != 200:
                    failures.append(response.text)

    threads = [
        threading.Thread(target=change, args=(service, experiment, index))
        for index, experiment in enumerate(experiments)
        for service in (tenant.service, second_service)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    report = tenant.verify()
    assert (report["valid"], report["entries"]) == (True, before + 30)


def test_audit__of_the_installation__is_for_tokens_of_all_projects(
    tenant: Tenant, client: httpx.Client, make_token: Callable[..., Json]
) -> None:
    make_token("events", project="*")
    report = client.get("/audit/verify", params={"chain": "installation"}).json()
    assert (report["valid"], report["entries"] > 0) == (True, True)

    own = tenant.client.post("/tokens", json={"name": unique("t"), "scopes": ["admin"]}).json()["token"]
    headers = {"Authorization": f"Bearer {own}"}
    assert tenant.client.get("/audit/verify", headers=headers).json()["valid"]
    expect_problem(tenant.client.get("/audit/verify", params={"chain": "installation"}, headers=headers), 403)


@pytest.mark.parametrize(
    ("query", "field"), [({"head": "abc"}, "head"), ({"chain": "x"}, "chain"), ({"limit": "5"}, "limit")]
)
def test_audit__question_that_makes_no_sense__is_422(client: httpx.Client, query: dict[str, str], field: str) -> None:
    expect_problem(client.get("/audit/verify", params=query), 422, field=field)
