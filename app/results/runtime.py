"""How long an experiment still has to run at the rate at which users come. Plain functions, no I/O."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.results.values import Entries

# Long enough to hold every day of the week once, short enough to follow a change of the traffic share.
_LOOK_BACK = timedelta(days=7)
# From less than this no rate is told.
_SHORTEST = timedelta(hours=1)

NOT_RUNNING = "NOT_RUNNING"
NO_SERIES = "NO_SERIES"
NO_TARGET = "NO_TARGET"
NO_EXPOSURES = "NO_EXPOSURES"
TOO_EARLY = "TOO_EARLY"
NO_DETECTABLE_EFFECT = "NO_DETECTABLE_EFFECT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is aimed at: users of all variants together, or else a relative effect that is to be detectable."""

    users: int | None
    detectable: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Users a day, and the days that remain; what is not known is null, `null_reason` says why."""

    users_per_day: float | None
    remaining_days: float | None
    null_reason: str | None


def forecast(
    entries: Iterable[Sequence[Entries]],
    *,
    users: int,
    now: datetime,
    running: bool,
    target: Target,
    detectable_now: float | None,
) -> Runtime:
    """Extend the present rate of exposures until the target is there.

    entries: every arm's, rising in time; empty where the answer has no series. detectable_now: the relative effect
    that is detectable with the users so far; it falls with the square root of their number.
    """
    rate, reason = _rate([entry for arm in entries for entry in arm], users=users, now=now)
    if not running:
        return Runtime(users_per_day=rate, remaining_days=None, null_reason=NOT_RUNNING)
    if target.users is None and target.detectable is None:
        return Runtime(users_per_day=rate, remaining_days=None, null_reason=NO_TARGET)
    needed = target.users if target.users is not None else _users_for(target.detectable, detectable_now, users)
    if needed is None:
        return Runtime(users_per_day=rate, remaining_days=None, null_reason=NO_DETECTABLE_EFFECT)
    if needed <= users:
        return Runtime(users_per_day=rate, remaining_days=0.0, null_reason=None)
    if not rate:
        return Runtime(users_per_day=rate, remaining_days=None, null_reason=reason or NO_EXPOSURES)
    return Runtime(users_per_day=rate, remaining_days=(needed - users) / rate, null_reason=None)


def _rate(entries: Sequence[Entries], *, users: int, now: datetime) -> tuple[float | None, str | None]:
    """Return the users a day since the look back, or since the first bucket if that is later."""
    if not entries:
        return None, NO_SERIES if users else NO_EXPOSURES
    since = max(now - _LOOK_BACK, min(entry.time for entry in entries))
    span = now - since
    if span < _SHORTEST:
        return None, TOO_EARLY
    return sum(entry.users for entry in entries if entry.time >= since) / (span / timedelta(days=1)), None


def _users_for(wanted: float | None, now: float | None, users: int) -> float | None:
    if wanted is None or now is None or wanted <= 0:
        return None
    needed = users * (now / wanted) ** 2 if now / wanted < 1e100 else math.inf
    return needed if math.isfinite(needed) else None
