"""Which rows of an import can be stored, and what is wrong with the others. Plain functions, no I/O."""

from collections.abc import Iterable
from datetime import datetime

from app.assignments.values import ImportRow
from app.core.rows import RowCode, RowError
from app.experiments.values import Experiment, Variant


def judged(
    experiment: Experiment, rows: Iterable[ImportRow], now: datetime
) -> tuple[dict[str, tuple[ImportRow, Variant]], list[RowError]]:
    """Return the good rows with their variants, by user, and the errors of the bad ones."""
    good: dict[str, tuple[ImportRow, Variant]] = {}
    errors: list[RowError] = []
    for row in rows:
        if (variant := experiment.variant_with_key(row.variant)) is None:
            keys = ", ".join(item.key for item in experiment.variants)
            detail = f"variant: no variant has the key {row.variant!r}; there are {keys}"
            errors.append(RowError(index=row.index, code=RowCode.UNKNOWN_VARIANT, detail=detail))
        elif row.assigned_at > now:
            detail = "assigned_at: lies in the future; imported assignments have happened"
            errors.append(RowError(index=row.index, code=RowCode.FUTURE_TIMESTAMP, detail=detail))
        elif row.user_id in good:
            errors.append(already_assigned(row))
        else:
            good[row.user_id] = row, variant
    return good, errors


def already_assigned(row: ImportRow) -> RowError:
    return RowError(
        index=row.index,
        code=RowCode.ALREADY_ASSIGNED,
        detail="user_id: the user is assigned in this experiment already; an assignment never changes",
    )
