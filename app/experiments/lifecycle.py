"""The state machine of experiments, and which changes each state allows. Plain functions, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import assert_never


class Status(StrEnum):
    """The stored state."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class Move(StrEnum):
    """A transition that a caller may ask for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    COMPLETE = "complete"
    ARCHIVE = "archive"


class Phase(StrEnum):
    """What an experiment does for its users at one moment: its state together with its dates."""

    DRAFT = "EXPERIMENT_DRAFT"
    NOT_STARTED = "EXPERIMENT_NOT_STARTED"
    OPEN = "OPEN"
    PAUSED = "EXPERIMENT_PAUSED"
    ENDED = "EXPERIMENT_ENDED"
    ARCHIVED = "EXPERIMENT_ARCHIVED"


_MOVES: Mapping[Status, Mapping[Move, Status]] = MappingProxyType(
    {
        Status.DRAFT: {Move.START: Status.RUNNING, Move.ARCHIVE: Status.ARCHIVED},
        Status.RUNNING: {Move.PAUSE: Status.PAUSED, Move.COMPLETE: Status.COMPLETED},
        Status.PAUSED: {Move.RESUME: Status.RUNNING, Move.COMPLETE: Status.COMPLETED},
        Status.COMPLETED: {Move.ARCHIVE: Status.ARCHIVED},
        Status.ARCHIVED: {},
    }
)


def allowed_moves(status: Status) -> list[Move]:
    return list(_MOVES[status])


def state_after(status: Status, move: Move) -> Status | None:
    """Return the state that the move leads to, or `None` when it is not allowed."""
    return _MOVES[status].get(move)


def phase_of(status: Status, starts_at: datetime | None, ends_at: datetime | None, now: datetime) -> Phase:
    """Tell what the experiment does at `now`; dates bind running and paused ones. Half-open: it ends at `ends_at`."""
    match status:
        case Status.DRAFT:
            return Phase.DRAFT
        case Status.ARCHIVED:
            return Phase.ARCHIVED
        case Status.COMPLETED:
            return Phase.ENDED
        case Status.RUNNING | Status.PAUSED:
            if ends_at is not None and now >= ends_at:
                return Phase.ENDED
            if starts_at is not None and now < starts_at:
                return Phase.NOT_STARTED
            return Phase.OPEN if status is Status.RUNNING else Phase.PAUSED
        case _:
            assert_never(status)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change that the state forbids, and what to do instead."""

    field: str
    detail: str


_SAFE_WHILE_LIVE = frozenset({"name", "description", "config", "traffic_pct", "starts_at", "ends_at", "population"})
# Bots and testers are found late; whom an answer leaves out, it says.
_SAFE_WHEN_COMPLETED = frozenset({"name", "description", "population"})
_NEW_EXPERIMENT = "users would change their variant. Complete this experiment and create a new one with the new set-up"


def refused_changes(
    status: Status, changed: frozenset[str], *, rebuckets: bool, reexposes: bool, has_begun: bool
) -> list[Refusal]:
    """Class the changed fields of an experiment.

    Args:
        status: its stored state.
        changed: names of fields whose value would differ; `variants` stands for all that variants hold.
        rebuckets: whether the change of `variants` touches more than their names and configurations.
        reexposes: whether the change of `population` touches what exposes users, and not only who is left out.
        has_begun: whether users may have been assigned, so that the start cannot move any more.

    Returns:
        one refusal for each field that the state forbids to change; empty when all may change.
    """
    match status:
        case Status.DRAFT:
            return []
        case Status.RUNNING | Status.PAUSED:
            refused = [_live_refusal(field) for field in sorted(changed - _SAFE_WHILE_LIVE - {"variants"})]
            if rebuckets:
                refused.append(
                    Refusal("variants", f"allocations and variants are fixed since the start: {_NEW_EXPERIMENT}")
                )
            if has_begun and "starts_at" in changed:
                refused.append(Refusal("starts_at", "the experiment has begun; its start is history"))
            return refused + _exposure_refusals(reexposes=reexposes)
        case Status.COMPLETED:
            return [
                Refusal(
                    field,
                    "a completed experiment is a record: only name, description and whom its population excludes can"
                    " change",
                )
                for field in sorted(changed - _SAFE_WHEN_COMPLETED)
            ] + _exposure_refusals(reexposes=reexposes)
        case Status.ARCHIVED:
            return [Refusal(field, "an archived experiment cannot change") for field in sorted(changed)]
        case _:
            assert_never(status)


def _live_refusal(field: str) -> Refusal:
    if field == "seed":
        return Refusal(field, f"the seed is fixed since the start: {_NEW_EXPERIMENT}")
    if field == "plan":
        return Refusal(
            field,
            "the plan is sealed since the start. POST /experiments/{experiment}/metrics adds metrics, marked as"
            " exploratory; what is to be promised needs a new experiment",
        )
    return Refusal(field, "is fixed since the start, because callers refer to it. Create a new experiment instead")


def _exposure_refusals(*, reexposes: bool) -> list[Refusal]:
    if not reexposes:
        return []
    return [
        Refusal(
            "population",
            "exposure and exposure_event_type are fixed since the start, because other users would count. Who is"
            " excluded may change; for another exposure create a new experiment",
        )
    ]
