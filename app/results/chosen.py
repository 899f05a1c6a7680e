"""Which metrics an answer is about, by their names. Plain functions on plain values, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.errors import FieldProblem, Invalid
from app.experiments.values import Experiment
from app.metrics.builtin import ATTACHED, BUILT_IN_ID, BUILT_IN_KEYS, built_in
from app.metrics.values import AttachedMetric, Role, StoredMetric
from app.metrics.values import Metric as MetricVersion
from app.results.values import DEFAULT_METRICS, Metric


@dataclass(frozen=True, slots=True)
class Chosen:
    """A metric of an answer: as the experiment uses it, or as it is by itself."""

    key: str
    # `None` for totals, which no experiment uses.
    attached: AttachedMetric | None
    # Whether the experiment uses it.
    is_own: bool = False

    @property
    def is_built_in(self) -> bool:
        return self.attached is None or self.attached.metric.id == BUILT_IN_ID

    @property
    def built_in(self) -> Metric | None:
        return Metric(self.key) if self.is_built_in else None

    @property
    def stored(self) -> MetricVersion | None:
        return None if self.attached is None or self.is_built_in else self.attached.metric


def names_of(experiment: Experiment, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all metrics that are asked for, each once.

    Without any name that is what the experiment was planned for, the primary metric first, and what every answer
    shows by default; without a plan the latter alone.

    Raises:
        Invalid: all metrics of the experiment are asked for, and it has none.
    """
    own = _own(experiment)
    if not asked:
        has_plan = any(not item.exploratory for item in experiment.metrics)
        return tuple(dict.fromkeys([*(own if has_plan else ()), *DEFAULT_METRICS]))
    if ATTACHED in asked and not own:
        raise Invalid.field(
            f"metrics.{asked.index(ATTACHED)}",
            f"{ATTACHED!r} stands for the experiment's own metrics, and it has none; name metrics, or attach some by"
            " POST /experiments/{experiment}/metrics",
        )
    return tuple(dict.fromkeys(name for given in asked for name in (own if given == ATTACHED else (given,))))


def to_look_up(experiment: Experiment, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that neither the release nor the experiment knows."""
    known = {item.metric.key for item in experiment.metrics} | BUILT_IN_KEYS
    return tuple(name for name in names if name not in known)


def chosen(
    experiment: Experiment, names: Sequence[str], found: Mapping[str, StoredMetric], asked: Sequence[str]
) -> tuple[Chosen, ...]:
    """Return the metrics of these names.

    A metric of the experiment has the version and the role that it has there. Others have their newest version, and
    stored ones are exploratory: nobody has promised them.

    found: the metrics of `to_look_up`. asked: the names as they were given, by whose places a refusal speaks.

    Raises:
        Invalid: there is no metric of a name.
    """
    unknown = [name for name in to_look_up(experiment, names) if name not in found]
    if unknown:
        raise Invalid([_unknown(name, asked) for name in unknown])
    attached = {item.metric.key: item for item in experiment.metrics}
    return tuple(
        Chosen(name, attached.get(name) or _by_itself(experiment, name, found), is_own=name in attached)
        for name in names
    )


def _by_itself(experiment: Experiment, name: str, found: Mapping[str, StoredMetric]) -> AttachedMetric | None:
    if name in found:
        return AttachedMetric(metric=found[name].metric, role=Role.SECONDARY, exploratory=True)
    metric = built_in(name, experiment.project_id)
    return None if metric is None else AttachedMetric(metric=metric, role=Role.SECONDARY)


def _own(experiment: Experiment) -> tuple[str, ...]:
    """Return the keys of the experiment's metrics, the primary one first and exploratory ones last."""
    ranked = sorted(experiment.metrics, key=lambda item: (item.exploratory, item.role is not Role.PRIMARY))
    return tuple(item.metric.key for item in ranked)


def _unknown(name: str, asked: Sequence[str]) -> FieldProblem:
    takeable = ", ".join(Metric)
    place = asked.index(name) if name in asked else 0
    return {
        "field": f"metrics.{place}",
        "detail": f"there is no metric {name!r} in this project; GET /metrics lists its metrics, and {takeable} need no"
        f" set-up; {ATTACHED!r} stands for those of the experiment",
    }
