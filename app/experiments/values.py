"""Experiments as values: immutable, so that memory can hand them to every request."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from app.experiments.analysis_plan import NO_PLAN, AnalysisPlan, Seal
from app.experiments.lifecycle import Status
from app.experiments.population import EVERYBODY, Population
from app.metrics.values import AttachedMetric


@dataclass(frozen=True, slots=True)
class VariantPlan:
    """A variant as a caller plans it."""

    key: str
    name: str
    allocation_pct: Decimal
    is_control: bool
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A stored variant with its half-open bucket range."""

    id: int
    key: str
    name: str
    allocation_pct: Decimal
    is_control: bool
    config: Mapping[str, Any]
    bucket_start: int
    bucket_end: int

    @property
    def plan(self) -> VariantPlan:
        return VariantPlan(self.key, self.name, self.allocation_pct, self.is_control, self.config)


@dataclass(frozen=True, slots=True)
class Experiment:
    """A stored experiment with its variants in the order in which they were listed."""

    id: int
    project_id: int
    key: str
    name: str
    description: str | None
    status: Status
    seed: str
    traffic_pct: Decimal
    config: Mapping[str, Any]
    version: int
    starts_at: datetime | None
    ends_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
    updated_at: datetime
    variants: tuple[Variant, ...]
    population: Population = EVERYBODY
    plan: AnalysisPlan = NO_PLAN
    # Set at the start; since then neither the plan nor the versions of its metrics change.
    seal: Seal | None = None
    # The planned metrics in their order, then those attached after the start.
    metrics: tuple[AttachedMetric, ...] = ()

    @property
    def control(self) -> Variant:
        return next(variant for variant in self.variants if variant.is_control)

    def variant_with_key(self, key: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.key == key), None)

    def variant_with_id(self, variant_id: int) -> Variant | None:
        return next((variant for variant in self.variants if variant.id == variant_id), None)


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """An experiment as a caller plans it."""

    key: str
    name: str
    description: str | None
    seed: str
    traffic_pct: Decimal
    config: Mapping[str, Any]
    starts_at: datetime | None
    ends_at: datetime | None
    variants: tuple[VariantPlan, ...]
    population: Population = EVERYBODY
    analysis: AnalysisPlan = NO_PLAN


@dataclass(frozen=True, slots=True)
class ExperimentFilter:
    """Which experiments to list."""

    status: Status | None
    key_prefix: str | None
    q: str | None
