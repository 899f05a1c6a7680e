"""What is measured for a diagnosis, and how measured sums become facts. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

from app.diagnosis.facts import FEWEST_FOR_TAILS, Around, MetricFacts, Phases, Prior, Tails
from app.diagnosis.values import Unchecked
from app.experiments.values import Experiment
from app.measurement.samples import sample_of
from app.measurement.values import Measured, Sums
from app.metrics.builtin import built_in
from app.metrics.values import AttachedMetric, Kind, Metric, Recipe, Role, Selection, ValueSource
from app.stats.exact import to_float
from app.stats.samples import MeanSample, Sample

PRIOR_DAYS = 7
_DAY_S = 86_400
_ALL = (Selection(()),)
# Keys of metrics begin with a letter, so these are none.
_EVENTS_BEFORE, _VALUES_BEFORE, _AROUND = "~events", "~values", "~around"
_PRIORS: Mapping[str, tuple[str, Recipe]] = {
    _EVENTS_BEFORE: (
        "events per user",
        Recipe(kind=Kind.COUNT, selections=_ALL, window_s=_DAY_S, covariate_days=PRIOR_DAYS),
    ),
    _VALUES_BEFORE: (
        "value per user",
        Recipe(kind=Kind.SUM, selections=_ALL, window_s=_DAY_S, covariate_days=PRIOR_DAYS),
    ),
}
# More are not looked at; the primary and guardrails come first.
_MOST_METRICS = 20
_DEFAULTS = ("conversion_rate", "value_per_user")
# Beyond this the statistics on sums of squares leave the range of a double.
_LARGEST_SUM = 10**300
_BY_AMOUNT = frozenset({Kind.SUM, Kind.COUNT})
_TOP = Fraction(1, 100)
_LONGEST_PHASE_DAYS = 7
# Phases need users who have gone through both, and some time in which these came in.
_PHASES_IN_RUN = 3


def metrics_of(experiment: Experiment) -> list[tuple[Metric, Role]]:
    """Return the metrics to look at: those attached, or built-in ones where there are none; the primary first."""
    attached = sorted(experiment.metrics, key=_weight)[:_MOST_METRICS]
    if attached:
        return [(one.metric, one.role) for one in attached]
    found = [built_in(key, experiment.project_id) for key in _DEFAULTS]
    return [(metric, Role.SECONDARY) for metric in found if metric is not None]


def _weight(attached: AttachedMetric) -> int:
    return (Role.PRIMARY, Role.GUARDRAIL, Role.SECONDARY).index(attached.role)


def recipes_of(metrics: Sequence[tuple[Metric, Role]]) -> dict[str, Recipe]:
    """Return what is measured in the first place: the metrics, and what users did before their exposure."""
    return {
        **{metric.key: metric.recipe for metric, _ in metrics},
        **{key: recipe for key, (_, recipe) in _PRIORS.items()},
    }


def priors_of(measured: Measured, variant_ids: Sequence[int]) -> list[Prior]:
    """Return what each arm's users did in the days before their exposure."""
    sums = {key: [measured.of(key, variant).sums for variant in variant_ids] for key in _PRIORS}
    return [
        Prior(name, PRIOR_DAYS, tuple(map(_covariate, sums[key])))
        for key, (name, _) in _PRIORS.items()
        if not any(map(_is_beyond, sums[key]))
    ]


def around_of(measured: Measured, variant_ids: Sequence[int]) -> Around:
    """Return how many events lie in the day before an exposure and in the day after one."""
    sums = [measured.of(_AROUND, variant).sums for variant in variant_ids]
    return Around(before=int(sum(one.covariate for one in sums)), after=int(sum(one.numerator for one in sums)))


def metric_facts(metric: Metric, role: Role, measured: Measured, variant_ids: Sequence[int]) -> MetricFacts:
    """Return what is known of a metric without a further look."""
    arms = [measured.of(metric.key, variant) for variant in variant_ids]
    kind = metric.recipe.kind
    samples = _samples(metric.recipe, [arm.sums for arm in arms])
    # A funnel's events are of any step, so that it is its users who tell whether there is anything.
    events = sum(arm.sums.users if kind is Kind.FUNNEL else arm.events for arm in arms)
    return MetricFacts(key=metric.key, kind=kind, role=role, events=events, samples=samples)


