"""The chain of the audit log: what is hashed, and what each kind of tampering looks like."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.audit_chain import GENESIS, ChainCheck, ChainedEntry, content_of, hash_after
from app.access.values import ChainReport, Flaw

_AT = datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC)


def _entry(number: int, **fields: Any) -> ChainedEntry:
    plain: dict[str, Any] = {
        "id": 100 + number,
        "at": _AT + timedelta(seconds=number),
        "project_id": 7,
        "actor": "token:3",
        "request_id": f"request {number}",
        "action": "experiment.created",
        "subject": f"experiment:{number}",
        "details": '{"a": 1.10}',
        "position": number,
        "hash": None,
    }
    return ChainedEntry(**plain | fields)


def _chain(length: int) -> list[ChainedEntry]:
    entries: list[ChainedEntry] = []
    last = GENESIS
    for number in range(1, length + 1):
        last = hash_after(last, _entry(number))
        entries.append(_entry(number, hash=last))
    return entries


def _checked(entries: list[ChainedEntry], *, head: ChainedEntry | None, remembered: bytes | None = None) -> ChainReport:
    check = ChainCheck(remembered=remembered)
    for entry in entries:
        check.add(entry)
    at = (0, GENESIS) if head is None else (head.position or 0, head.hash or GENESIS)
    return check.report(head_entries=at[0], head_hash=at[1])


def test_content__of_an_entry__is_an_array_of_texts() -> None:
    entry = _entry(2, actor='é"\\\n', project_id=None, at=_AT.astimezone(timezone(timedelta(hours=5))))

    assert content_of(entry).decode() == (
        '["2", "102", "2026-03-01T12:30:00.000005Z", null, "é\\"\\\\\\n", "request 2", "experiment.created",'
        ' "experiment:2", "{\\"a\\": 1.10}"]'
    )


def test_hash__of_a_first_entry__is_this_one_for_ever() -> None:
    assert hash_after(GENESIS, _entry(1)).hex() == "9195692d8e3be2a5b10a604dd1d12eb122644563ab5b7529d34eef8ff6f9b22c"


@pytest.mark.parametrize("length", [0, 1, 5])
def test_check__untouched_chain__is_whole_and_has_each_head_that_it_ever_had(length: int) -> None:
    chain = _chain(length)
    head = chain[-1] if chain else None

    for remembered in (None, GENESIS, *(entry.hash for entry in chain)):
        report = _checked(chain, head=head, remembered=remembered)
        assert (report.first_broken, report.entries) == (None, length)
        assert report.head == (head.hash if head else None)


@given(st.integers(0, 4), st.sampled_from(["at", "actor", "request_id", "action", "subject", "details", "project_id"]))
def test_check__any_column_of_any_entry_changed__names_that_entry(index: int, column: str) -> None:
    chain = _chain(5)
    values: dict[str, Any] = {"at": _AT, "project_id": 8}
    head = chain[-1]
    chain[index] = replace(chain[index], **{column: values.get(column, "changed")})

    broken = _checked(chain, head=head).first_broken

    assert broken is not None
    assert (broken.id, broken.at, broken.reason) == (chain[index].id, chain[index].at, Flaw.CHANGED)


@pytest.mark.parametrize("index", [0, 2, 3])
def test_check__entry_removed_before_the_end__names_the_one_after_it(index: int) -> None:
    chain = _chain(5)
    head = chain[-1]
    del chain[index]

    broken = _checked(chain, head=head).first_broken

    assert broken is not None
    assert (broken.id, broken.reason) == (chain[index].id, Flaw.MISSING)


def test_check__last_entry_removed__is_seen_by_the_stored_head() -> None:
    chain = _chain(5)

    broken = _checked(chain[:-1], head=chain[-1]).first_broken

    assert broken is not None
    assert (broken.id, broken.at, broken.reason) == (None, None, Flaw.MISSING)


def test_check__last_entry_removed_and_stored_head_set_back__is_seen_by_a_remembered_one() -> None:
    chain = _chain(5)

    assert _checked(chain[:-1], head=chain[-2]).first_broken is None
    broken = _checked(chain[:-1], head=chain[-2], remembered=chain[-1].hash).first_broken
    assert broken is not None
    assert broken.reason is Flaw.HEAD_NOT_FOUND


@pytest.mark.parametrize("fields", [{"position": None}, {"hash": None}, {"position": None, "hash": None}])
def test_check__entry_slipped_in_past_the_chain__is_named(fields: dict[str, Any]) -> None:
    chain = _chain(3)
    slipped_in = replace(_entry(4, hash=bytes(32)), **fields)

    broken = _checked([*chain, slipped_in], head=chain[-1]).first_broken

    assert broken is not None
    assert (broken.id, broken.reason) == (slipped_in.id, Flaw.UNCHAINED)


def test_check__entry_slipped_in_with_a_right_hash__is_beyond_the_head() -> None:
    chain = _chain(4)

    broken = _checked(chain, head=chain[2]).first_broken

    assert broken is not None
    assert broken.reason is Flaw.BEYOND_HEAD


def test_check__entry_slipped_in_at_a_place_that_is_taken__is_named() -> None:
    chain = _chain(3)
    slipped_in = replace(chain[1], id=999, actor="somebody else")

    broken = _checked([*chain[:2], slipped_in, chain[2]], head=chain[-1]).first_broken

    assert broken is not None
    assert (broken.id, broken.reason) == (999, Flaw.CHANGED)
