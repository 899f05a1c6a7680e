"""An estimate with its interval."""

from dataclasses import dataclass

from app.stats.reasons import NullReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its two-sided interval; what is undefined is None, and `null_reason` says why."""

    estimate: float | None
    lower: float | None
    upper: float | None
    null_reason: NullReason | None = None
