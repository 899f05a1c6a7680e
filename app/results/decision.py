"""What to do with an experiment, by a stated rule. Plain functions on plain values, no I/O.

`docs/results.md` has the same rule as a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from app.experiments.analysis_plan import StoppingRule
from app.results import decision_reasons as why
from app.results.circumstances import Circumstances, Evidence, Standing
from app.results.verdicts import DecisionReason, DecisionResult, DecisionRule, DecisionVerdict
from app.stats.group_sequential import Spending, sequential_bounds
from app.stats.multiple import adjust_p_values

# A look at exactly the planned share must not be missed by the rounding of a division.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """Of a group-sequential plan: which look this is, 0 before the first, and the bound of the statistic."""

    number: int
    bound: float | None


def decide_on(
    circumstances: Circumstances,
    control: str,
    primary: Mapping[str, Evidence],
    guardrails: Mapping[str, Mapping[str, Evidence]],
) -> DecisionResult:
    """Decide.

    primary: each treatment's evidence by its key; guardrails: by the guardrail's key and then by the treatment's.
    """
    look = _look(circumstances, len(primary))
    if reasons := why.against_any_decision(circumstances):
        verdict, variant = DecisionVerdict.INVALID, None
    elif reasons := why.too_early(circumstances):
        verdict, variant = DecisionVerdict.KEEP_RUNNING, None
    else:
        verdict, variant, reasons = _weigh(circumstances, look, control, primary, guardrails)
    if circumstances.part_of_the_data:
        reasons = [*reasons, why.of_part()]
    return DecisionResult(verdict=verdict, variant=variant, reasons=tuple(reasons), rule=_rule(circumstances, look))


def _weigh(
    at: Circumstances,
    look: _Look,
    control: str,
    primary: Mapping[str, Evidence],
    guardrails: Mapping[str, Mapping[str, Evidence]],
) -> tuple[DecisionVerdict, str | None, list[DecisionReason]]:
    """Judge each treatment; ship the best of those that may be shipped, and keep the control once none can be."""
    standings = _primary_standings(at, look, primary)
    over = at.reached or at.ended
    shippable: list[str] = []
    rejected: list[str] = []
    reasons: list[DecisionReason] = []
    for key in primary:
        harmed = [name for name, found in guardrails.items() if _harmed(at, look, found[key])]
        unshown = [name for name, found in guardrails.items() if not _held(at, look, found[key])]
        reasons += why.of_guardrails(key, harmed, [name for name in unshown if name not in harmed])
        complete = not unshown and not at.guardrails_not_asked and not at.below_min_sample
        if standings[key] is Standing.BETTER and not harmed and complete:
            shippable.append(key)
        elif standings[key] is Standing.WORSE or harmed or (over and not _lacks_the_question_only(at, standings[key])):
            rejected.append(key)
    of_primary = why.of_primary(at, standings, judged=_is_judged(at, look))
    reasons = [*of_primary, *reasons, *why.of_missing(at), *why.of_progress(at)]
    if shippable:
        best = max(shippable, key=lambda key: primary[key].gain or 0.0)
        held = [why.of_held_guardrails(best)] if guardrails else []
        return DecisionVerdict.SHIP, best, [*reasons, *held]
    if len(rejected) == len(primary):
        return DecisionVerdict.DO_NOT_SHIP, control, reasons
    return DecisionVerdict.KEEP_RUNNING, None, reasons


def _lacks_the_question_only(at: Circumstances, standing: Standing) -> bool:
    """Tell whether a treatment is better, and all that keeps it is that not all guardrails were asked for."""
    return standing is Standing.BETTER and bool(at.guardrails_not_asked)


def _is_judged(at: Circumstances, look: _Look) -> bool:
    """Tell whether the rule lets one look at the primary metric at all."""
    match at.rule:
        case StoppingRule.ALWAYS_VALID:
            return True
        case StoppingRule.FIXED:
            return at.reached
        case StoppingRule.GROUP_SEQUENTIAL:
            return look.number > 0


def _primary_standings(at: Circumstances, look: _Look, primary: Mapping[str, Evidence]) -> dict[str, Standing]:
    """Tell how the treatments stand, all of them read together."""
    match at.rule:
        case StoppingRule.GROUP_SEQUENTIAL:
            return {key: _by_bound(found, look.bound) for key, found in primary.items()}
        case StoppingRule.FIXED if not at.reached:
            return dict.fromkeys(primary, Standing.OPEN)
        case StoppingRule.FIXED:
            p_values = [found.p_value for found in primary.values()]
        case StoppingRule.ALWAYS_VALID:
            p_values = [found.always_p_value for found in primary.values()]
    rejected = adjust_p_values(p_values, alpha=at.alpha).rejected
    return {key: _standing(found, yes) for (key, found), yes in zip(primary.items(), rejected, strict=True)}


def _standing(found: Evidence, significant: bool) -> Standing:  # noqa: FBT001  # A fact about the evidence, not a mode.
    if not significant or not found.gain:
        return Standing.OPEN
    return Standing.BETTER if found.gain > 0 else Standing.WORSE


def _by_bound(found: Evidence, bound: float | None) -> Standing:
    significant = bound is not None and found.statistic is not None and abs(found.statistic) >= bound
    return _standing(found, significant)


def _harmed(at: Circumstances, look: _Look, found: Evidence) -> bool:
    """Tell whether a guardrail is clearly worse, by the plan's rule or by what is valid at any time.

    Nothing is adjusted for the number of guardrails: a false alarm costs less here than a missed one.
    """
    by_rule = False
    if at.rule is StoppingRule.GROUP_SEQUENTIAL:
        by_rule = _by_bound(found, look.bound) is Standing.WORSE
    elif at.rule is StoppingRule.FIXED and at.reached:
        by_rule = _standing(found, _below(found.p_value, at.alpha)) is Standing.WORSE
    return by_rule or _standing(found, _below(found.always_p_value, at.alpha)) is Standing.WORSE


def _below(p_value: float | None, alpha: float) -> bool:
    return p_value is not None and p_value <= alpha


def _held(at: Circumstances, look: _Look, found: Evidence) -> bool:
    """Tell whether a guardrail is shown not to be worse by its margin; one without a margin only must not be harmed."""
    if found.margin_shown is None:
        return not _harmed(at, look, found)
    match at.rule:
        case StoppingRule.ALWAYS_VALID:
            return bool(found.margin_always_shown)
        case StoppingRule.FIXED:
            return at.reached and found.margin_shown
        case StoppingRule.GROUP_SEQUENTIAL:
            reach = found.margin_statistic
            return look.bound is not None and reach is not None and reach >= look.bound


def _look(at: Circumstances, treatments: int) -> _Look:
    """Return the last planned look that the users suffice for; the treatments share the error evenly."""
    share = at.information
    if at.rule is not StoppingRule.GROUP_SEQUENTIAL or share is None or not at.looks:
        return _Look(number=0, bound=None)
    number = min(at.looks, int(share * at.looks + _ROUNDING))
    if number == 0:
        return _Look(number=0, bound=None)
    return _Look(number=number, bound=_bound(number, at.looks, at.alpha / max(1, treatments), at.spending))


# A plan has few looks, and its bounds are asked for with every answer.
@lru_cache(maxsize=256)
def _bound(number: int, looks: int, alpha: float, spending: Spending) -> float:
    times = [index / looks for index in range(1, number + 1)]
    return sequential_bounds(times, alpha=alpha, spending=spending)[-1].bound


def _rule(at: Circumstances, look: _Look) -> DecisionRule:
    sequential = at.rule is StoppingRule.GROUP_SEQUENTIAL
    return DecisionRule(
        stopping_rule=at.rule.value,
        alpha=at.alpha,
        metric=at.metric,
        planned_sample=at.planned_sample,
        information=at.information,
        look=look.number if sequential else None,
        looks=at.looks if sequential else None,
        bound=look.bound,
    )
