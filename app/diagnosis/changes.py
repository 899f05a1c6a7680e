"""From entries of the audit log to changes, with the users who came in before and after each. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from app.diagnosis.facts import Change

# Moves that are the run's beginning and end, and not changes of it.
_NO_CHANGES = frozenset(
    {"experiment.created", "experiment.start", "experiment.complete", "experiment.archive", "experiment.deleted"}
)
# A list of imports and overrides is as long as the batches are many.
_IN_SERIES = frozenset({"override.put", "override.removed", "assignments.imported"})


def changes_from(entries: Sequence[Change]) -> list[Change]:
    """Leave out what is no change, and make one of those that follow each other and are alike."""
    found: list[Change] = []
    for entry in sorted(entries, key=lambda one: one.at):
        if entry.action in _NO_CHANGES:
            continue
        last = found[-1] if found else None
        if last is not None and entry.action in _IN_SERIES and _alike(last, entry):
            found[-1] = replace(last, times=last.times + 1)
        else:
            found.append(entry)
    return found


def moments_of(changes: Sequence[Change]) -> list[datetime]:
    """Return the moments between which users are to be counted."""
    return [change.at for change in changes]


def with_users(
    changes: Sequence[Change], by_stretch: Mapping[int, Mapping[int, int]], variant_ids: Sequence[int]
) -> list[Change]:
    """Put the users beside the changes; stretch 0 ends with the first change, stretch 1 with the second."""

    def users(stretches: Sequence[int]) -> tuple[int, ...]:
        return tuple(sum(by_stretch[one].get(variant, 0) for one in stretches) for variant in variant_ids)

    return [
        replace(
            change,
            before=users([stretch for stretch in by_stretch if stretch <= place]),
            after=users([stretch for stretch in by_stretch if stretch > place]),
        )
        for place, change in enumerate(changes)
    ]


def _alike(one: Change, other: Change) -> bool:
    return (one.action, one.actor) == (other.action, other.actor)
