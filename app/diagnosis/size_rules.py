"""Whether there are enough users, and what can be said where nothing differs."""

import math
from dataclasses import dataclass

from app.diagnosis.comparing import ALPHA, of_metric
from app.diagnosis.facts import Facts
from app.diagnosis.values import Code, Finding, Severity, Unchecked
from app.diagnosis.wording import count, percent
from app.experiments.lifecycle import Status
from app.metrics.values import Role
from app.stats.comparisons import Comparison
from app.stats.distributions import normal_isf, two_sided_quantile

_POWER = 0.8
# Lifts of real changes are rarely larger; who can only see larger ones sees next to nothing.
_COARSE_MDE, _VERY_COARSE_MDE = 0.1, 0.5
_FEWEST_TESTS = 3
# Less than this is no chance any more.
_HARDLY_BY_CHANCE = 0.001


@dataclass(frozen=True, slots=True)
class _Mde:
    """The relative effect that a metric shows with a power of 80 %."""

    metric: str
    relative: float


def small_sample(facts: Facts) -> list[Finding] | Unchecked:
    """Compare the users with the plan, or say which effect the primary metric could show at all."""
    users = facts.users
    if isinstance(users, Unchecked):
        return users
    if isinstance(facts.metrics, Unchecked):
        return facts.metrics
    mde = _smallest_mde(facts)
    if facts.planned_sample is not None:
        return _below_plan(facts, sum(users), facts.planned_sample, mde)
    if mde is None:
        return Unchecked("There is no plan, and no metric yet with a variance.")
    return _without_plan(sum(users), mde)


def _below_plan(facts: Facts, users: int, planned: int, mde: _Mde | None) -> list[Finding]:
    if users >= planned:
        return []
    ended = facts.status in {Status.COMPLETED, Status.ARCHIVED}
    return [
        Finding(
            code=Code.SMALL_SAMPLE,
            severity=Severity.WARNING if ended else Severity.INFO,
            title="The planned sample was not reached" if ended else "The planned sample is not reached yet",
            evidence=_evidence_of_size(users, planned, mde),
            text=f"{count(users, 'exposed user')} of {planned:,} planned.{_blind(mde)}",
            action=(
                "Do not read a missing difference as no difference; run it again with the planned sample."
                if ended
                else "Keep it running until the planned sample is there, and decide by then."
            ),
        )
    ]


def _without_plan(users: int, mde: _Mde) -> list[Finding]:
    if mde.relative <= _COARSE_MDE:
        return []
    return [
        Finding(
            code=Code.SMALL_SAMPLE,
            severity=Severity.WARNING if mde.relative > _VERY_COARSE_MDE else Severity.INFO,
            title="Too few users for effects of a usual size",
            evidence=_evidence_of_size(users, None, mde),
            text=f"{count(users, 'exposed user')}, and no sample was planned.{_blind(mde)}",
            action=(
                "Plan the sample with POST /power, let it run longer, or take a metric that varies less (CUPED, cap)."
            ),
        )
    ]


def _evidence_of_size(users: int, planned: int | None, mde: _Mde | None) -> dict[str, object]:
    return {
        "users": users,
        "planned_users": planned,
        "minimum_detectable_effect": None if mde is None else mde.relative,
        "metric": None if mde is None else mde.metric,
    }


def _blind(mde: _Mde | None) -> str:
    return (
        "" if mde is None else f" A lift of {mde.metric} below {percent(mde.relative)} would most likely not be seen."
    )


def cannot_tell(facts: Facts) -> list[Finding] | Unchecked:
    """Say when nothing at all is different, and what that does and does not mean."""
    if isinstance(facts.metrics, Unchecked):
        return facts.metrics
    tested = [one for metric in facts.metrics for one in of_metric(facts, metric)]
    if len(tested) < _FEWEST_TESTS:
        return Unchecked(f"Fewer than {_FEWEST_TESTS} comparisons can be tested.")
    smallest = min(one.p for one in tested)
    if smallest < ALPHA:
        return []
    # That all of so many independent p-values are at least as large. Metrics move together, so that it is no test.
    all_so_large = (1 - smallest) ** len(tested)
    bounds = [(one.metric, bound) for one in tested if (bound := _largest_lift(one.comparison)) is not None]
    widest = max(bounds, key=lambda found: found[1], default=None)
    suspicious = all_so_large < _HARDLY_BY_CHANCE
    shows = (
        ""
        if widest is None
        else f" Lifts of up to {percent(widest[1])} (of {widest[0]}) are still possible: this cannot tell."
    )
    return [
        Finding(
            code=Code.CANNOT_TELL,
            severity=Severity.INFO,
            title="The variants cannot be told apart",
            evidence={
                "comparisons": len(tested),
                "smallest_p_value": smallest,
                "chance_of_p_values_so_large": all_so_large,
                "largest_possible_lift": None if widest is None else widest[1],
                "metric": None if widest is None else widest[0],
            },
            text=(
                f"Of {count(len(tested), 'comparison')} none has a p-value below {ALPHA} (the smallest:"
                f" {smallest:.2g}), as in an experiment of a variant against itself.{shows}"
            ),
            action=(
                "The p-values are larger than chance explains: check that the variants show something different at"
                " all, and that metrics are not copies of each other."
                if suspicious
                else "Check that the variants show something different at all. If they do, decide by the intervals:"
                " they say which effects are ruled out, and whether that is enough."
            ),
        )
    ]


def _smallest_mde(facts: Facts) -> _Mde | None:
    """Return what the metric that decides can show in its best arm."""
    if isinstance(facts.metrics, Unchecked):
        return None
    for metric in sorted(facts.metrics, key=lambda one: one.role is not Role.PRIMARY):
        found = [mde for one in of_metric(facts, metric) if (mde := _mde(one.comparison)) is not None]
        if found:
            return _Mde(metric.key, min(found))
    return None


def _mde(comparison: Comparison) -> float | None:
    """Return the standard error of the difference, as often as level and power need it, over the control's value."""
    if not comparison.control or comparison.lower is None or comparison.upper is None:
        return None
    error = (comparison.upper - comparison.lower) / 2 / two_sided_quantile(1 - ALPHA, comparison.df)
    return _finite(error * (normal_isf(ALPHA / 2) + normal_isf(1 - _POWER)) / abs(comparison.control))


def _largest_lift(comparison: Comparison) -> float | None:
    if not comparison.control or comparison.lower is None or comparison.upper is None:
        return None
    return _finite(max(abs(comparison.lower), abs(comparison.upper)) / abs(comparison.control))


def _finite(value: float) -> float | None:
    """Leave out what no JSON can hold: an effect relative to next to nothing."""
    return value if math.isfinite(value) else None
