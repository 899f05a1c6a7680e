"""From an outbox message to a row of ClickHouse: checked, and then passed on as it is.

A payload's keys are ClickHouse's columns, so nothing is rewritten: rows arrive to the last bit, and fast.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import msgspec

from app.assignments import messages as assignments
from app.events import messages as events
from app.experiments import messages as experiments
from app.pipeline.messages import BEAT, HEARTBEAT_AGGREGATE

HEARTBEATS = "heartbeats"

# The range of DateTime64. Source: ClickHouse documentation, "DateTime64".
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(2299, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

# PostgreSQL's ids are positive; the upper bounds are those of ClickHouse's Int64, Int32 and Float64.
_Id = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Version = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Lane = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class Poison(Exception):
    """A message that can never become a row; the reason is for whoever looks at the dead letters."""


class Row(NamedTuple):
    table: str
    line: bytes


class _Payload(msgspec.Struct, frozen=True, gc=False):
    schema_version: Literal[1]
    ingested_at: _Moment


class _Assignment(_Payload, frozen=True, gc=False):
    experiment_id: _Id
    user_id: _Name
    variant_id: _Id
    source: _Name
    experiment_version: _Version
    context: msgspec.Raw
    exposed_at: _Moment


class _Override(_Payload, frozen=True, gc=False):
    experiment_id: _Id
    user_id: _Name
    variant_id: _Count  # 0 once removed.
    exposed_at: _Moment
    removed: bool
    epoch: _Count


class _Event(_Payload, frozen=True, gc=False):
    project_id: _Id
    event_id: UUID
    experiment_id: _Id | None
    user_id: _Name
    event_type: _Name
    ts: _Moment
    value: _Finite | None
    properties: msgspec.Raw


class _Experiment(_Payload, frozen=True, gc=False):
    experiment_id: _Id
    project_id: _Id
    key: _Name
    status: _Name
    version: _Version
    definition: msgspec.Raw


class _Heartbeat(_Payload, frozen=True, gc=False):
    lane: _Lane
    beat: _Count
    watermark: _Moment


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one type of message is checked, and where it goes."""

    table: str
    decode: Callable[[bytes], Any]
    moments: Callable[[Any], tuple[datetime, ...]]
    object_of: Callable[[Any], msgspec.Raw] | None = None


_KINDS: Mapping[tuple[str, str], _Kind] = {
    (assignments.AGGREGATE, assignments.ASSIGNED): _Kind(
        "exposures",
        msgspec.json.Decoder(_Assignment).decode,
        attrgetter("exposed_at", "ingested_at"),
        attrgetter("context"),
    ),
    (assignments.OVERRIDE_AGGREGATE, assignments.OVERRIDDEN): _Kind(
        "overrides", msgspec.json.Decoder(_Override).decode, attrgetter("exposed_at", "ingested_at")
    ),
    (events.AGGREGATE, events.RECORDED): _Kind(
        "events",
        msgspec.json.Decoder(_Event).decode,
        attrgetter("ts", "ingested_at"),
        attrgetter("properties"),
    ),
    (experiments.AGGREGATE, experiments.CHANGED): _Kind(
        "experiments",
        msgspec.json.Decoder(_Experiment).decode,
        # Twice, because an attrgetter of one name returns no tuple.
        attrgetter("ingested_at", "ingested_at"),
        attrgetter("definition"),
    ),
    # Beats travel among the rows of every aggregate type, or on their own.
    **dict.fromkeys(
        (
            (HEARTBEAT_AGGREGATE, BEAT),
            (assignments.AGGREGATE, BEAT),
            (assignments.OVERRIDE_AGGREGATE, BEAT),
            (events.AGGREGATE, BEAT),
            (experiments.AGGREGATE, BEAT),
        ),
        _Kind(HEARTBEATS, msgspec.json.Decoder(_Heartbeat).decode, attrgetter("watermark", "ingested_at")),
    ),
}


def transform(aggregatetype: str, type_: str, payload: bytes) -> Row:
    """Return the table for a message and its line there, which is the payload itself.

    Raises:
        Poison: the message is of no known type, or its payload does not fit the table.
    """
    kind = _KINDS.get((aggregatetype, type_))
    if kind is None:
        raise Poison(f"no table takes messages of type {type_!r} of aggregate type {aggregatetype!r}")
    try:
        value = kind.decode(payload)
        if not payload.isascii():
            payload.decode()  # The decoder does not look into objects that are passed on as text.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Poison(str(error)) from error
    for moment in kind.moments(value):
        if not _EARLIEST <= moment <= _LATEST:
            raise Poison(f"the timestamp {moment.isoformat()} is outside the years 1900 to 2299")
    if kind.object_of is not None and not bytes(kind.object_of(value)).lstrip().startswith(b"{"):
        raise Poison("context, properties or definition is not an object")
    return Row(kind.table, payload)
