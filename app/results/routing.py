"""Which store answers. A plain function on plain values, no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.values import Source, SourceChoice


class Reason(StrEnum):
    """Why a source was chosen."""

    ASKED_FOR = "asked_for"
    SPLIT_AT_WATERMARK = "split_at_watermark"
    HISTORY_AWAY = "history_away"
    HISTORY_DROPPED = "history_dropped"
    NO_WATERMARK = "no_watermark"
    TAIL_TOO_LARGE = "tail_too_large"
    STORE_AWAY = "store_away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is known of the stores. `watermark`: the ingestion time below which ClickHouse is complete."""

    store_up: bool = True
    # Whether PostgreSQL has the oldest events that count; it drops them once ClickHouse has them for sure.
    store_reaches: bool = True
    history_up: bool
    watermark: datetime | None
    # Whether ClickHouse has the oldest events that count; it gives them up after a time.
    history_reaches: bool = True
    # Whether the rows ingested since the watermark are few enough to travel with a query.
    tail_fits: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to look, and why there."""

    source: Source
    reason: Reason


def choose(wanted: SourceChoice, conditions: Conditions) -> Decision:
    """Choose a source: ClickHouse below the watermark and PostgreSQL above it, as long as nothing speaks against it.

    Raises:
        HistoryDropped: ClickHouse alone is wanted, and lacks events that count, or both lack them.
        StoreDropped: PostgreSQL alone is wanted, and lacks events that count.
        NoSourceAvailable: no source can answer as wanted.
    """
    if wanted is SourceChoice.COLD and not conditions.history_reaches:
        raise HistoryDropped(_DROPPED)
    has_history = conditions.history_up and conditions.watermark is not None and conditions.history_reaches
    match wanted:
        case SourceChoice.HOT if conditions.store_up:
            if not conditions.store_reaches:
                raise StoreDropped(_DROPPED_BY_STORE)
            return Decision(Source.HOT, Reason.ASKED_FOR)
        case SourceChoice.COLD if has_history:
            return Decision(Source.COLD, Reason.ASKED_FOR)
        case SourceChoice.AUTO if conditions.store_up:
            decision = _hot_or_both(conditions)
            return decision if conditions.store_reaches else _without_store(decision, conditions)
        case SourceChoice.AUTO if has_history:
            return Decision(Source.COLD, Reason.STORE_AWAY)
    raise NoSourceAvailable(_EXPLANATIONS[wanted])


def _hot_or_both(conditions: Conditions) -> Decision:
    if not conditions.history_up:
        return Decision(Source.HOT, Reason.HISTORY_AWAY)
    if not conditions.history_reaches:
        return Decision(Source.HOT, Reason.HISTORY_DROPPED)
    if conditions.watermark is None:
        return Decision(Source.HOT, Reason.NO_WATERMARK)
    if not conditions.tail_fits:
        return Decision(Source.HOT, Reason.TAIL_TOO_LARGE)
    return Decision(Source.BOTH, Reason.SPLIT_AT_WATERMARK)


def _without_store(decision: Decision, conditions: Conditions) -> Decision:
    """Choose ClickHouse, where PostgreSQL cannot stand in for it any more."""
    if decision.source is not Source.HOT:
        return decision
    if not conditions.history_reaches:
        raise HistoryDropped(_DROPPED_BY_BOTH)
    if not conditions.history_up or conditions.watermark is None:
        raise NoSourceAvailable(_NO_STAND_IN)
    return Decision(Source.COLD, decision.reason)


_DROPPED_BY_STORE = (
    "PostgreSQL has dropped events that count in this experiment, because they are older than EVENTS_RETENTION_DAYS"
    " and ClickHouse has them. Leave out source=hot to hear ClickHouse, or ask with a later start_date."
)
_DROPPED_BY_BOTH = (
    "Neither PostgreSQL nor ClickHouse has all events that count in this experiment any more: they are older than"
    " EVENTS_RETENTION_DAYS and HISTORY_RETENTION_DAYS. Ask with a later start_date."
)
_NO_STAND_IN = (
    "ClickHouse does not answer now or is not known to be complete, and PostgreSQL has dropped events that count in"
    " this experiment, because they are older than EVENTS_RETENTION_DAYS. Try again later, or with a later start_date."
)
_DROPPED = (
    "ClickHouse has given up events that count in this experiment, because they are older than"
    " HISTORY_RETENTION_DAYS. Leave out source=cold to hear PostgreSQL, or ask with a later start_date."
)
_EXPLANATIONS = {
    SourceChoice.HOT: "PostgreSQL does not answer now; leave out source=hot to hear the history if it does.",
    SourceChoice.COLD: (
        "ClickHouse does not answer now, or holds nothing yet that is known to be complete; leave out source=cold"
        " to hear PostgreSQL."
    ),
    SourceChoice.AUTO: "Neither PostgreSQL nor ClickHouse answers now. Try again later.",
}
