"""An experiment with everything that a report can show."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np

from app.experiments.analysis_plan import AnalysisPlan, PlannedMetric, Seal, StoppingRule
from app.experiments.sealing import PlanAccount, Verdict
from app.experiments.values import Experiment
from app.metrics.values import AttachedMetric, Direction, Kind, Metric, Recipe, Role, Selection
from app.reports.values import Material
from app.results.analysis import analyse
from app.results.measured import DailyArm, Measured, MeasuredArm, Shape
from app.results.provenance import Provenance
from app.results.reading import PLAIN, Reading
from app.results.values import Entries, Exclusion, Observations, Question, Source
from app.stats.samples import ArmEstimate, CovariateSample, MeanSample, Proportion
from tests.unit.results.arms import STARTED, arm, experiment

DAY = timedelta(days=1)
NOW = STARTED + timedelta(days=21)
HERE = Provenance(Source.BOTH, NOW - timedelta(seconds=2), NOW)
DAYS = 21
# What tries to break out of every place that a name can get into.
HOSTILE = """</title></style></script><script>alert(1)</script><img src=x onerror="alert(2)">'"&<svg/onload=alert(3)>"""
HASH = "0123456789abcdef" * 4


def attached(key: str, role: Role, *, name: str = "A metric", **fields: Any) -> AttachedMetric:
    metric = Metric(
        id=1,
        project_id=1,
        key=key,
        version=2,
        name=name,
        description=None,
        recipe=Recipe(kind=Kind.SUM, selections=(Selection(("purchase",)),)),
        direction=fields.pop("direction", Direction.UP),
        unit=fields.pop("unit", None),
    )
    return AttachedMetric(metric=metric, role=role, **fields)


def rates(key: str, levels: tuple[float, ...], users: int = 2000, **fields: Any) -> Measured:
    """Return shares that each day brings users of its own."""
    rng = np.random.default_rng(1)
    arms = {}
    for number, level in enumerate(levels, start=1):
        daily, successes, trials = [], 0, 0
        for day in range(DAYS):
            new = users // DAYS
            successes, trials = successes + int(rng.binomial(new, level)), trials + new
            daily.append(DailyArm(time=STARTED + day * DAY, sample=Proportion(successes, trials)))
        arms[number] = MeasuredArm(sample=Proportion(successes, trials), daily=tuple(daily))
    return Measured(key=key, shape=Shape.RATE, arms=arms, **fields)


def means(key: str, shifts: tuple[float, ...], users: int = 2000, **fields: Any) -> Measured:
    rng = np.random.default_rng(2)
    arms = {}
    for number, shift in enumerate(shifts, start=1):
        before = rng.normal(20, 6, users)
        after = before + rng.normal(shift, 4, users)
        covariate = CovariateSample.from_sums(
            n=users,
            post_sum=after.sum(),
            post_sum_squares=(after**2).sum(),
            pre_sum=before.sum(),
            pre_sum_squares=(before**2).sum(),
            post_pre_sum_products=(after * before).sum(),
        )
        daily = []
        for day in range(DAYS):
            some = after[: (day + 1) * users // DAYS]
            sample = MeanSample.from_sums(n=len(some), sum_values=some.sum(), sum_squares=(some**2).sum())
            daily.append(DailyArm(time=STARTED + day * DAY, sample=sample))
        arms[number] = MeasuredArm(sample=covariate.sums.first, covariate=covariate, daily=tuple(daily))
    return Measured(key=key, shape=Shape.MEAN, arms=arms, **fields)


def planned(arms: int = 3, **fields: Any) -> Experiment:
    plan = AnalysisPlan(
        hypothesis="A shorter form lets more people finish, and returns stay as they are.",
        sample_size=6000,
        stopping_rule=StoppingRule.ALWAYS_VALID,
        metrics=(PlannedMetric("signup", Role.PRIMARY), PlannedMetric("refunds", Role.GUARDRAIL, 0.02)),
    )
    metrics = (
        attached("signup", Role.PRIMARY, name="Finished sign-ups"),
        attached("refunds", Role.GUARDRAIL, name="Refunds", direction=Direction.DOWN, margin=0.02, unit="EUR"),
        attached("spend", Role.SECONDARY, name="Spend per user", exploratory=True, unit="EUR"),
    )
    seal = Seal(STARTED, HASH)
    return experiment(arms, **{"plan": plan, "metrics": metrics, "seal": seal, **fields})


def material(arms: int = 3, reading: Reading = PLAIN, question: Question | None = None, **fields: Any) -> Material:
    """Return an experiment of three weeks with an effect in its first treatment."""
    found = planned(arms, **fields)
    lifts = (0.20, 0.26, 0.205)[:arms]
    metrics = [
        rates("signup", lifts, role=Role.PRIMARY, version=2),
        means(
            *("refunds", (0.0, 0.1, -0.2)[:arms]),
            direction=Direction.DOWN,
            role=Role.GUARDRAIL,
            margin=0.02,
            version=2,
        ),
        means("spend", (0.0, 0.4, 0.3)[:arms], exploratory=True, unit="EUR", version=2),
        Measured(
            key="unique_users",
            shape=Shape.TOTAL,
            tested=False,
            arms={number: MeasuredArm(sample=arm_of(number)) for number in range(1, arms + 1)},
        ),
    ]
    seen = Observations(
        {
            number: replace(
                arm(1995, 400),
                excluded={Exclusion.OVERRIDE: 3, Exclusion.TWO_VARIANTS: number},
                entries=tuple(Entries(STARTED + day * DAY, 95 + (number * day) % 3) for day in range(DAYS)),
            )
            for number in range(1, arms + 1)
        },
        late_events=4,
    )
    results = analyse(found, question or Question(), reading, metrics, seen, HERE)
    account = PlanAccount("{}", found.seal, Verdict((), ("traffic_pct",)))
    return Material(found, results, account)


def arm_of(number: int) -> ArmEstimate:
    """Return a total as an estimate without a variance."""
    return ArmEstimate(n=1995, value=Fraction(400 + number), variance=None)
