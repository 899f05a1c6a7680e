"""All that the parts of an answer are made of. Plain functions on plain values, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.core.errors import Invalid
from app.experiments.lifecycle import Status
from app.experiments.values import Experiment, Variant
from app.results.contrasts import Contrast, contrast
from app.results.measured import Measured
from app.results.provenance import Provenance
from app.results.reading import Pair, Reading
from app.results.values import ArmObservations, Exclusion, Observations, Question


@dataclass(frozen=True, slots=True)
class Arm:
    """A variant, and what was seen of it."""

    variant: Variant
    seen: ArmObservations


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What one answer, or one segment of it, is about."""

    experiment: Experiment
    question: Question
    reading: Reading
    metrics: Sequence[Measured]
    arms: Sequence[Arm]
    provenance: Provenance
    # Every pair that is compared: the treatments against the control first, then those asked for besides.
    pairs: Sequence[tuple[Variant, Variant]]
    # By the metric's key and the pair's variant and control keys.
    contrasts: Mapping[tuple[str, Pair], Contrast] = field(default_factory=dict)

    @property
    def control(self) -> Arm:
        return next(arm for arm in self.arms if arm.variant.is_control)

    @property
    def treatments(self) -> Sequence[Arm]:
        return [arm for arm in self.arms if not arm.variant.is_control]

    @property
    def users(self) -> int:
        return sum(arm.seen.exposed for arm in self.arms)

    @property
    def planned_sample(self) -> int | None:
        planned = self.experiment.plan.sample_size
        return self.reading.planned_sample if planned is None else planned

    @property
    def has_ended(self) -> bool:
        experiment = self.experiment
        over = experiment.ends_at is not None and experiment.ends_at <= self.provenance.computed_at
        return over or experiment.status in {Status.COMPLETED, Status.ARCHIVED}

    @property
    def now(self) -> datetime:
        """The minute up to which users can have come into the answer.

        A rate by the day needs no seconds, and without them answers of one moment from different stores are the same.
        """
        end, now = self.question.end, self.provenance.computed_at
        return (now if end is None else min(end, now)).replace(second=0, microsecond=0)

    @property
    def share_in_two_variants(self) -> float:
        strayed = sum(arm.seen.excluded.get(Exclusion.TWO_VARIANTS, 0) for arm in self.arms)
        return strayed / (self.users + strayed) if strayed else 0.0

    def below_min_sample(self, arm: Arm) -> bool:
        return arm.seen.exposed < self.question.min_sample

    def against_control(self, arm: Arm) -> Pair:
        return Pair(arm.variant.key, self.control.variant.key)


def page_of(
    experiment: Experiment,
    question: Question,
    reading: Reading,
    metrics: Sequence[Measured],
    observations: Observations,
    provenance: Provenance,
) -> Page:
    """Compare all pairs of variants by all metrics.

    Raises:
        Invalid: a pair names no two variants of the experiment.
    """
    pairs = _pairs(experiment, reading)
    return Page(
        experiment=experiment,
        question=question,
        reading=reading,
        metrics=metrics,
        arms=[Arm(variant, observations.of(variant.id)) for variant in experiment.variants],
        provenance=provenance,
        pairs=pairs,
        contrasts={
            (metric.key, Pair(variant.key, control.key)): contrast(
                metric, metric.of(control.id), metric.of(variant.id), question.confidence
            )
            for variant, control in pairs
            for metric in metrics
        },
    )


def _pairs(experiment: Experiment, reading: Reading) -> list[tuple[Variant, Variant]]:
    control = experiment.control
    found = [(variant, control) for variant in experiment.variants if not variant.is_control]
    for pair in reading.compare:
        variant, against = (_named(experiment, key) for key in (pair.variant, pair.control))
        if variant is against:
            raise Invalid.field("compare", f"{pair} names one variant twice; name two, as <variant>:<against>")
        if (variant, against) not in found:
            found.append((variant, against))
    return found


def _named(experiment: Experiment, key: str) -> Variant:
    if (variant := experiment.variant_with_key(key)) is not None:
        return variant
    known = ", ".join(variant.key for variant in experiment.variants)
    raise Invalid.field("compare", f"there is no variant {key!r}; the experiment has {known}")
