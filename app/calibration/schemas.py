"""Calibrations over HTTP."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.calibration.values import (
    DEFAULT_ALPHA,
    DEFAULT_RESPLITS,
    FEWEST_RESPLITS,
    MOST_METRICS,
    MOST_RESPLITS,
    Calibration,
    Status,
    Wanted,
)
from app.core.lists import AT_LEAST_ONE
from app.core.names import Key
from app.core.text import refuse_control_characters
from app.metrics.recipe_schemas import EventType, WholeNumber
from app.metrics.schemas import CovariateDays
from app.results.limits import MOST_EVENT_TYPES
from app.results.values import Source

_LARGEST_SEED = 2**53 - 1
_SMALLEST_ALPHA, _LARGEST_ALPHA = 0.001, 0.5


def _without_control_characters(name: str) -> str:
    refuse_control_characters(name)
    return name


ContextName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_without_control_characters)]


class CalibrationIn(BaseModel):
    """What to calibrate. Everything may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"resplits": 1000, "metrics": ["conversion_rate", "value_per_user"]}]},
    )

    resplits: Annotated[
        WholeNumber,
        Field(
            ge=FEWEST_RESPLITS,
            le=MOST_RESPLITS,
            description="Too many for so many users and values have failed, with how many would do as the reason.",
        ),
    ] = DEFAULT_RESPLITS
    metrics: Annotated[
        list[Key],
        Field(max_length=MOST_METRICS, description="Left out: those of the experiment; without any, built-in ones."),
        AT_LEAST_ONE,
    ] = Field(default_factory=list)
    seed: Annotated[WholeNumber, Field(ge=0, le=_LARGEST_SEED)] = Field(
        default=0, description="The same seed splits the same users in the same way."
    )
    alpha: Annotated[float, Field(ge=_SMALLEST_ALPHA, le=_LARGEST_ALPHA, strict=True)] = DEFAULT_ALPHA
    event_type: Annotated[
        list[EventType],
        Field(max_length=MOST_EVENT_TYPES, description="Of the built-in metrics; left out: all."),
        AT_LEAST_ONE,
    ] = Field(default_factory=list)
    split_by: ContextName | None = Field(
        default=None,
        description="A name in the stored context: users with the same value are split together, as an experiment does"
        " that decides by household or company. Values are the same where they are in a breakdown (1 and 1.0); objects"
        " and lists are none.",
    )
    cuped_days: CovariateDays | None = Field(
        default=None,
        description="Adjust conversion_rate and value_per_user by the same number from so many days before the"
        " exposure, as results do. Stored metrics say it themselves.",
    )

    def wanted(self) -> Wanted:
        return Wanted(
            resplits=self.resplits,
            metrics=tuple(dict.fromkeys(self.metrics)),
            seed=self.seed,
            alpha=self.alpha,
            event_types=tuple(dict.fromkeys(self.event_type)),
            split_by=self.split_by,
            cuped_days=self.cuped_days,
        )


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class AdjustedCalibrationOut(_Out):
    """The same of the comparison after CUPED."""

    undefined: Annotated[int, Field(description="Resplits in which the comparison had nothing to say.")]
    false_positives: int
    false_positive_rate: float | None
    false_positive_rate_ci_lower: Annotated[float | None, Field(description="95 % (Wilson).")]
    false_positive_rate_ci_upper: float | None
    lower: Annotated[
        float | None, Field(description="A test that keeps its level lies within the bounds with 99 % probability.")
    ]
    upper: float | None
    inside: bool | None
    variance_reduction_percent: Annotated[float | None, Field(description="In the mean over the resplits.")]
    null_reason: Annotated[
        str | None,
        Field(
            description="NO_COVARIATE: the metric has no number from before the exposure. COVARIATE_DROPPED: neither"
            " store has the events before the exposures any more. PRECISION_LOST: one value from before is so far"
            " beyond all others that these are lost in rounding beside it."
        ),
    ]


class MetricCalibrationOut(_Out):
    """How often the test found an effect where there is none. What is undefined is null; `null_reason` says why."""

    metric: str
    version: int | None
    value: Annotated[float | None, Field(description="Of all users of the control.")]
    resplits: int
    undefined: Annotated[int, Field(description="Resplits in which the test had nothing to say.")]
    false_positives: int
    false_positive_rate: float | None
    false_positive_rate_ci_lower: Annotated[
        float | None, Field(description="The 95 % interval of the rate (Wilson), by the number of resplits.")
    ]
    false_positive_rate_ci_upper: float | None
    always_valid_false_positive_rate: Annotated[
        float | None, Field(description="Of the always-valid test, which at one look is far below alpha.")
    ]
    lower: Annotated[
        float | None, Field(description="A test that keeps its level lies within the bounds with 99 % probability.")
    ]
    upper: float | None
    inside: bool | None
    p_value_histogram: Annotated[list[int], Field(description="P-values in each twentieth between 0 and 1.")]
    ks_p_value: Annotated[
        float | None, Field(description="Of the hypothesis that the p-values are uniform; small for few distinct ones.")
    ]
    null_reason: Annotated[
        str | None,
        Field(
            description="Why the test had nothing to say. PRECISION_LOST: one value is so far beyond all others that"
            " these are lost in rounding beside it, though the metric needs them."
        ),
    ]
    adjusted: Annotated[
        AdjustedCalibrationOut | None, Field(description="After CUPED; null in results of earlier releases.")
    ]


class CalibrationResultOut(_Out):
    """What came out."""

    users: Annotated[int, Field(description="Of the control.")]
    units: Annotated[int, Field(description="What was split: as many as users, or groups by `split_by`.")]
    alpha: float
    metrics: list[MetricCalibrationOut]
    source: Annotated[Source, Field(description="The store that was read: PostgreSQL is hot, ClickHouse cold.")]
    complete_until: Annotated[
        datetime | None, Field(description="Of ClickHouse: what was ingested before is in the numbers.")
    ]


class CalibrationOut(_Out):
    """A calibration and how far it is."""

    id: UUID
    experiment_id: int
    status: Status
    progress: Annotated[float, Field(description="Between 0 and 1; 0 while the users are read.")]
    resplits: int
    seed: int
    split_by: str | None
    cuped_days: int | None
    result: CalibrationResultOut | None
    reason: Annotated[str | None, Field(description="Why it failed.")]
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, calibration: Calibration) -> "CalibrationOut":
        found = calibration.result
        return cls(
            id=calibration.id,
            experiment_id=calibration.experiment_id,
            status=calibration.status,
            progress=calibration.progress,
            resplits=calibration.wanted.resplits,
            seed=calibration.wanted.seed,
            split_by=calibration.wanted.split_by,
            cuped_days=calibration.wanted.cuped_days,
            result=None if found is None else CalibrationResultOut.model_validate(found),
            reason=calibration.reason,
            created_at=calibration.created_at,
            ended_at=calibration.ended_at,
        )


class CalibrationList(BaseModel):
    """One page of calibrations."""

    items: list[CalibrationOut]
    next_cursor: str | None
