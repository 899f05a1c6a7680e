"""Requests and answers about experiments."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from app.core.moments import Moment
from app.core.names import Key, Name
from app.core.numbers import refuse_other_than_numbers
from app.core.text import encoded_if_storable, refuse_control_characters_but_line_breaks
from app.experiments.allocation import bucket_ranges, new_seed
from app.experiments.analysis_plan import NO_PLAN
from app.experiments.examples import EXPERIMENT
from app.experiments.lifecycle import Status
from app.experiments.plan_schemas import PlanIn, PlanOut
from app.experiments.population import EVERYBODY
from app.experiments.population_schemas import PopulationIn, PopulationOut
from app.experiments.values import Experiment, ExperimentPlan, Variant, VariantPlan

MAX_VARIANTS = 50
MAX_CONFIG_BYTES = 65_536

Description = Annotated[
    str, StringConstraints(max_length=10_000), AfterValidator(refuse_control_characters_but_line_breaks)
]
Seed = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


_HUNDREDTH = Decimal("0.01")
# Quantised as the database keeps it, so that 50 and 50.00 are no change.
Percent = Annotated[
    Decimal,
    BeforeValidator(refuse_other_than_numbers),
    Field(ge=0, le=100, max_digits=5, decimal_places=2),
    AfterValidator(lambda percent: percent.quantize(_HUNDREDTH)),
]


def _storable_config(config: dict[str, Any]) -> dict[str, Any]:
    if len(encoded_if_storable(config)) > MAX_CONFIG_BYTES:
        raise ValueError(f"must be at most {MAX_CONFIG_BYTES} bytes of JSON")
    return config


Config = Annotated[dict[str, Any], AfterValidator(_storable_config)]


class VariantIn(BaseModel):
    """A variant to make. `allocation_pct` is its share of the experiment's users."""

    model_config = ConfigDict(extra="forbid")

    key: Key
    name: Name
    allocation_pct: Percent
    is_control: StrictBool
    config: Config = Field(default_factory=dict)

    def plan(self) -> VariantPlan:
        return VariantPlan(self.key, self.name, self.allocation_pct, self.is_control, self.config)


def _consistent(variants: list[VariantIn]) -> list[VariantIn]:
    keys = [variant.key for variant in variants]
    if len(set(keys)) != len(keys):
        raise ValueError("each variant needs a key of its own")
    controls = sum(variant.is_control for variant in variants)
    if controls != 1:
        raise ValueError(f"exactly one variant must have is_control true; {controls} have")
    bucket_ranges([variant.allocation_pct for variant in variants])
    return variants


Variants = Annotated[list[VariantIn], Field(min_length=2, max_length=MAX_VARIANTS), AfterValidator(_consistent)]


def _draft_or_running(status: object) -> object:
    # Before its type is looked at, whose words would name all states.
    if status not in (Status.DRAFT, Status.RUNNING):
        raise ValueError("must be draft or running; the other states are reached by moves")
    return status


