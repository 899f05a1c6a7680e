"""Whether the data came as they should: who was exposed and when, what was changed meanwhile, how fresh it all is."""

from collections.abc import Sequence
from datetime import timedelta

from app.diagnosis.changes import shown_of, touches
from app.diagnosis.facts import Change, Facts
from app.diagnosis.values import NOBODY, Code, Finding, Severity, Unchecked
from app.diagnosis.wording import count, listed, moment, percent
from app.experiments.lifecycle import Status
from app.stats.srm import srm_exact

# From here on the users who are left out may be others than those who stay.
_GRAVE_SHARE_IN_TWO = 0.01
# Below this many events a day nothing can be said about their order.
_FEWEST_EVENTS = 100
# Users who come and are exposed at once do most of what they do afterwards.
_LATE_FROM = 1.0
_STALE_AFTER, _SILENT_AFTER = timedelta(minutes=10), timedelta(days=1)
_MOST_AHEAD, _MOST_LATE = 0.01, 0.1
_HOLE = "The audit log has no entry of the start, so that changes may be missing from it as well."


def users_in_two_variants(facts: Facts) -> list[Finding] | Unchecked:
    """Count users whom an exposure event saw in another variant than their own."""
    if isinstance(facts.two_variants, Unchecked):
        return facts.two_variants
    users = facts.users
    counted = 0 if isinstance(users, Unchecked) else sum(users)
    if facts.two_variants == 0:
        return [] if counted else NOBODY
    share = facts.two_variants / (counted + facts.two_variants)
    return [
        Finding(
            code=Code.USERS_IN_TWO_VARIANTS,
            severity=Severity.CRITICAL if share >= _GRAVE_SHARE_IN_TWO else Severity.WARNING,
            title="Users were shown more than one variant",
            evidence={"users": facts.two_variants, "share": share, "counted_users": counted},
            text=(
                f"{count(facts.two_variants, 'user')} ({percent(share)}) have an exposure event that names another"
                " variant than the stored one. They are left out of all results."
            ),
            action=(
                "Ask the service for the variant on every page instead of keeping it elsewhere, and check that one"
                " person has one user_id before and after signing in. Who is left out depends on the variant, so above"
                f" {percent(_GRAVE_SHARE_IN_TWO)} use no result."
            ),
        )
    ]


def exposure_before_start(facts: Facts) -> list[Finding] | Unchecked:
    """Count assignments that are older than the experiment's start."""
    if facts.started_at is None:
        return Unchecked("The experiment was never started.")
    came = facts.entrances
    if came.before_start == 0:
        return []
    return [
        Finding(
            code=Code.EXPOSURE_BEFORE_START,
            # An import says when users were assigned elsewhere, which is what it is for.
            severity=Severity.INFO if came.imported_before_start == came.before_start else Severity.WARNING,
            title="Users were assigned before the experiment started",
            evidence={
                "users": came.before_start,
                "imported": came.imported_before_start,
                "assigned": came.assigned,
                "earliest": None if came.earliest is None else came.earliest.isoformat(),
                "started_at": facts.started_at.isoformat(),
            },
            text=(
                f"{count(came.before_start, 'user')} of {came.assigned:,} were assigned before the start at"
                f" {moment(facts.started_at)}, {came.imported_before_start:,} of them by an import. Their events count"
                " from the assignment on, and what the plan promised was sealed later."
            ),
            action=(
                "If the import is an experiment that ran elsewhere, this is as it should be. Otherwise import once more"
                " into a new experiment, with the right times: stored assignments do not change."
            ),
        )
    ]


def exposure_recorded_late(facts: Facts) -> list[Finding] | Unchecked:
    """Compare what users did in the day before their exposure with the day after it."""
    if isinstance(facts.around, Unchecked):
        return facts.around
    before, after = facts.around.before, facts.around.after
    if before + after < _FEWEST_EVENTS:
        return Unchecked(f"There are fewer than {_FEWEST_EVENTS} events within a day of an exposure.")
    if before <= after * _LATE_FROM:
        return []
    share = before / (before + after)
    return [
        Finding(
            code=Code.EXPOSURE_RECORDED_LATE,
            severity=Severity.WARNING,
            title="Most events come before their user's exposure",
            evidence={"events_day_before": before, "events_day_after": after, "share_before": share},
            text=(
                f"Of the events within a day of an exposure {percent(share)} come before it and do not count."
                " The exposure seems to be recorded after what it is to explain."
            ),
            action=(
                "Ask for the variant, or send the exposure event, before the variant can act. Check that the times of"
                " events are those at which things happened, in UTC."
            ),
        )
    ]


