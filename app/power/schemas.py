"""Requests and answers about planning."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.core.errors import FieldProblem, Invalid
from app.power.planning import Answer, Kind, Plan
from app.stats.distributions import Alternative
from app.stats.planning import Design
from app.stats.unit_deviation import quantile_deviation, ratio_deviation

_LARGEST = 1e15


def _whole(size: float) -> float:
    if not size.is_integer():
        raise ValueError("must be a whole number of users")
    return size


Size = Annotated[float, Field(ge=2, le=_LARGEST, allow_inf_nan=False, strict=True), AfterValidator(_whole)]
Amount = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False, strict=True)]
Spread = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False, strict=True)]
SpreadOrNone = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False, strict=True)]
Correlation = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False, strict=True)]

# Which fields belong to which kinds alone.
_OF_RATIOS = ("numerator_std", "denominator_mean", "denominator_std", "correlation")
_OF_QUANTILES = ("quantile", "density", "values_per_user", "design_effect")


class PowerIn(BaseModel):
    """Two of `n_control`, `power` and the effect (`mde_absolute` or `mde_relative`); the third is answered.

    A mean needs `std`; a ratio `std`, or what it follows from: `numerator_std`, `denominator_mean`, `denominator_std`
    and `correlation` of one user's two totals; a quantile `std`, or `quantile` and the values' `density` there.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"kind": "proportion", "baseline": 0.1, "mde_relative": 0.05, "power": 0.8},
                {
                    "kind": "ratio",
                    "baseline": 0.25,
                    "numerator_std": 3.1,
                    "denominator_mean": 8,
                    "denominator_std": 9.5,
                    "correlation": 0.7,
                    "mde_relative": 0.02,
                    "power": 0.8,
                    "covariate_correlation": 0.5,
                },
            ]
        },
    )

    kind: Kind = Kind.PROPORTION
    baseline: Amount | None = Field(default=None, description="The control's rate (0 to 1), mean, ratio or quantile.")
    std: Spread | None = Field(
        default=None, description="Standard deviation of one user's contribution; for all kinds but rates."
    )
    numerator_std: SpreadOrNone | None = Field(default=None, description="Of one user's numerator; for ratios.")
    denominator_mean: Spread | None = Field(default=None, description="Of one user's denominator; for ratios.")
    denominator_std: SpreadOrNone | None = Field(default=None, description="Of one user's denominator; for ratios.")
    correlation: Correlation | None = Field(
        default=None, description="Of one user's numerator with the denominator; for ratios."
    )
    quantile: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = Field(
        default=None, description="0.95 is the 95th percentile; for quantiles."
    )
    density: Spread | None = Field(
        default=None,
        description="Of the values at the quantile, such as 0.01 / (the 95.5th - the 94.5th percentile).",
    )
    values_per_user: Spread | None = Field(default=None, description="On average, 1 if left out; for quantiles.")
    design_effect: Spread | None = Field(
        default=None,
        description="How much larger the variance is than with independent values, 1 if left out; for quantiles.",
    )
    covariate_correlation: Annotated[float, Field(gt=-1, lt=1, strict=True)] = Field(
        default=0.0, description="Of the metric with the covariate that CUPED takes out; 0 is without CUPED."
    )
    n_control: Size | None = Field(default=None, description="Users in the control.")
    power: Annotated[float, Field(gt=0, lt=1, strict=True)] | None = None
    mde_absolute: Amount | None = None
    mde_relative: Amount | None = Field(default=None, description="As a share of the baseline: 0.05 is +5 %.")
    alpha: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.05
    alternative: Alternative = Alternative.TWO_SIDED
    ratio_treatment_to_control: Annotated[float, Field(ge=1e-6, le=1e6, strict=True)] = 1.0

    def plan(self) -> Plan:
        """Return the plan with an absolute effect.

        Raises:
            Invalid: fields are missing, contradict each other, or do not belong to the kind.
        """
        if problems := self._problems():
            raise Invalid(problems)
        effect = self._absolute_effect
        if self.kind.is_rate and effect is not None and self.baseline is not None:
            after = self.baseline + effect
            if not 0 <= after <= 1:
                raise Invalid.field(self._effect_field, f"would make the rate {after:g}; it must stay between 0 and 1")
        return Plan(
            kind=self.kind,
            baseline=self.baseline,
            std=self._deviation(),
            n_control=self.n_control,
            power=self.power,
            effect=effect,
            design=Design(
                alpha=self.alpha,
                alternative=self.alternative,
                ratio_treatment_to_control=self.ratio_treatment_to_control,
            ),
            covariate_correlation=self.covariate_correlation,
        )

    @property
    def _effect(self) -> float | None:
        return self.mde_absolute if self.mde_absolute is not None else self.mde_relative

    @property
    def _absolute_effect(self) -> float | None:
        """Return what a test looks for: of a baseline below 0, a relative rise is a fall."""
        if self.mde_relative is None:
            return self.mde_absolute
        return self.mde_relative * self.baseline if self.baseline else None

    @property
    def _effect_field(self) -> str:
        return "mde_relative" if self.mde_relative is not None else "mde_absolute"

    def _problems(self) -> list[FieldProblem]:
        return [
            *self._not_two_of_three(),
            *self._wrong_power(),
            *self._wrong_baseline(),
            *self._wrong_effect(),
            *self._unfit(),
        ]

    def _not_two_of_three(self) -> list[FieldProblem]:
        if self.mde_absolute is not None and self.mde_relative is not None:
            return [{"field": "mde_relative", "detail": "give mde_absolute or mde_relative, not both"}]
        values = {"n_control": self.n_control, "power": self.power, self._effect_field: self._effect}
        given = [name for name, value in values.items() if value is not None]
        if len(given) == 2:
            return []
        concerned = given if len(given) > 2 else [name for name in values if name not in given]
        detail = "give exactly two of n_control, power and mde_absolute or mde_relative; the third is the answer"
        return [{"field": name, "detail": detail} for name in concerned]

    def _wrong_power(self) -> list[FieldProblem]:
        if self.power is None or self.power > self.alpha:
            return []
        return [{"field": "power", "detail": f"must be more than alpha, which is {self.alpha:g}: no test has less"}]

    def _wrong_baseline(self) -> list[FieldProblem]:
        if self.kind.is_rate and (self.baseline is None or not 0 <= self.baseline <= 1):
            return [{"field": "baseline", "detail": f"must be a rate between 0 and 1 when kind is {self.kind}"}]
        if self.mde_relative is not None and not self.baseline:
            detail = "must be given and not 0 for a relative effect; or give mde_absolute"
            return [{"field": "baseline", "detail": detail}]
        if self.kind is Kind.RATIO and self.std is None and self.baseline is None:
            return [{"field": "baseline", "detail": "must be given when kind is ratio and std is left out"}]
        return []

    def _wrong_effect(self) -> list[FieldProblem]:
        effect, is_one_sided = self._absolute_effect, self.alternative is not Alternative.TWO_SIDED
        if 0 in (self._effect, effect):
            return [{"field": self._effect_field, "detail": "must not be 0: no effect needs no test"}]
        if effect is not None and (effect < 0) == (self.alternative is Alternative.GREATER) and is_one_sided:
            sign = "this sign" if self.mde_relative is None else f"{effect:g}, which this share of the baseline is,"
            detail = f"an effect of {sign} is never found by a test whose alternative is {self.alternative}"
            return [{"field": self._effect_field, "detail": detail}]
        return []

    def _unfit(self) -> list[FieldProblem]:
        """Return what does not belong to the kind, and what the kind lacks."""
        problems: list[FieldProblem] = [
            {"field": name, "detail": f"belongs to kind {kind} alone; leave it out when kind is {self.kind}"}
            for kind, fields in ((Kind.RATIO, _OF_RATIOS), (Kind.QUANTILE, _OF_QUANTILES))
            for name in fields
            if self.kind is not kind and getattr(self, name) is not None
        ]
        if self.kind.is_rate and self.std is not None:
            detail = f"follows from the baseline when kind is {self.kind}; leave it out"
            problems.append({"field": "std", "detail": detail})
        if self.kind is Kind.MEAN and self.std is None:
            problems.append({"field": "std", "detail": "must be given when kind is mean"})
        # A deviation, or everything that it follows from: neither both nor neither.
        others = {Kind.RATIO: _OF_RATIOS, Kind.QUANTILE: ("quantile", "density")}.get(self.kind, ())
        given = [getattr(self, other) is not None for other in others]
        if others and ((self.std is None) != all(given) or (self.std is not None and any(given))):
            detail = f"give std, or all of {', '.join(others)}, when kind is {self.kind}"
            problems.append({"field": "std", "detail": detail})
        return problems

    def _deviation(self) -> float | None:
        """Return the standard deviation of one user's contribution.

        Raises:
            Invalid: it is 0 or beyond any range.
        """
        try:
            if self.std is None and self.kind is Kind.RATIO:
                return ratio_deviation(
                    ratio=self.baseline or 0.0,
                    numerator_std=self.numerator_std or 0.0,
                    denominator_mean=self.denominator_mean or 0.0,
                    denominator_std=self.denominator_std or 0.0,
                    correlation=self.correlation or 0.0,
                )
            if self.std is None and self.kind is Kind.QUANTILE:
                return quantile_deviation(
                    quantile=self.quantile or 0.0,
                    density=self.density or 0.0,
                    values_per_user=1.0 if self.values_per_user is None else self.values_per_user,
                    design_effect=1.0 if self.design_effect is None else self.design_effect,
                )
        except ValueError as error:
            raise Invalid.field("body", str(error)) from error
        return self.std


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
    std: Annotated[float | None, Field(description="Of one user's contribution, before CUPED; null for rates.")]
    covariate_correlation: float
    null_reason: str | None

    @classmethod
    def of(cls, asked: PowerIn, plan: Plan, answer: Answer) -> Self:
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
            std=None if plan.kind.is_rate else plan.std,
            covariate_correlation=plan.covariate_correlation,
            null_reason=answer.null_reason,
        )
