"""Where an answer comes from, so that it can be traced and had again. Plain functions, no I/O."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from app.experiments.values import Experiment
from app.results.answer import ProvenanceResult
from app.results.measured import Measured
from app.results.reading import Reading
from app.results.rollup_use import NOT_FROM_HISTORY, RollupUse
from app.results.values import Observations, Question, Source

# The answer was made without asking PostgreSQL, which alone counts events that it drops.
NOT_COUNTED = "NOT_COUNTED"
# PostgreSQL gave up the counts of that time together with its events.
EVENTS_DROPPED = "EVENTS_DROPPED"
# Part of the events were counted ahead, and rollups do not know which of them came late.
COUNTED_AHEAD = "COUNTED_AHEAD"
# The answer is one that is not kept: a part of another, or made without the service.
NOT_STORED = "NOT_STORED"
STORE_UNAVAILABLE = "STORE_UNAVAILABLE"

_NAMES: Mapping[Source, tuple[str, ...]] = {
    Source.HOT: ("postgresql",),
    Source.COLD: ("clickhouse",),
    Source.BOTH: ("clickhouse", "postgresql"),
}


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many events were dropped because their ids were known; `None` where nobody knows, and why."""

    dropped: int | None
    null_reason: str | None


_NOBODY_ASKED = Duplicates(None, NOT_COUNTED)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where observations come from, and how far they reach."""

    source: Source
    complete_until: datetime
    computed_at: datetime
    rollups: RollupUse = NOT_FROM_HISTORY
    duplicates: Duplicates = _NOBODY_ASKED


def provenance_of(
    experiment: Experiment,
    question: Question,
    reading: Reading,
    measured: Sequence[Measured],
    observations: Observations,
    provenance: Provenance,
) -> ProvenanceResult:
    """Return what the answer says about where it comes from; it has no id yet."""
    unknown = {"answer_id": NOT_STORED}
    if provenance.duplicates.null_reason is not None:
        unknown["duplicates_dropped"] = provenance.duplicates.null_reason
    if observations.late_events is None:
        unknown["late_events"] = COUNTED_AHEAD
    lag = provenance.computed_at - provenance.complete_until
    return ProvenanceResult(
        sources=_NAMES[provenance.source],
        complete_until=provenance.complete_until,
        # The stores' clocks may be ahead of this one by a moment.
        lag_seconds=max(0.0, lag.total_seconds()),
        events_counted=sum(observations.of(variant.id).events for variant in experiment.variants),
        duplicates_dropped=provenance.duplicates.dropped,
        late_events=observations.late_events,
        users_excluded=excluded_by_reason(experiment, observations),
        experiment_version=experiment.version,
        metric_versions={metric.key: metric.version for metric in measured},
        query_hash=query_hash(experiment, question, reading, measured),
        answer_id=None,
        null_reasons=unknown,
    )


def with_answer_id(found: ProvenanceResult, answer_id: str) -> ProvenanceResult:
    """Return the provenance of an answer that is kept."""
    reasons = {field: code for field, code in found.null_reasons.items() if field != "answer_id"}
    return replace(found, answer_id=answer_id, null_reasons=reasons)


def without_answer_id(found: ProvenanceResult, reason: str) -> ProvenanceResult:
    """Return the provenance of an answer that could not be kept."""
    return replace(found, answer_id=None, null_reasons={**found.null_reasons, "answer_id": reason})


def excluded_by_reason(experiment: Experiment, observations: Observations) -> Mapping[str, int]:
    """Return how many users are left out, by reason, over all variants."""
    totals: dict[str, int] = defaultdict(int)
    for variant in experiment.variants:
        for reason, users in observations.of(variant.id).excluded.items():
            totals[reason.value] += users
    return dict(totals)


def query_hash(experiment: Experiment, question: Question, reading: Reading, measured: Sequence[Measured]) -> str:
    """Return the SHA-256 of the question in one form, with the versions that give it its meaning.

    Whether a kept answer would do is no part of what is asked.
    """
    canonical = {
        "experiment": experiment.id,
        "experiment_version": experiment.version,
        "metric_versions": {metric.key: metric.version for metric in measured},
        "question": replace(question, fresh=False, start=_in_utc(question.start), end=_in_utc(question.end)),
        "reading": reading,
    }
    return hashlib.sha256(msgspec.json.encode(canonical, order="deterministic")).hexdigest()


def _in_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
