"""Plans and attached metrics, as callers send and get them."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from app.core.names import Key
from app.core.text import refuse_blank, refuse_control_characters_but_line_breaks
from app.experiments.analysis_plan import MAX_METRICS, AnalysisPlan, PlannedMetric, Seal, Spending, StoppingRule
from app.experiments.examples import ATTACHED_METRIC
from app.experiments.sealing import PlanAccount, read_document
from app.metrics.builtin import BUILT_IN_ID
from app.metrics.documents import recipe_document
from app.metrics.recipe_schemas import Share, WholeNumber
from app.metrics.schemas import RecipeOut
from app.metrics.values import AttachedMetric, Direction, Role

MAX_LOOKS = 50
MAX_SAMPLE_SIZE = 10**12

Hypothesis = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000),
    AfterValidator(refuse_control_characters_but_line_breaks),
    AfterValidator(refuse_blank),
]
Version = Annotated[WholeNumber, Field(ge=1, le=2**31 - 1)]


class MetricUseIn(BaseModel):
    """A metric in its role. A guardrail may have a margin: the largest relative loss that is acceptable."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"metric": "conversion_rate", "role": "secondary"}]}
    )

    metric: Key = Field(description="The key of a stored metric, or of one that needs no set-up.")
    role: Role
    margin: Share | None = Field(
        default=None, description="Of guardrails: 0.02 accepts a loss of 2 % of the control's value."
    )
    version: Version | None = Field(default=None, description="Left out: the latest one at the start.")

    @field_validator("margin")
    @classmethod
    def _of_guardrails_alone(cls, margin: float | None, others: ValidationInfo) -> float | None:
        if margin is not None and others.data.get("role", Role.GUARDRAIL) is not Role.GUARDRAIL:
            raise ValueError("is of use for guardrails alone; remove it, or make the metric a guardrail")
        return margin

    def planned(self) -> PlannedMetric:
        return PlannedMetric(self.metric, self.role, self.margin, self.version)


def _each_once_one_primary(metrics: list[MetricUseIn]) -> list[MetricUseIn]:
    keys = [item.metric for item in metrics]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"name each metric once; {twice[0]} is there several times")
    if sum(item.role is Role.PRIMARY for item in metrics) > 1:
        raise ValueError("at most one metric is primary: the one that decides. Make the others secondary")
    return metrics


