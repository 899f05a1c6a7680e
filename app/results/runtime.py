"""How long an experiment still has to run at the rate at which users come. Plain functions, no I/O."""

import math
from collections.abc import Sequence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Users by the bucket in which they were exposed, every arm's; none where the answer has no series.

    width: of a bucket. has_lump: the first bucket holds all who were exposed before it as well.
    """

    entries: Sequence[Sequence[Entries]]
    width: timedelta
    started_at: datetime | None
    has_lump: bool


def forecast(
    stream: Stream,
    *,
    users: int,
    now: datetime,
    running: bool,
    target: Target,
    detectable_now: float | None,
) -> Runtime:
    """Extend the present rate of exposures until the target is there.

    detectable_now: the relative effect that is detectable with the users so far; it falls with the square root of
    their number.
    """
    rate, reason = _rate(stream, users=users, now=now)
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


def _rate(stream: Stream, *, users: int, now: datetime) -> tuple[float | None, str | None]:
    """Return the users a day over the whole buckets of the look back, or since users began to come if that is later."""
    entries = [entry for arm in stream.entries for entry in arm]
    if not entries:
        return None, NO_SERIES if users else NO_EXPOSURES
    since = _since(stream, min(entry.time for entry in entries), now)
    span = now - since
    if span < _SHORTEST:
        return None, TOO_EARLY
    counted = sum(entry.users for entry in entries if entry.time + stream.width > since)
    return counted / (span / timedelta(days=1)), None


def _since(stream: Stream, first: datetime, now: datetime) -> datetime:
    """Return the moment from which on it is known how many users came.

    When in the first bucket they began to come is not known, unless the experiment was started then.
    """
    known = stream.started_at if stream.started_at is not None and not stream.has_lump else None
    since = known if known is not None and first <= known < first + stream.width else first + stream.width
    earliest = now - _LOOK_BACK
    return since if since >= earliest else first + math.ceil((earliest - first) / stream.width) * stream.width


def _users_for(wanted: float | None, now: float | None, users: int) -> float | None:
    if wanted is None or now is None or wanted <= 0:
        return None
    needed = users * (now / wanted) ** 2 if now / wanted < 1e100 else math.inf
    return needed if math.isfinite(needed) else None
