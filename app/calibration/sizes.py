"""How much a calibration may hold, and how long it may take. Plain functions, no I/O."""

from collections.abc import Sequence

from app.calibration.errors import CannotCalibrate
from app.calibration.values import Column

# About a gigabyte while they are read, and a third of that afterwards; 20 metrics of a million users fit.
MOST_NUMBERS = 24_000_000
# Splits times numbers, each taking 2 to 5 ns: one to five minutes of a processor that is free. As few resplits as can
# be asked for are always few enough.
MOST_WORK = 60_000_000_000
# The values of a half are picked out and looked at in their order, while numbers are only added up.
VALUE_COSTS = 8


def refuse_too_many(columns: Sequence[Column], *, users: int, values: int) -> None:
    """Refuse what does not fit into memory. `values`: those of all quantiles.

    Raises:
        CannotCalibrate: there are too many users, metrics or values.
    """
    if users * numbers_of_user(columns) + values > MOST_NUMBERS:
        raise CannotCalibrate(
            f"The control's users with {len(columns)} metrics, each adjusted one counted twice, and the values of"
            f" quantiles are more than {MOST_NUMBERS:,} numbers, which is more than fits into memory; ask for fewer"
            " metrics at once."
        )


def refuse_too_long(columns: Sequence[Column], resplits: int, *, users: int, values: int) -> None:
    """Refuse what would keep others from calibrating for too long. `values`: those of all quantiles.

    Raises:
        CannotCalibrate: there are too many numbers to be split so often.
    """
    numbers = users * numbers_of_user(columns)
    each = numbers + VALUE_COSTS * values
    if resplits * each > MOST_WORK:
        raise CannotCalibrate(
            f"resplits: to split {numbers:,} numbers of users and {values:,} values of quantiles {resplits:,} times"
            f" would take too long; ask for at most {MOST_WORK // each:,} resplits, or for fewer metrics at once."
        )


def numbers_of_user(columns: Sequence[Column]) -> int:
    """Return how many numbers a user has: one in each metric, one from before the exposure, and who it is."""
    return 1 + sum(1 if column.without_covariate is not None else 2 for column in columns)