def mid_run_changes(facts: Facts) -> list[Finding] | Unchecked:
    """Tell what was changed while users came in, by whom, and how they were divided before and after."""
    if facts.started_at is None:
        return Unchecked("The experiment was never started.")
    if not facts.changes:
        return [] if facts.start_noted else Unchecked(f"{_HOLE} GET /audit/verify says what became of it.")
    touching = [change for change in facts.changes if touches(change)]
    changes = count(len(facts.changes), "change")
    named = [f"{_what(change)} by {change.actor} at {moment(change.at)}" for change in touching or facts.changes]
    return [
        Finding(
            code=Code.MID_RUN_CHANGES,
            severity=Severity.WARNING if touching else Severity.INFO,
            title="The experiment was changed while it ran",
            evidence={
                "changes": len(facts.changes),
                "touching": len(touching),
                "not_looked_at": facts.more_changes,
                "shown": [_shown(facts, change) for change in shown_of(facts.changes)],
            },
            text=(
                f"{changes} since the start,"
                f" {len(touching):,} of them to who comes in, who counts or what users see: {listed(named)}."
                if touching
                else f"{changes} since the start, none of them to who comes in: {listed(named)}."
            )
            + (f" Not looked at: {count(facts.more_changes, 'later change')}." if facts.more_changes else "")
            + ("" if facts.start_noted else f" {_HOLE}"),
            action=(
                "Ask for results with the first such change as end_date: they hold the users and events before it. If"
                " they differ from those over all time, decide by them, or begin anew. The audit log (GET /audit) shows"
                " each change in full."
            )
            if touching
            else "Nothing needs to be done. Users with an override are left out of results.",
        )
    ]


def stale_data(facts: Facts) -> list[Finding] | Unchecked:
    """Tell whether events still arrive, and how far the history is behind."""
    findings = [*_silence(facts), *_lag(facts)]
    if not findings and isinstance(facts.history_until, Unchecked):
        return facts.history_until
    return findings


def _silence(facts: Facts) -> list[Finding]:
    newest = facts.arrivals.newest
    if facts.status is not Status.RUNNING or isinstance(facts.metrics, Unchecked):
        return []
    if not any(metric.events for metric in facts.metrics):
        return []
    if newest is not None and facts.now - newest <= _SILENT_AFTER:
        return []
    since = "for a week or longer" if newest is None else f"since {moment(newest)}"
    return [
        Finding(
            code=Code.STALE_DATA,
            severity=Severity.WARNING,
            title="No events arrive any more",
            evidence={"newest_event_came_at": None if newest is None else newest.isoformat()},
            text=f"The experiment runs, and no event of its users has come {since}.",
            action="Check what sends events: the product, its token (scope events), its network. Results do not move.",
        )
    ]


def _lag(facts: Facts) -> list[Finding]:
    until = facts.history_until
    if isinstance(until, Unchecked) or facts.now - until <= _STALE_AFTER:
        return []
    lag = facts.now - until
    return [
        Finding(
            code=Code.STALE_DATA,
            severity=Severity.WARNING,
            title="The history lags behind",
            evidence={"lag_seconds": lag.total_seconds(), "history_complete_until": until.isoformat()},
            text=(
                f"ClickHouse is complete up to {moment(until)}, {lag / timedelta(minutes=1):,.0f} minutes ago. Results"
                " take what is newer from PostgreSQL, as long as it is not too much, and get slower."
            ),
            action=(
                "GET /system/pipeline says where rows wait on their way to the history. Nothing is lost: they are"
                " counted once they have come."
            ),
        )
    ]


def clock_skew(facts: Facts) -> list[Finding] | Unchecked:
    """Tell how many of the newest events have times that cannot be, or come long after their time."""
    came = facts.arrivals
    if came.events < _FEWEST_EVENTS:
        return Unchecked(f"Fewer than {_FEWEST_EVENTS} events of its users came in the last days.")
    ahead, late = came.ahead / came.events, came.late / came.events
    if ahead <= _MOST_AHEAD and late <= _MOST_LATE:
        return []
    return [
        Finding(
            code=Code.CLOCK_SKEW,
            severity=Severity.WARNING if ahead > _MOST_AHEAD else Severity.INFO,
            title="The times of events and of their arrival do not fit",
            evidence={
                "events": came.events,
                "ahead": came.ahead,
                "ahead_share": ahead,
                "late": came.late,
                "late_share": late,
            },
            text=(
                f"Of the newest {count(came.events, 'event')} {percent(ahead)} have a time more than a minute ahead of"
                f" this server's clock, and {percent(late)} came more than an hour after their time."
            ),
            action=(
                "Take the time of events from a server whose clock is set by NTP, in UTC, and check for local times"
                " sent as UTC: an event that seems to lie before the exposure does not count. Late events are counted"
                " once they have come, so wait for them before deciding."
            ),
        )
    ]


def _what(change: Change) -> str:
    what = ", ".join(change.fields or change.actions)
    return what if change.times == 1 else f"{what} ({change.times:,} times)"


def _shown(facts: Facts, change: Change) -> dict[str, object]:
    return {
        "at": change.at.isoformat(),
        "last_at": change.last_at.isoformat(),
        "actor": change.actor,
        "action": change.actions[0],
        "actions": list(change.actions),
        "fields": list(change.fields),
        "times": change.times,
        "users_before": _by_arm(facts, change.before),
        "users_after": _by_arm(facts, change.after),
        "srm_p_value_before": _p_value(facts, change.before),
        "srm_p_value_after": _p_value(facts, change.after),
    }


def _by_arm(facts: Facts, users: Sequence[int] | None) -> dict[str, int] | None:
    return None if users is None else dict(zip((arm.key for arm in facts.arms), users, strict=True))


def _p_value(facts: Facts, users: Sequence[int] | None) -> float | None:
    return None if users is None else srm_exact(users, [arm.weight for arm in facts.arms])
