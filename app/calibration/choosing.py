"""Which metrics can be calibrated, and by which test. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.calibration.values import MOST_METRICS, Column, Wanted
from app.core.errors import Invalid
from app.experiments.values import Experiment
from app.measurement.plan import compiled
from app.metrics.builtin import BUILT_IN_KEYS, COMPARABLE_KEYS, built_in
from app.metrics.values import Kind, Metric, Recipe, Selection
from app.results.measured import Shape

# Of experiments that have none of their own: one for each test.
DEFAULT_METRICS = ("conversion_rate", "value_per_user", "avg_value")
# A quantile needs all values of a half, which no sums over users give.
_SHAPES: Mapping[Kind, Shape] = {
    Kind.CONVERSION: Shape.RATE,
    Kind.RETENTION: Shape.RATE,
    Kind.FUNNEL: Shape.RATE,
    Kind.COUNT: Shape.MEAN,
    Kind.SUM: Shape.MEAN,
    Kind.MEAN: Shape.RATIO,
    Kind.RATIO: Shape.RATIO,
    Kind.TIME_TO_FIRST: Shape.RATIO,
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The metrics of a calibration, in their order."""

    recipes: Mapping[str, Recipe]
    columns: tuple[Column, ...]


def wanted_keys(experiment: Experiment, wanted: Wanted) -> Sequence[str]:
    """Return the keys that are asked for; without any, those of the experiment that can be calibrated."""
    if wanted.metrics:
        return tuple(dict.fromkeys(wanted.metrics))
    own = [item.metric.key for item in experiment.metrics if item.metric.recipe.kind in _SHAPES]
    return tuple(own[:MOST_METRICS]) or DEFAULT_METRICS


def attached_or_built_in(experiment: Experiment, key: str) -> Metric | None:
    """Return the version that the experiment uses, or the metric that needs no set-up."""
    attached = next((item.metric for item in experiment.metrics if item.metric.key == key), None)
    return attached or built_in(key, experiment.project_id)


def chosen(metrics: Sequence[Metric], event_types: Sequence[str]) -> Chosen:
    """Say how each metric is computed and tested.

    Raises:
        Invalid: a metric has no test that halves of the control could be put to.
    """
    recipes = {metric.key: _with_types(metric, event_types) for metric in metrics}
    for metric in metrics:
        if metric.recipe.kind not in _SHAPES:
            raise Invalid.field(
                "metrics",
                f"{metric.key} is a quantile, which cannot be calibrated; take shares, means or ratios, of the built-in"
                f" metrics {', '.join(_built_in_keys())}",
            )
    units = {measure.key: measure.unit for measure in compiled(recipes).measures}
    columns = tuple(
        Column(
            metric=metric.key,
            version=metric.version if metric.id else None,
            shape=_SHAPES[metric.recipe.kind].value,
            unit=float(units[metric.key] or 1),
        )
        for metric in metrics
    )
    return Chosen(recipes, columns)


def why_unknown(key: str) -> str:
    """Say why there is no metric of this key to calibrate."""
    if key in BUILT_IN_KEYS:
        takeable = ", ".join(_built_in_keys())
        return f"{key} is a total that grows with the arm; take one of {takeable}, or make a metric of kind count"
    return f"there is no metric {key!r} in this project; GET /metrics lists them"


def _built_in_keys() -> list[str]:
    """Return the built-in metrics that can be calibrated."""
    found = [built_in(key, project_id=0) for key in COMPARABLE_KEYS]
    return [metric.key for metric in found if metric is not None and metric.recipe.kind in _SHAPES]


def _with_types(metric: Metric, event_types: Sequence[str]) -> Recipe:
    """Return the recipe; a built-in one is of the event types that the caller names.

    What was before the exposure is left out: it adjusts the effect beside the test that is calibrated.
    """
    recipe = replace(metric.recipe, covariate_days=None)
    if metric.id or not event_types:
        return recipe
    return replace(recipe, selections=(Selection(tuple(event_types)),))
