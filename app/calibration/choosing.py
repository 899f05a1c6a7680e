"""Which metrics can be calibrated, and by which test. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.calibration.values import COVARIATE_DROPPED, MOST_METRICS, Column, Wanted
from app.experiments.values import Experiment
from app.measurement.plan import Measure, compiled
from app.metrics.builtin import BUILT_IN_KEYS, COMPARABLE_KEYS, built_in
from app.metrics.values import Kind, Metric, Recipe, Selection
from app.results.measured import Shape
from app.results.words import NO_COVARIATE

# Of experiments that have none of their own: one for each test.
DEFAULT_METRICS = ("conversion_rate", "value_per_user", "avg_value")
_RATES = frozenset({Kind.CONVERSION, Kind.RETENTION, Kind.FUNNEL})
_RATIOS = frozenset({Kind.MEAN, Kind.RATIO, Kind.TIME_TO_FIRST})
# Built-in metrics whose number before the exposure is defined.
_ADJUSTABLE = frozenset({"conversion_rate", "value_per_user"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """The metrics of a calibration, in their order."""

    recipes: Mapping[str, Recipe]
    columns: tuple[Column, ...]

    def without_covariates(self) -> "Chosen":
        """Return the same without anything from before the exposures, which neither store has any more."""
        columns = (
            column if column.without_covariate is not None else replace(column, without_covariate=COVARIATE_DROPPED)
            for column in self.columns
        )
        recipes = {key: replace(recipe, covariate_days=None) for key, recipe in self.recipes.items()}
        return Chosen(recipes, tuple(columns))


def wanted_keys(experiment: Experiment, wanted: Wanted) -> Sequence[str]:
    """Return the keys that are asked for; without any, those of the experiment."""
    if wanted.metrics:
        return tuple(dict.fromkeys(wanted.metrics))
    own = [item.metric.key for item in experiment.metrics]
    return tuple(own[:MOST_METRICS]) or DEFAULT_METRICS


def attached_or_built_in(experiment: Experiment, key: str) -> Metric | None:
    """Return the version that the experiment uses, or the metric that needs no set-up."""
    attached = next((item.metric for item in experiment.metrics if item.metric.key == key), None)
    return attached or built_in(key, experiment.project_id)


def chosen(metrics: Sequence[Metric], wanted: Wanted) -> Chosen:
    """Say how each metric is computed and tested."""
    recipes = {metric.key: _asked(metric, wanted) for metric in metrics}
    measures = {measure.key: measure for measure in compiled(recipes).measures}
    columns = (_column(metric, recipes[metric.key], measures[metric.key]) for metric in metrics)
    return Chosen(recipes, tuple(columns))


def _column(metric: Metric, recipe: Recipe, measure: Measure) -> Column:
    return Column(
        metric=metric.key,
        version=metric.version if metric.id else None,
        shape=_shape(recipe).value,
        unit=float(measure.unit or 1),
        quantile=None if measure.quantile is None else measure.quantile.as_integer_ratio(),
        without_covariate=NO_COVARIATE if measure.covariate is None else None,
    )


def _shape(recipe: Recipe) -> Shape:
    if recipe.kind is Kind.QUANTILE:
        return Shape.QUANTILE
    if recipe.kind in _RATIOS:
        return Shape.RATIO
    # What is capped is no count of users any more.
    return Shape.RATE if recipe.kind in _RATES and recipe.cap is None and recipe.winsorize is None else Shape.MEAN


def why_unknown(key: str) -> str:
    """Say why there is no metric of this key to calibrate."""
    if key in BUILT_IN_KEYS:
        takeable = ", ".join(_built_in_keys())
        return f"{key} is a total that grows with the arm; take one of {takeable}, or make a metric of kind count"
    return f"there is no metric {key!r} in this project; GET /metrics lists them"


def _built_in_keys() -> list[str]:
    """Return the built-in metrics that can be calibrated."""
    return [key for key in COMPARABLE_KEYS if built_in(key, project_id=0) is not None]


def _asked(metric: Metric, wanted: Wanted) -> Recipe:
    """Return the recipe; a built-in one is of the event types, and adjusted by the days, that the caller names."""
    if metric.id:
        return metric.recipe
    recipe = replace(metric.recipe, covariate_days=wanted.cuped_days if metric.key in _ADJUSTABLE else None)
    if not wanted.event_types:
        return recipe
    return replace(recipe, selections=(Selection(tuple(wanted.event_types)),))
