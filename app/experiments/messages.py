"""What the outbox says about experiments."""

from typing import Any

from app.experiments.values import Experiment

AGGREGATE = "experiment"
CHANGED = "experiment.changed"
SCHEMA_VERSION = 1


def experiment_changed(experiment: Experiment) -> dict[str, Any]:
    """Describe the experiment as it stands after a change; keys are ClickHouse's columns."""
    population, plan = experiment.population, experiment.plan
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment_id": experiment.id,
        "project_id": experiment.project_id,
        "key": experiment.key,
        "status": experiment.status.value,
        "version": experiment.version,
        "definition": {
            "name": experiment.name,
            "seed": experiment.seed,
            "traffic_pct": float(experiment.traffic_pct),
            "variants": [
                {
                    "id": variant.id,
                    "key": variant.key,
                    "is_control": variant.is_control,
                    "bucket_start": variant.bucket_start,
                    "bucket_end": variant.bucket_end,
                }
                for variant in experiment.variants
            ],
            "population": {
                "exposure": population.exposure.value,
                "exposure_event_type": population.exposure_event_type,
                "exclude_context": [{"name": item.name, "value": item.value} for item in population.exclude_context],
                # Their number alone: a thousand ids could outgrow what Kafka takes as one message.
                "excluded_users": len(population.exclude_users),
            },
            "plan": {
                "hypothesis": plan.hypothesis,
                "sample_size": plan.sample_size,
                "stopping_rule": plan.stopping_rule.value,
                "looks": plan.looks,
                "spending": None if plan.spending is None else plan.spending.value,
                "hash": None if experiment.seal is None else experiment.seal.hash,
            },
            "metrics": [
                {
                    "metric": item.metric.key,
                    "role": item.role.value,
                    "margin": item.margin,
                    "exploratory": item.exploratory,
                    # A draft follows its metrics without a message, so that none says which version it is at.
                    "version": item.metric.version if experiment.seal or item.exploratory else None,
                }
                for item in experiment.metrics
            ],
        },
    }
