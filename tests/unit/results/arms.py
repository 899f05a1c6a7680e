"""Observations as tests need them."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from app.experiments.lifecycle import Status
from app.experiments.values import Experiment, Variant
from app.results.contrasts import Contrast, contrast, detectable_effect
from app.results.estimates import Measure, measure
from app.results.measured import Measured
from app.results.recipes import measured
from app.results.values import ArmObservations, Metric, Observations, ValueSums

STARTED = datetime(2026, 3, 1, tzinfo=UTC)


def arm(exposed: int, converters: int = 0, *, values: tuple[float, ...] = ()) -> ArmObservations:
    """Return an arm; each of `values` is the one value of one user."""
    exact = [Fraction(value) for value in values]
    return ArmObservations(
        exposed=exposed,
        exposed_by_plan=exposed,
        converters=converters,
        events=max(converters, len(values)),
        sums=ValueSums(
            totals=sum(exact, Fraction(0)),
            total_squares=sum((value**2 for value in exact), Fraction(0)),
            counts=len(exact),
            count_squares=len(exact),
            products=sum(exact, Fraction(0)),
        ),
    )


def experiment(arms: int = 2, **fields: Any) -> Experiment:
    """Return a running experiment whose variants have the ids 1, 2, ...; the first is the control."""
    share = Decimal(100) / arms
    values: dict[str, Any] = {
        "id": 7,
        "project_id": 1,
        "key": "checkout",
        "name": "Checkout",
        "description": None,
        "status": Status.RUNNING,
        "seed": "seed",
        "traffic_pct": Decimal(100),
        "config": {},
        "version": 3,
        "starts_at": None,
        "ends_at": None,
        "started_at": STARTED,
        "ended_at": None,
        "created_at": STARTED,
        "updated_at": STARTED,
        "variants": tuple(
            Variant(
                id=number,
                key="control" if number == 1 else f"treatment_{number - 1}",
                name=f"Variant {number}",
                allocation_pct=share,
                is_control=number == 1,
                config={},
                bucket_start=0,
                bucket_end=1,
            )
            for number in range(1, arms + 1)
        ),
        **fields,
    }
    return Experiment(**values)


def observed(*arms: ArmObservations) -> Observations:
    return Observations(dict(enumerate(arms, start=1)))


def built_in(metric: Metric, *arms: ArmObservations) -> Measured:
    """Return the metric as it was measured in the arms, the control first."""
    return measured(metric, experiment(len(arms)), observed(*arms))


def measure_of(metric: Metric, seen: ArmObservations, confidence: float = 0.95) -> Measure:
    found = built_in(metric, seen, seen)
    return measure(found, found.of(1), confidence)


def contrast_of(
    metric: Metric, control: ArmObservations, treatment: ArmObservations, confidence: float = 0.95
) -> Contrast:
    found = built_in(metric, control, treatment)
    return contrast(found, found.of(1), found.of(2), confidence)


def detectable_of(
    metric: Metric, control: ArmObservations, treatment: ArmObservations, confidence: float = 0.95
) -> float | None:
    found = built_in(metric, control, treatment)
    return detectable_effect(found, found.of(1), found.of(2), confidence).effect
