"""What an answer says, given everything that is known. Plain functions, no I/O."""

from datetime import datetime

from app.assignments.bucketing import in_traffic, variant_for
from app.assignments.values import Answer, Override, Question, Reason, Source, Stored, VariantAnswer
from app.experiments.lifecycle import Phase, phase_of
from app.experiments.values import Experiment, Variant

_HUNDRED_PERCENT = 100


def phase_at(experiment: Experiment, now: datetime) -> Phase:
    return phase_of(experiment.status, experiment.starts_at, experiment.ends_at, now)


def answer_without_look_up(question: Question, phase: Phase, override: Override | None) -> Answer | None:
    """Answer what needs no stored assignment; `None` when it does."""
    if phase in {Phase.ENDED, Phase.ARCHIVED}:
        return no_variant(question, Reason(phase.value))
    if override is not None:
        return overridden(question, override)
    if phase in {Phase.DRAFT, Phase.NOT_STARTED}:
        return no_variant(question, Reason(phase.value))
    return None


def answer_for_unassigned(question: Question, phase: Phase) -> Answer | None:
    """Answer for a user without an assignment; `None` when one should be stored now."""
    if phase is Phase.PAUSED:
        return no_variant(question, Reason.EXPERIMENT_PAUSED)
    if not enters(question):
        return no_variant(question, Reason.NOT_IN_TRAFFIC)
    if not question.enroll:
        return hashed(question, Reason.PREVIEW)
    return None


def answer_while_store_is_away(question: Question, phase: Phase) -> Answer:
    """Answer for a user of whom no cache knows: the variant that the hash gives, enrolled by a later request.

    Ranges never change once an experiment has started, so this is the variant that the user will keep.
    """
    if phase is Phase.OPEN and enters(question):
        return hashed(question, Reason.STORE_UNAVAILABLE)
    return no_variant(question, Reason.STORE_UNAVAILABLE)


def enters(question: Question) -> bool:
    experiment = question.experiment
    return experiment.traffic_pct >= _HUNDRED_PERCENT or in_traffic(
        question.user_id, experiment.seed, experiment.traffic_pct
    )


def hashed_variant(question: Question) -> Variant:
    return variant_for(question.user_id, question.experiment.seed, question.experiment.variants)


def existing(question: Question, stored: Stored, reason: Reason = Reason.EXISTING_ASSIGNMENT) -> Answer:
    variant = question.experiment.variant_with_id(stored.variant_id)
    assert variant is not None  # noqa: S101  # A foreign key guarantees it; caches are checked before.
    return Answer(
        experiment_id=question.experiment.id,
        experiment_key=question.experiment.key,
        user_id=question.user_id,
        variant=VariantAnswer.of(variant),
        enrolled=True,
        reason=reason,
        source=stored.source,
        version=stored.version,
        assigned_at=stored.assigned_at,
    )


def overridden(question: Question, override: Override) -> Answer:
    stored = Stored(override.variant_id, Source.OVERRIDE, question.experiment.version, override.exposed_at)
    return existing(question, stored, Reason.OVERRIDE)


def hashed(question: Question, reason: Reason) -> Answer:
    return Answer(
        experiment_id=question.experiment.id,
        experiment_key=question.experiment.key,
        user_id=question.user_id,
        variant=VariantAnswer.of(hashed_variant(question)),
        enrolled=False,
        reason=reason,
        source=Source.HASH,
        version=question.experiment.version,
        assigned_at=None,
    )


def no_variant(question: Question, reason: Reason) -> Answer:
    return Answer(
        experiment_id=question.experiment.id,
        experiment_key=question.experiment.key,
        user_id=question.user_id,
        variant=None,
        enrolled=False,
        reason=reason,
        source=None,
        version=question.experiment.version,
        assigned_at=None,
    )
