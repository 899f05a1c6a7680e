"""Requests and answers about planning."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.errors import Invalid
from app.power.planning import Answer, Kind, Plan
from app.stats.distributions import Alternative
from app.stats.planning import Design

_LARGEST = 1e15
Size = Annotated[float, Field(ge=2, le=_LARGEST, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]


class PowerIn(BaseModel):
    """Two of `n_control`, `power` and the effect (`mde_absolute` or `mde_relative`); the third is answered."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"kind": "proportion", "baseline": 0.1, "mde_relative": 0.05, "power": 0.8}]},
    )

    kind: Kind = Kind.PROPORTION
    baseline: Amount | None = Field(default=None, description="The control's rate (0 to 1) or mean.")
    std: Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)] | None = Field(
        default=None, description="Standard deviation of one user's value; for means."
    )
    n_control: Size | None = Field(default=None, description="Users in the control.")
    power: Annotated[float, Field(gt=0, lt=1)] | None = None
    mde_absolute: Amount | None = None
    mde_relative: Amount | None = Field(default=None, description="As a share of the baseline: 0.05 is +5 %.")
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    alternative: Alternative = Alternative.TWO_SIDED
    ratio_treatment_to_control: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0

    @model_validator(mode="after")
    def _two_of_three(self) -> Self:
        if self.mde_absolute is not None and self.mde_relative is not None:
            raise ValueError("give mde_absolute or mde_relative, not both")
        given = [self.n_control, self.power, self._any_effect()]
        if sum(value is not None for value in given) != 2:
            raise ValueError("give exactly two of n_control, power and mde_absolute or mde_relative")
        if self.kind is Kind.PROPORTION and (self.baseline is None or not 0 <= self.baseline <= 1):
            raise ValueError("baseline must be a rate between 0 and 1 when kind is proportion")
        if self.kind is Kind.MEAN and self.std is None:
            raise ValueError("std must be given when kind is mean")
        if self.mde_relative is not None and not self.baseline:
            raise ValueError("baseline must be given and not 0 for a relative effect")
        effect = self._any_effect()
        if effect is not None and (effect < 0) == (self.alternative is Alternative.GREATER) and self._is_one_sided():
            raise ValueError(f"an effect of this sign is never found by a test whose alternative is {self.alternative}")
        if self._any_effect() == 0:
            raise ValueError("an effect of 0 needs no test: give another mde")
        return self

    def _is_one_sided(self) -> bool:
        return self.alternative is not Alternative.TWO_SIDED

    def _any_effect(self) -> float | None:
        return self.mde_absolute if self.mde_absolute is not None else self.mde_relative

    def plan(self) -> Plan:
        """Return the plan with an absolute effect.

        Raises:
            Invalid: the effect leads out of the range of rates.
        """
        effect = self.mde_absolute
        if self.mde_relative is not None and self.baseline is not None:
            effect = self.mde_relative * self.baseline
        if self.kind is Kind.PROPORTION and effect is not None and self.baseline is not None:
            after = self.baseline + effect
            if not 0 <= after <= 1:
                field = "mde_absolute" if self.mde_absolute is not None else "mde_relative"
                raise Invalid.field(field, f"would make the rate {after:g}; it must stay between 0 and 1")
        return Plan(
            kind=self.kind,
            baseline=self.baseline,
            std=self.std,
            n_control=self.n_control,
            power=self.power,
            effect=effect,
            design=Design(
                alpha=self.alpha,
                alternative=self.alternative,
                ratio_treatment_to_control=self.ratio_treatment_to_control,
            ),
        )


class PowerOut(BaseModel):
    """The completed plan. Sizes are whole users; what cannot be had is null, and `null_reason` says why."""

    kind: Kind
    n_control: int | None
    n_treatment: int | None
    power: float | None
    mde_absolute: float | None
    mde_relative: float | None
    alpha: float
    alternative: Alternative
    ratio_treatment_to_control: float
    null_reason: str | None

    @classmethod
    def of(cls, asked: PowerIn, answer: Answer) -> Self:
        return cls(
            kind=asked.kind,
            n_control=answer.n_control,
            n_treatment=answer.n_treatment,
            power=answer.power,
            mde_absolute=answer.effect,
            mde_relative=answer.effect_relative,
            alpha=asked.alpha,
            alternative=asked.alternative,
            ratio_treatment_to_control=asked.ratio_treatment_to_control,
            null_reason=answer.null_reason,
        )
