"""An experiment as it is answered, for the API's documentation."""

from typing import Any

_AT = "2026-01-31T12:00:00.123456Z"

EXPERIMENT: dict[str, Any] = {
    "id": 7,
    "key": "green-button",
    "name": "Green checkout button",
    "description": None,
    "status": "running",
    "variants": [
        {
            "id": 15,
            "key": "control",
            "name": "Blue",
            "allocation_pct": 50.0,
            "is_control": True,
            "config": {},
            "bucket_start": 0,
            "bucket_end": 5000,
        },
        {
            "id": 16,
            "key": "green",
            "name": "Green",
            "allocation_pct": 50.0,
            "is_control": False,
            "config": {"color": "#0a0"},
            "bucket_start": 5000,
            "bucket_end": 10_000,
        },
    ],
    "seed": "be89a7e7027c0f52",
    "traffic_pct": 100.0,
    "config": {},
    "population": None,
    "plan": {
        "hypothesis": "A green button sells more.",
        "sample_size": 40_000,
        "stopping_rule": "fixed",
        "looks": None,
        "spending": None,
        "metrics": [
            {"metric": "conversion_rate", "role": "primary", "margin": None, "version": None},
            {"metric": "revenue", "role": "guardrail", "margin": 0.02, "version": 1},
        ],
        "sealed_at": _AT,
        "hash": "5ae4de5e3cfc5a8980682c1a223394cf1098f321ecbe0d0bfed9a110baa59dda",
    },
    "version": 1,
    "starts_at": None,
    "ends_at": None,
    "started_at": _AT,
    "ended_at": None,
    "created_at": _AT,
    "updated_at": _AT,
}
ATTACHED_METRIC: dict[str, Any] = {
    "metric": "conversion_rate",
    "metric_id": None,
    "version": None,
    "name": "Conversion rate",
    "role": "primary",
    "margin": None,
    "exploratory": False,
    "direction": "up",
    "unit": None,
    "recipe": {
        "kind": "conversion",
        "event_types": [],
        "filters": [],
        **dict.fromkeys(("value", "denominator", "steps", "window", "cap", "winsorize", "quantile", "days")),
        "covariate_days": None,
    },
}
