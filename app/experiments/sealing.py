"""What is promised at the start, as one text with a hash, and whether it still holds. Plain functions, no I/O."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.experiments.analysis_plan import Seal, SealedPlan
from app.experiments.population import ExposureRule
from app.experiments.values import Experiment
from app.metrics.documents import recipe_document
from app.metrics.values import AttachedMetric

_FORMAT = 1
# What may change after the start; all else in the document may not.
_CHANGEABLE = ("traffic_pct", "population.exclude_users", "population.exclude_context")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a sealed plan found: what contradicts the seal, and what changed lawfully since."""

    problems: tuple[str, ...]
    changed_since: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """What an experiment promises. Without a seal the text is what would be sealed now, and there is no verdict."""

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


def verdict(experiment: Experiment, sealed: SealedPlan) -> Verdict:
    """Compare a sealed text with its hash, and with what is stored about the experiment now."""
    if hash_of(sealed.document) != sealed.seal.hash:
        return Verdict(("the sealed text does not have this hash",), ())
    promised = _flat(json.loads(sealed.document))
    # Written and read once, as the promised one was, so that the two differ in what they say alone.
    present = _flat(json.loads(canonical(plan_document(experiment, sealed.seal.sealed_at))))
    differing = [name for name in promised | present if promised.get(name) != present.get(name)]
    return Verdict(
        problems=tuple(f"{name} is not what was sealed" for name in differing if name not in _CHANGEABLE),
        changed_since=tuple(name for name in _CHANGEABLE if name in differing),
    )


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
        if name == "population":
            yield from ((f"population.{inner}", canonical({inner: value})) for inner, value in part.items())
        else:
            yield name, canonical({name: part})
