"""The names of schemas in the OpenAPI document."""

import pytest

from app.documentation import short_names


def test_schemas__that_two_contexts_have__are_named_by_their_contexts() -> None:
    names = ["app__results__schemas__MetricOut", "app__metrics__recipe_schemas__MetricOut", "Problem"]

    assert short_names(names) == {
        "app__results__schemas__MetricOut": "ResultsMetricOut",
        "app__metrics__recipe_schemas__MetricOut": "MetricsMetricOut",
        "Problem": "Problem",
    }


@pytest.mark.parametrize("other", ["app__experiments__plan_schemas__PlanOut", "ExperimentsPlanOut"])
def test_schemas__that_would_have_one_name__are_refused(other: str) -> None:
    names = ["app__experiments__schemas__PlanOut", other]

    with pytest.raises(ValueError, match=f"{names[0]} and {names[1]} would both be shown as ExperimentsPlanOut"):
        short_names(names)
