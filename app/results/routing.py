"""Which store answers. A plain function on plain values, no I/O."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.results.errors import NoSourceAvailable
from app.results.values import Source, SourceChoice


class Reason(StrEnum):
    """Why a source was chosen."""

    ASKED_FOR = "asked_for"
    SPLIT_AT_WATERMARK = "split_at_watermark"
    HISTORY_AWAY = "history_away"
    NO_WATERMARK = "no_watermark"
    TAIL_TOO_LARGE = "tail_too_large"
    STORE_AWAY = "store_away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is known of the stores. `watermark`: the ingestion time below which ClickHouse is complete."""

    store_up: bool = True
    history_up: bool
    watermark: datetime | None
    # Whether the rows ingested since the watermark are few enough to travel with a query.
    tail_fits: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to look. `complete_until` is `None` where that is the moment of PostgreSQL's answer."""

    source: Source
    reason: Reason
    complete_until: datetime | None


def choose(wanted: SourceChoice, conditions: Conditions) -> Decision:
    """Choose a source: ClickHouse below the watermark and PostgreSQL above it, as long as nothing speaks against it.

    Raises:
        NoSourceAvailable: no source can answer as wanted.
    """
    has_history = conditions.history_up and conditions.watermark is not None
    match wanted:
        case SourceChoice.HOT if conditions.store_up:
            return Decision(Source.HOT, Reason.ASKED_FOR, None)
        case SourceChoice.COLD if has_history:
            return Decision(Source.COLD, Reason.ASKED_FOR, conditions.watermark)
        case SourceChoice.AUTO if conditions.store_up:
            return _hot_or_both(conditions)
        case SourceChoice.AUTO if has_history:
            return Decision(Source.COLD, Reason.STORE_AWAY, conditions.watermark)
    raise NoSourceAvailable(_EXPLANATIONS[wanted])


def _hot_or_both(conditions: Conditions) -> Decision:
    if not conditions.history_up:
        return Decision(Source.HOT, Reason.HISTORY_AWAY, None)
    if conditions.watermark is None:
        return Decision(Source.HOT, Reason.NO_WATERMARK, None)
    if not conditions.tail_fits:
        return Decision(Source.HOT, Reason.TAIL_TOO_LARGE, None)
    return Decision(Source.BOTH, Reason.SPLIT_AT_WATERMARK, None)


_EXPLANATIONS = {
    SourceChoice.HOT: "PostgreSQL does not answer now; leave out source=hot to hear the history if it does.",
    SourceChoice.COLD: (
        "ClickHouse does not answer now, or holds nothing yet that is known to be complete; leave out source=cold"
        " to hear PostgreSQL."
    ),
    SourceChoice.AUTO: "Neither PostgreSQL nor ClickHouse answers now. Try again later.",
}
