"""From entries of the audit log to changes, with the users who came in before and after each. No I/O."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import accumulate

from app.diagnosis.facts import Change

# Moves that are the run's beginning and end, and not changes of it.
NO_CHANGES = frozenset(
    {"experiment.created", "experiment.start", "experiment.complete", "experiment.archive", "experiment.deleted"}
)
# A list of imports and overrides is as long as the batches are many: what one actor does of a kind is one change.
IN_SERIES: Mapping[str, str] = {
    "override.put": "overrides",
    "override.removed": "overrides",
    "assignments.imported": "imports",
}
# What touches who comes in, who counts or what the users see.
_TOUCHING = frozenset({"traffic_pct", "starts_at", "ends_at", "population", "variants", "config"})
_TOUCHING_ACTIONS = frozenset({"experiment.pause", "experiment.resume", "assignments.imported"})
# More would fill a page. Users are counted before and after these alone.
_MOST_SHOWN = 20


def changes_from(entries: Sequence[Change]) -> list[Change]:
    """Leave out what is no change, and make one of an actor's overrides, and one of an actor's imports.

    Such a series stands where it began.
    """
    found: list[Change] = []
    series: dict[tuple[str, str], int] = {}
    for entry in sorted(entries, key=lambda one: one.at):
        if not NO_CHANGES.isdisjoint(entry.actions):
            continue
        kind = IN_SERIES.get(entry.actions[0])
        place = len(found) if kind is None else series.setdefault((entry.actor, kind), len(found))
        if place == len(found):
            found.append(entry)
        else:
            found[place] = _together(found[place], entry)
    return found


def touches(change: Change) -> bool:
    """Tell whether a change is to who comes in, who counts or what the users see."""
    return not _TOUCHING_ACTIONS.isdisjoint(change.actions) or not _TOUCHING.isdisjoint(change.fields)


def shown_of(changes: Sequence[Change]) -> list[Change]:
    """Return the changes that are shown one by one, those that touch users before the others."""
    return [changes[place] for place in _shown(changes)]


def moments_of(changes: Sequence[Change]) -> list[datetime]:
    """Return the moments between which users are to be counted: those of the changes that are shown, as they rise."""
    return sorted({change.at for change in shown_of(changes)})


def with_users(
    changes: Sequence[Change], by_stretch: Mapping[int, Mapping[int, int]], variant_ids: Sequence[int]
) -> list[Change]:
    """Put the users beside the changes that are shown; stretch 0 ends with the first of their moments."""
    moments, stretches = moments_of(changes), sorted(by_stretch)
    # By variant: how many users are in none of the stretches, in the first one, in the first two, and so on.
    until = [
        list(accumulate((by_stretch[stretch].get(variant, 0) for stretch in stretches), initial=0))
        for variant in variant_ids
    ]
    filled = list(changes)
    for shown in _shown(changes):
        # Who comes at the very moment of a change comes after it.
        place = bisect_right(stretches, bisect_right(moments, changes[shown].at) - 1)
        before = tuple(users[place] for users in until)
        after = tuple(users[-1] - users[place] for users in until)
        filled[shown] = replace(changes[shown], before=before, after=after)
    return filled


def _shown(changes: Sequence[Change]) -> list[int]:
    return sorted(range(len(changes)), key=lambda place: not touches(changes[place]))[:_MOST_SHOWN]


def _together(one: Change, other: Change) -> Change:
    actions = (*one.actions, *(action for action in other.actions if action not in one.actions))
    return replace(one, actions=actions, times=one.times + other.times, last_at=max(one.last_at, other.last_at))