class ExperimentIn(BaseModel):
    """An experiment to make: a draft, unless `status` says `running`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "key": "green-button",
                    "name": "Green checkout button",
                    "variants": [
                        {"key": "control", "name": "Blue", "allocation_pct": 50, "is_control": True},
                        {"key": "green", "name": "Green", "allocation_pct": 50, "is_control": False},
                    ],
                    "status": "running",
                }
            ]
        },
    )

    key: Key
    name: Name
    description: Description | None = None
    variants: Variants
    seed: Seed | None = Field(default=None, description="Left out: a random one.")
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    traffic_pct: Percent = Decimal(100)
    config: Config = Field(default_factory=dict)
    population: PopulationIn | None = Field(default=None, description="Who counts in results; left out: everybody.")
    plan: PlanIn | None = Field(default=None, description="How results will be judged; sealed at the start.")
    status: Annotated[
        Status, BeforeValidator(_draft_or_running), Field(json_schema_extra={"enum": ["draft", "running"]})
    ] = Status.DRAFT

    @field_validator("ends_at")
    @classmethod
    def _ends_after_start(cls, ends_at: datetime | None, others: ValidationInfo) -> datetime | None:
        starts_at = others.data.get("starts_at")
        if starts_at is not None and ends_at is not None and ends_at <= starts_at:
            raise ValueError("must be later than starts_at")
        return ends_at

    def experiment(self) -> ExperimentPlan:
        return ExperimentPlan(
            key=self.key,
            name=self.name,
            description=self.description,
            seed=self.seed or new_seed(),
            traffic_pct=self.traffic_pct,
            config=self.config,
            starts_at=self.starts_at,
            ends_at=self.ends_at,
            variants=tuple(variant.plan() for variant in self.variants),
            population=EVERYBODY if self.population is None else self.population.population(),
            analysis=NO_PLAN if self.plan is None else self.plan.plan(),
        )


class ExperimentChange(BaseModel):
    """Fields to set; those left out stay.

    `null` clears `description`, `starts_at`, `ends_at`, `population` and `plan`; the last two are set as a whole.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"traffic_pct": 50}, {"name": "Greener button", "ends_at": None}]},
    )

    # By factories, which no schema shows: a client that fills in what a schema gives as default would change fields.
    key: Key = Field(default_factory=str, validate_default=False)
    name: Name = Field(default_factory=str, validate_default=False)
    description: Description | None = None
    variants: Variants = Field(default_factory=list, validate_default=False)
    seed: Seed = Field(default_factory=str, validate_default=False)
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    traffic_pct: Percent = Field(default_factory=Decimal, validate_default=False)
    config: Config = Field(default_factory=dict)
    population: PopulationIn | None = None
    plan: PlanIn | None = None

    def wanted(self) -> Mapping[str, Any]:
        """Return the fields that were sent."""
        values = {field: getattr(self, field) for field in self.model_fields_set}
        if "variants" in values:
            values["variants"] = tuple(variant.plan() for variant in self.variants)
        if "population" in values:
            values["population"] = EVERYBODY if self.population is None else self.population.population()
        if "plan" in values:
            values["plan"] = NO_PLAN if self.plan is None else self.plan.plan()
        return values


class VariantOut(BaseModel):
    """A stored variant. It owns the buckets from `bucket_start` up to, not including, `bucket_end`."""

    id: int
    key: str
    name: str
    allocation_pct: float
    is_control: bool
    config: dict[str, Any]
    bucket_start: int
    bucket_end: int

    @classmethod
    def of(cls, variant: Variant) -> Self:
        return cls(
            id=variant.id,
            key=variant.key,
            name=variant.name,
            allocation_pct=float(variant.allocation_pct),
            is_control=variant.is_control,
            config=dict(variant.config),
            bucket_start=variant.bucket_start,
            bucket_end=variant.bucket_end,
        )


class ExperimentOut(BaseModel):
    """A stored experiment."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXPERIMENT]})

    id: int
    key: str
    name: str
    description: str | None
    status: Status
    variants: list[VariantOut]
    seed: str
    traffic_pct: float
    config: dict[str, Any]
    population: PopulationOut | None
    plan: PlanOut
    version: int
    starts_at: datetime | None
    ends_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        return cls(
            id=experiment.id,
            key=experiment.key,
            name=experiment.name,
            description=experiment.description,
            status=experiment.status,
            variants=[VariantOut.of(variant) for variant in experiment.variants],
            seed=experiment.seed,
            traffic_pct=float(experiment.traffic_pct),
            config=dict(experiment.config),
            population=PopulationOut.of(experiment.population),
            plan=PlanOut.of(experiment.plan, experiment.seal),
            version=experiment.version,
            starts_at=experiment.starts_at,
            ends_at=experiment.ends_at,
            started_at=experiment.started_at,
            ended_at=experiment.ended_at,
            created_at=experiment.created_at,
            updated_at=experiment.updated_at,
        )


class ExperimentList(BaseModel):
    """One page of experiments."""

    items: list[ExperimentOut]
    next_cursor: str | None
