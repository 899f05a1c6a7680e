"""What an answer about results shows day by day, over HTTP."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from app.results.schema_base import Out


class EffectPointOut(Out):
    """The difference by all that had happened by the end of one day.

    `null_reason` says why it, or an interval that was asked for, is null on this day.
    """

    time: Annotated[datetime, Field(description="Start of the day.")]
    difference: float | None
    ci_lower: float | None
    ci_upper: float | None
    always_valid_ci_lower: float | None
    always_valid_ci_upper: float | None
    n_variant: int
    n_control: int
    null_reason: str | None


class EffectSeriesOut(Out):
    """One metric of one treatment against the control, day by day."""

    metric: str
    variant: str
    points: list[EffectPointOut]
    null_reason: str | None


class ExposurePointOut(Out):
    """Users exposed in one day, and all up to its end."""

    time: Annotated[datetime, Field(description="Start of the day.")]
    users: Annotated[
        int | None, Field(description="Null on the first day after `start_date`: all who came before are in `total`.")
    ]
    total: int
    null_reason: Annotated[str | None, Field(description="Why `users` is null.")]


class ExposureSeriesOut(Out):
    """One variant's users, day by day."""

    variant: str
    points: list[ExposurePointOut]