class PlanIn(BaseModel):
    """How the experiment will be judged. It is sealed at the start."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "hypothesis": "A green button sells more, and returns stay as they are.",
                    "sample_size": 40_000,
                    "stopping_rule": "group_sequential",
                    "looks": 5,
                    "spending": "obrien_fleming",
                    "metrics": [
                        {"metric": "conversion_rate", "role": "primary"},
                        {"metric": "value_per_user", "role": "guardrail", "margin": 0.02},
                    ],
                }
            ]
        },
    )

    hypothesis: Hypothesis | None = None
    sample_size: Annotated[WholeNumber, Field(ge=2, le=MAX_SAMPLE_SIZE)] | None = Field(
        default=None, description="Users of all variants together."
    )
    stopping_rule: StoppingRule = StoppingRule.FIXED
    looks: Annotated[WholeNumber, Field(ge=2, le=MAX_LOOKS)] | None = Field(
        default=None, validate_default=True, description="Of group_sequential; the last one at the sample size."
    )
    spending: Spending | None = Field(default=None, validate_default=True, description="Of group_sequential.")
    metrics: Annotated[list[MetricUseIn], Field(max_length=MAX_METRICS), AfterValidator(_each_once_one_primary)] = (
        Field(default_factory=list, description="Empty: nothing is promised; results show what they show without.")
    )

    @field_validator("looks", "spending")
    @classmethod
    def _of_group_sequential(cls, value: object, others: ValidationInfo) -> object:
        is_sequential = others.data.get("stopping_rule") is StoppingRule.GROUP_SEQUENTIAL
        if is_sequential and value is None:
            raise ValueError("is needed for stopping_rule group_sequential")
        if not is_sequential and value is not None and "stopping_rule" in others.data:
            raise ValueError("is of use with stopping_rule group_sequential alone; remove it")
        return value

    @field_validator("stopping_rule")
    @classmethod
    def _looks_have_a_size(cls, rule: StoppingRule, others: ValidationInfo) -> StoppingRule:
        # A sample size that was refused is not there either, and has been said.
        if rule is StoppingRule.GROUP_SEQUENTIAL and others.data.get("sample_size", 0) is None:
            raise ValueError("group_sequential needs sample_size: its looks are shares of it")
        return rule

    def plan(self) -> AnalysisPlan:
        return AnalysisPlan(
            hypothesis=self.hypothesis,
            sample_size=self.sample_size,
            stopping_rule=self.stopping_rule,
            looks=self.looks,
            spending=self.spending,
            metrics=tuple(item.planned() for item in self.metrics),
        )


class MetricUseOut(BaseModel):
    """`version` is null for a metric that needs no set-up, and before the start where none was named."""

    metric: str
    role: Role
    margin: float | None
    version: int | None


class PlanOut(BaseModel):
    """How the experiment will be judged; `sealed_at` and `hash` are null before the start."""

    hypothesis: str | None
    sample_size: int | None
    stopping_rule: StoppingRule
    looks: int | None
    spending: Spending | None
    metrics: list[MetricUseOut]
    sealed_at: datetime | None
    hash: str | None

    @classmethod
    def of(cls, plan: AnalysisPlan, seal: Seal | None) -> Self:
        return cls(
            hypothesis=plan.hypothesis,
            sample_size=plan.sample_size,
            stopping_rule=plan.stopping_rule,
            looks=plan.looks,
            spending=plan.spending,
            metrics=[
                MetricUseOut(metric=item.metric, role=item.role, margin=item.margin, version=item.version)
                for item in plan.metrics
            ],
            sealed_at=None if seal is None else seal.sealed_at,
            hash=None if seal is None else seal.hash,
        )


class AttachedMetricOut(BaseModel):
    """A metric of an experiment in the version that its results use.

    `metric_id` and `version` are null for a metric that needs no set-up, as in results.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [ATTACHED_METRIC]})

    metric: str
    metric_id: int | None
    version: int | None
    name: str
    role: Role
    margin: float | None
    exploratory: bool
    direction: Direction
    unit: str | None
    recipe: RecipeOut

    @classmethod
    def of(cls, attached: AttachedMetric) -> Self:
        metric = attached.metric
        is_stored = metric.id != BUILT_IN_ID
        return cls(
            metric=metric.key,
            metric_id=metric.id if is_stored else None,
            version=metric.version if is_stored else None,
            name=metric.name,
            role=attached.role,
            margin=attached.margin,
            exploratory=attached.exploratory,
            direction=metric.direction,
            unit=metric.unit,
            recipe=RecipeOut(**recipe_document(metric.recipe)),
        )


class AttachedMetricsOut(BaseModel):
    """All metrics of an experiment."""

    items: list[AttachedMetricOut]


class SealedPlanOut(BaseModel):
    """The plan as it was sealed; before the start as it would be.

    `canonical` is the very text whose SHA-256 is `hash`; `document` is the same, read, and null if it is no plan.
    `verified` is recomputed: the text has this hash, what is stored about the experiment is still what the text says,
    and the audit log's entry of the start has the same hash. `changed_since` names what may lawfully change after the
    start and did.
    """

    document: dict[str, Any] | None
    canonical: str
    hash: str | None
    sealed_at: datetime | None
    verified: bool | None
    problems: list[str]
    changed_since: list[str]

    @classmethod
    def of(cls, account: PlanAccount) -> Self:
        found = account.verdict
        return cls(
            document=read_document(account.document),
            canonical=account.document,
            hash=None if account.seal is None else account.seal.hash,
            sealed_at=None if account.seal is None else account.seal.sealed_at,
            verified=None if found is None else not found.problems,
            problems=[] if found is None else list(found.problems),
            changed_since=[] if found is None else list(found.changed_since),
        )