def tail_recipes(
    metrics: Sequence[tuple[Metric, Role]], measured: Measured, variant_ids: Sequence[int]
) -> dict[str, Recipe]:
    """Return sums and counts of enough users, cut at the 99th percentile of the users who have a number.

    What has a bound already is left out.
    """
    found = {}
    for metric, _ in metrics:
        recipe = metric.recipe
        sums = [measured.of(metric.key, variant).sums for variant in variant_ids]
        n, users = sum(one.n for one in sums), sum(one.users for one in sums)
        bounded = recipe.cap is not None or recipe.winsorize is not None
        usable = users >= FEWEST_FOR_TAILS and not any(map(_is_beyond, sums))
        if recipe.kind in _BY_AMOUNT and not bounded and usable:
            level = round(1 - to_float(_TOP * users / n), 9)
            found[metric.key] = replace(recipe, winsorize=level, covariate_days=None)
    return found


def tails_of(key: str, whole: Measured, cut: Measured, variant_ids: Sequence[int]) -> Tails:
    """Compare a metric's sums with those that are cut."""
    before = [whole.of(key, variant).sums for variant in variant_ids]
    after = [cut.of(key, variant).sums for variant in variant_ids]
    return Tails(
        users=sum(one.users for one in before),
        squares=to_float(sum((one.numerator_squares for one in before), Fraction(0))),
        squares_cut=to_float(sum((one.numerator_squares for one in after), Fraction(0))),
        variance=_spread(before),
        variance_cut=_spread(after),
    )


def phase_days(earliest: datetime | None, until: datetime) -> int | Unchecked:
    """Return how many days a phase has, so that users of a third of the time have gone through two of them."""
    days = 0 if earliest is None else (until - earliest) // timedelta(days=1) // _PHASES_IN_RUN
    if days < 1:
        return Unchecked(f"The first user was exposed less than {_PHASES_IN_RUN} days ago.")
    return min(days, _LONGEST_PHASE_DAYS)


def phase_recipes(recipe: Recipe, days: int) -> dict[str, Recipe]:
    """Return a metric's numerator in the first days, in the days after these and in both; and the day before."""
    by_number = recipe.kind in {Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.QUANTILE}
    selection = recipe.selections[-1]
    one = by_number and selection.source is not ValueSource.ONE
    kind = Kind.SUM if one else Kind.COUNT
    length = days * _DAY_S
    return {
        "first": Recipe(kind=kind, selections=(selection,), window_s=length),
        "later": Recipe(kind=kind, selections=(selection,), window_from_s=length, window_s=2 * length),
        "both": Recipe(kind=kind, selections=(selection,), window_s=2 * length),
        _AROUND: Recipe(kind=Kind.COUNT, selections=_ALL, window_s=_DAY_S, covariate_days=1),
    }


def phases_of(days: int, measured: Measured, variant_ids: Sequence[int]) -> Phases | Unchecked:
    """Return both phases, of users who have gone through them."""
    sums = {key: [measured.of(key, variant).sums for variant in variant_ids] for key in ("first", "later", "both")}
    if any(map(_is_beyond, (one for arms in sums.values() for one in arms))):
        return Unchecked("The numbers are too large for statistics.")
    return Phases(days=days, **{key: tuple(map(_mean, arms)) for key, arms in sums.items()})


def selection_to_explain(recipe: Recipe, measured: Measured, key: str, variant_ids: Sequence[int]) -> Selection:
    """Return what an empty metric lacks: its selection, of a funnel the first step that nobody took."""
    if recipe.kind is not Kind.FUNNEL:
        return recipe.selections[0]
    reached = [0] * len(recipe.selections)
    for variant in variant_ids:
        for step, users in enumerate(measured.of(key, variant).reached):
            reached[step] += users
    step = next((index for index, users in enumerate(reached) if users == 0), 0)
    return replace(recipe.selections[step], source=ValueSource.ONE)


def _samples(recipe: Recipe, sums: Sequence[Sums]) -> tuple[Sample, ...] | None:
    """Return the arms' samples; `None` for quantiles, and where sums are beyond what statistics can take."""
    if recipe.kind is Kind.QUANTILE or any(_is_beyond(one) for one in sums):
        return None
    return tuple(sample_of(recipe, one) for one in sums)


def _is_beyond(sums: Sums) -> bool:
    return max(sums.numerator_squares, sums.denominator_squares, sums.covariate_squares) > _LARGEST_SUM


def _mean(sums: Sums) -> MeanSample:
    return MeanSample.from_sums(n=sums.n, sum_values=sums.numerator, sum_squares=sums.numerator_squares)


def _covariate(sums: Sums) -> MeanSample:
    return MeanSample.from_sums(n=sums.n, sum_values=sums.covariate, sum_squares=sums.covariate_squares)


def _spread(sums: Sequence[Sums]) -> float:
    """Return the arms' squared deviations from their own means, added up."""
    return to_float(sum((_mean(one).squared_deviations() for one in sums), Fraction(0)))
