"""What is promised at the start, as one text with a hash, and whether it still holds. Plain functions, no I/O."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec

from app.experiments.analysis_plan import Seal, SealedPlan
from app.experiments.population import ExposureRule
from app.experiments.values import Experiment
from app.metrics.documents import recipe_document
from app.metrics.values import AttachedMetric

_FORMAT = 1
# Plans are far from this deep, and what is much deeper cannot be written into an answer.
_DEEPEST = 50
# What may change after the start; all else in the document may not.
_CHANGEABLE = ("traffic_pct", "population.exclude_users", "population.exclude_context")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a sealed plan found: what contradicts the seal, and what changed lawfully since."""

    problems: tuple[str, ...]
    changed_since: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotedStart:
    """The audit log's entry of the start. `plan_hash` `None`: it was written before plans were sealed."""

    plan_hash: str | None


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """What an experiment promises.

    Without a seal the text is what would be sealed now; there is no verdict then, unless there ought to be a seal.
    """

    document: str
    seal: Seal | None
    verdict: Verdict | None


def plan_document(experiment: Experiment, sealed_at: datetime | None) -> dict[str, Any]:
    """Describe what an experiment promises: how users are split, who counts, and how the results are judged."""
    population, plan = experiment.population, experiment.plan
    by_event = population.exposure is ExposureRule.EVENT
    return {
        "format": _FORMAT,
        "sealed_at": None if sealed_at is None else sealed_at.isoformat(timespec="microseconds"),
        "experiment": {"id": experiment.id, "key": experiment.key},
        "seed": experiment.seed,
        "traffic_pct": float(experiment.traffic_pct),
        "variants": [
            {
                "key": variant.key,
                "is_control": variant.is_control,
                "allocation_pct": float(variant.allocation_pct),
                "bucket_start": variant.bucket_start,
                "bucket_end": variant.bucket_end,
            }
            for variant in experiment.variants
        ],
        "population": {
            "exposure": population.exposure.value,
            "exposure_event_type": population.exposure_event_type if by_event else None,
            "exclude_users": list(population.exclude_users),
            "exclude_context": [{"name": item.name, "value": item.value} for item in population.exclude_context],
        },
        "hypothesis": plan.hypothesis,
        "sample_size": plan.sample_size,
        "stopping_rule": plan.stopping_rule.value,
        "looks": plan.looks,
        "spending": None if plan.spending is None else plan.spending.value,
        "metrics": [_metric(item) for item in experiment.metrics if not item.exploratory],
    }


def canonical(document: Mapping[str, Any]) -> str:
    """Write a document in one way: keys in order, no spaces, no escapes beyond those that JSON needs."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_of(text: str) -> str:
    """Return the SHA-256 of the text's UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_document(text: str) -> dict[str, Any] | None:
    """Return what a sealed text says, or `None` where somebody put something else in its place."""
    try:
        document = msgspec.json.decode(text, type=dict[str, Any])
    # Nesting without end is a RecursionError.
    except (msgspec.DecodeError, RecursionError):
        return None
    return document if _is_shallow(document, _DEEPEST) else None


def account_of(experiment: Experiment, sealed: SealedPlan | None, noted: NotedStart | None) -> PlanAccount:
    """Judge what is sealed by itself, by what is stored, and by the audit log's entry of the start."""
    if sealed is None:
        gone = _why_a_seal_is_missed(experiment, noted)
        text = canonical(plan_document(experiment, None))
        return PlanAccount(text, None, None if gone is None else Verdict((gone,), ()))
    found, contradiction = verdict(experiment, sealed), _contradiction(sealed.seal, noted)
    if contradiction is not None:
        found = replace(found, problems=(*found.problems, contradiction))
    return PlanAccount(sealed.document, sealed.seal, found)


def verdict(experiment: Experiment, sealed: SealedPlan) -> Verdict:
    """Compare a sealed text with its hash, and with what is stored about the experiment now."""
    if hash_of(sealed.document) != sealed.seal.hash:
        return Verdict(("the sealed text does not have this hash",), ())
    if (document := read_document(sealed.document)) is None:
        return Verdict(("the sealed text is no JSON object as plans are",), ())
    promised = _flat(document)
    # Written and read once, as the promised one was, so that the two differ in what they say alone.
    present = _flat(msgspec.json.decode(canonical(plan_document(experiment, sealed.seal.sealed_at))))
    differing = [name for name in promised | present if promised.get(name) != present.get(name)]
    return Verdict(
        problems=tuple(f"{name} is not what was sealed" for name in differing if name not in _CHANGEABLE),
        changed_since=tuple(name for name in _CHANGEABLE if name in differing),
    )


def _why_a_seal_is_missed(experiment: Experiment, noted: NotedStart | None) -> str | None:
    """Return why there ought to be a seal; drafts have none, nor what was started before plans were sealed."""
    if noted is not None:
        gone = f"the seal is gone: the audit log's entry of the start has its hash, {noted.plan_hash}"
        return None if noted.plan_hash is None else gone
    if experiment.started_at is None:
        return None
    return "there is neither a seal nor an entry of the start in the audit log"


def _contradiction(seal: Seal, noted: NotedStart | None) -> str | None:
    """Compare a seal with the audit log, which has the hash of every plan since the moment it was sealed."""
    if noted is None:
        return "the audit log has no entry of the start, which would confirm the hash"
    if noted.plan_hash is None:
        return "the audit log's entry of the start has no hash of a plan"
    if noted.plan_hash != seal.hash:
        return f"the audit log's entry of the start has another hash: {noted.plan_hash}"
    return None


def _is_shallow(value: object, deepest: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return deepest > 0 and all(_is_shallow(one, deepest - 1) for one in inner)


def _metric(attached: AttachedMetric) -> dict[str, Any]:
    metric = attached.metric
    return {
        "metric": metric.key,
        "version": metric.version,
        "role": attached.role.value,
        "margin": attached.margin,
        "direction": metric.direction.value,
        "unit": metric.unit,
        "recipe": recipe_document(metric.recipe),
    }


def _flat(document: Mapping[str, Any]) -> dict[str, str]:
    """Name the parts of a document, those of its population one by one; each as text, where true is not 1."""
    return dict(_parts(document))


def _parts(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name, part in document.items():
        if name == "population" and isinstance(part, Mapping):
            yield from ((f"population.{inner}", canonical({inner: value})) for inner, value in part.items())
        else:
            yield name, canonical({name: part})
