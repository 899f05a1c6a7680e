"""How changes settle, and what a process does that cannot ask for them."""

import asyncio
import time
from uuid import uuid4

import pytest
import structlog

from app.access.errors import InvalidToken
from app.access.scopes import Scope
from app.access.service import AccessService
from app.access.tokens import Authenticator
from app.assignments.override_service import OverrideService
from app.assignments.values import Reason
from app.core.changes import LEASE_S, Changes
from app.core.clock import utc_now
from app.core.db import Database, StoreUnavailable
from tests.integration.services.bench import Bench

_HOUR_S = 3600.0


class Monotonic:
    """Stands in for the monotonic clock."""

    def __init__(self) -> None:
        self.later_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.later_s


def _authenticator(bench: Bench, changes: Changes, *bootstrap: str) -> Authenticator:
    return Authenticator(
        database=bench.database,
        redis=bench.redis,
        changes=changes,
        clock=utc_now,
        metrics=bench.metrics,
        installation=uuid4(),
        secret_key="secret",
        bootstrap_tokens=bootstrap,
    )


async def _token(bench: Bench, access: AccessService) -> str:
    _, secret = await access.create_token(
        await bench.caller(), name="t", scopes=[Scope.EVENTS], expires_at=None, project_key=None
    )
    return secret


async def test_settle__database_away__waits_for_the_others_leases_and_returns(nowhere: Database) -> None:
    started = time.monotonic()

    await Changes(nowhere).settle("experiments", 7)

    assert LEASE_S * 0.9 < time.monotonic() - started < LEASE_S + 2


async def test_change__database_gone_right_after_the_commit__is_answered_as_made(
    bench: Bench, nowhere: Database
) -> None:
    # It takes part in the transaction, and afterwards finds nobody to ask.
    cut_off = Changes(nowhere)
    caller, experiment = await bench.caller(), await bench.experiment()
    access = AccessService(database=bench.database, changes=cut_off, projects=bench.projects)

    secret = await _token(bench, access)
    answer = await OverrideService(database=bench.database, changes=cut_off).put(caller, experiment, "qa", "treatment")

    assert secret
    assert (answer.reason, answer.variant and answer.variant.key) == (Reason.OVERRIDE, "treatment")
    assert len(await bench.rows("SELECT 1 FROM overrides WHERE NOT removed")) == 1


async def test_outage__many_looks__warn_once_and_tell_the_recovery(bench: Bench, nowhere: Database) -> None:
    changes = Changes(nowhere)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await changes.look()
        changes._database = bench.database
        for _ in range(2):
            await changes.look()
    await changes.stop()

    assert [entry["event"] for entry in logs] == ["changes.database_unavailable", "changes.database_available"]


async def test_token__database_not_heard_of_for_an_hour__is_not_trusted_any_more(
    bench: Bench, nowhere: Database
) -> None:
    clock = Monotonic()
    changes = Changes(bench.database, monotonic=clock)
    authenticator = _authenticator(bench, changes, "bootstrap")
    secret = await _token(bench, bench.access)
    await changes.look()
    assert (await authenticator.identify(secret)).scopes == {Scope.EVENTS}

    changes._database = nowhere
    await changes._drop_connection()
    clock.later_s = _HOUR_S - 60
    assert (await authenticator.identify(secret)).scopes == {Scope.EVENTS}
    clock.later_s = _HOUR_S + 60
    with pytest.raises(StoreUnavailable):
        await authenticator.identify(secret)
    assert (await authenticator.identify("bootstrap")).token_id is None

    changes._database = bench.database
    await changes.look()
    assert (await authenticator.identify(secret)).scopes == {Scope.EVENTS}
    await changes.stop()


async def test_invalid_token__refused_again_and_again__leaves_nothing_behind(bench: Bench) -> None:
    authenticator = _authenticator(bench, bench.changes)
    refusals = []
    for _ in range(3):
        with pytest.raises(InvalidToken) as refused:
            await authenticator.identify("guess")
        refusals.append(refused.value)

    assert len({id(refusal) for refusal in refusals}) == 3
    assert {_frames(refusal) for refusal in refusals} == {_frames(refusals[0])}


async def test_first_token__two_first_starts_at_once__make_one(bench: Bench) -> None:
    made = await asyncio.gather(*(bench.access.create_first_token() for _ in range(6)))

    assert len([secret for secret in made if secret is not None]) == 1
    assert len(await bench.rows("SELECT 1 FROM api_tokens")) == 1
    assert await bench.access.create_first_token() is None


def _frames(error: BaseException) -> int:
    count, traceback = 0, error.__traceback__
    while traceback is not None:
        count, traceback = count + 1, traceback.tb_next
    return count
