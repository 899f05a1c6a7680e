"""The state machine of experiments."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.experiments.lifecycle import Move, Phase, Status, allowed_moves, phase_of, refused_changes, state_after

_TABLE = {
    (Status.DRAFT, Move.START): Status.RUNNING,
    (Status.DRAFT, Move.ARCHIVE): Status.ARCHIVED,
    (Status.RUNNING, Move.PAUSE): Status.PAUSED,
    (Status.RUNNING, Move.COMPLETE): Status.COMPLETED,
    (Status.PAUSED, Move.RESUME): Status.RUNNING,
    (Status.PAUSED, Move.COMPLETE): Status.COMPLETED,
    (Status.COMPLETED, Move.ARCHIVE): Status.ARCHIVED,
}
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FIELDS = (
    "key",
    "name",
    "description",
    "seed",
    "traffic_pct",
    "config",
    "starts_at",
    "ends_at",
    "variants",
    "population",
    "plan",
)

moments = st.none() | st.timedeltas(timedelta(days=-2), timedelta(days=2)).map(lambda delta: _NOW + delta)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("move", Move)
def test_move__from_every_state__is_the_contracts(status: Status, move: Move) -> None:
    assert state_after(status, move) == _TABLE.get((status, move))
    assert (move in allowed_moves(status)) == ((status, move) in _TABLE)


@given(st.lists(st.sampled_from(Move)))
def test_moves__in_any_order__never_leave_the_archive_nor_return_to_draft(moves: list[Move]) -> None:
    status = Status.DRAFT
    begun = False
    for move in moves:
        after = state_after(status, move)
        if after is None:
            continue
        assert status is not Status.ARCHIVED
        assert after is not Status.DRAFT
        assert not (begun and move is Move.START)
        begun = True
        status = after


@given(st.sampled_from(Status), moments, moments)
def test_phase__at_any_moment__is_open_only_while_running_between_its_dates(
    status: Status, starts_at: datetime | None, ends_at: datetime | None
) -> None:
    phase = phase_of(status, starts_at, ends_at, _NOW)
    begun = starts_at is None or starts_at <= _NOW
    over = ends_at is not None and ends_at <= _NOW
    assert (phase is Phase.OPEN) == (status is Status.RUNNING and begun and not over)
    assert (phase is Phase.ENDED) == (
        status is Status.COMPLETED or (status in {Status.RUNNING, Status.PAUSED} and over)
    )
    assert (phase is Phase.DRAFT) == (status is Status.DRAFT)
    assert (phase is Phase.ARCHIVED) == (status is Status.ARCHIVED)


def test_phase__at_its_very_dates__has_begun_and_has_ended() -> None:
    assert phase_of(Status.RUNNING, _NOW, None, _NOW) is Phase.OPEN
    assert phase_of(Status.RUNNING, None, _NOW, _NOW) is Phase.ENDED
    just_before = _NOW - timedelta(microseconds=1)
    assert phase_of(Status.RUNNING, _NOW, None, just_before) is Phase.NOT_STARTED
    assert phase_of(Status.RUNNING, None, _NOW, just_before) is Phase.OPEN


@given(
    status=st.sampled_from(Status),
    changed=st.frozensets(st.sampled_from(_FIELDS)),
    rebuckets=st.booleans(),
    reexposes=st.booleans(),
    has_begun=st.booleans(),
)
def test_refused_changes__of_any_fields__name_changed_fields_alone_and_say_why(
    status: Status, changed: frozenset[str], *, rebuckets: bool, reexposes: bool, has_begun: bool
) -> None:
    refusals = refused_changes(
        status,
        changed,
        rebuckets=rebuckets and "variants" in changed,
        reexposes=reexposes and "population" in changed,
        has_begun=has_begun,
    )
    assert {refusal.field for refusal in refusals} <= changed
    assert all(refusal.detail for refusal in refusals)
    if status is Status.DRAFT:
        assert refusals == []
    if status is Status.ARCHIVED:
        assert {refusal.field for refusal in refusals} == changed
    if status in {Status.RUNNING, Status.PAUSED} and "seed" in changed:
        assert "seed" in {refusal.field for refusal in refusals}
