"""What the outbox says about experiments."""

from typing import Any

from app.experiments.values import Experiment

AGGREGATE = "experiment"
CHANGED = "experiment.changed"
SCHEMA_VERSION = 1


def experiment_changed(experiment: Experiment) -> dict[str, Any]:
    """Describe the experiment as it stands after a change; keys are ClickHouse's columns."""
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
        },
    }
