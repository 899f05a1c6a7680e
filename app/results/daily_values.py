"""What the answer shows day by day, as values."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectPoint:
    """The difference by all that had happened by the end of the day that starts at `time`.

    `null_reason` says why it, or an interval that was asked for, is null on this day.
    """

    time: datetime
    difference: float | None
    ci_lower: float | None
    ci_upper: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    n_variant: int
    n_control: int
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectSeries:
    """One metric of one treatment against the control, day by day."""

    metric: str
    variant: str
    points: tuple[EffectPoint, ...]
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposurePoint:
    """Users exposed in the day that starts at `time`, and all up to its end; where `users` is null, see the reason."""

    time: datetime
    users: int | None
    total: int
    null_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureSeries:
    """One variant's users, day by day."""

    variant: str
    points: tuple[ExposurePoint, ...]
