"""What to do with an experiment, by a stated rule. Plain functions on plain values, no I/O.

`docs/results.md` has the same rule as a table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from app.experiments.analysis_plan import StoppingRule
from app.results.answer import DecisionCode, DecisionReason, DecisionResult, DecisionRule, DecisionVerdict
from app.stats.group_sequential import Spending, sequential_bounds
from app.stats.multiple import adjust_p_values

# So many users of all in two variants are an accident; more are a fault of the set-up that no analysis mends.
MOST_IN_TWO_VARIANTS = 0.01
# A look at exactly the planned share must not be missed by the rounding of a division.
_ROUNDING = 1e-9


class Standing(StrEnum):
    """How a treatment stands by a metric, as far as the rule lets one say so."""

    BETTER = "better"
    WORSE = "worse"
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one metric says about one treatment. `gain` and `statistic` are above 0 where the treatment is better.

    `margin_statistic` and `margin_shown` are of the non-inferiority test at one look, `margin_always_shown` of the
    always-valid interval; `None` where the guardrail has no margin.
    """

    gain: float | None
    statistic: float | None
    p_value: float | None
    always_p_value: float | None
    margin_statistic: float | None = None
    margin_shown: bool | None = None
    margin_always_shown: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Everything but the evidence that a decision depends on.

    `alpha` is two-sided. `planned_sample` and `users` count the users of all variants; without a planned sample only
    always-valid evidence counts. `not_asked` are the plan's metrics that the answer does not have.
    """

    metric: str
    alpha: float
    started: bool
    ended: bool
    srm_mismatch: bool
    share_in_two_variants: float
    below_min_sample: bool
    tested: bool
    users: int
    planned_sample: int | None = None
    stopping_rule: StoppingRule = StoppingRule.ALWAYS_VALID
    looks: int | None = None
    spending: Spending = Spending.OBRIEN_FLEMING
    primary_not_asked: bool = False
    guardrails_not_asked: tuple[str, ...] = ()
    part_of_the_data: bool = False

    @property
    def rule(self) -> StoppingRule:
        """Return the stopping rule that can be applied: one that waits for a sample needs to know which."""
        return StoppingRule.ALWAYS_VALID if self.planned_sample is None else self.stopping_rule

    @property
    def information(self) -> float | None:
        return None if not self.planned_sample else self.users / self.planned_sample

    @property
    def reached(self) -> bool:
        return self.planned_sample is not None and self.users >= self.planned_sample


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
    if reasons := _invalid(circumstances):
        verdict, variant = DecisionVerdict.INVALID, None
    elif reasons := _too_early(circumstances):
        verdict, variant = DecisionVerdict.KEEP_RUNNING, None
    else:
        verdict, variant, reasons = _weigh(circumstances, look, control, primary, guardrails)
    if circumstances.part_of_the_data:
        reasons = [*reasons, _reason(DecisionCode.PART_OF_THE_DATA, _PART)]
    return DecisionResult(verdict=verdict, variant=variant, reasons=tuple(reasons), rule=_rule(circumstances, look))


_PART = (
    "The question keeps part of the users or of the time, or adds overrides; the plan speaks of all users. Ask without"
    " filters before acting."
)


def _invalid(at: Circumstances) -> list[DecisionReason]:
    """Return what stands against any decision."""
    found = []
    if at.srm_mismatch:
        found.append(
            _reason(
                DecisionCode.SRM_MISMATCH,
                "The variants do not have the shares of users that the allocation gives them (p < 0.001), so users are"
                " missing or misplaced; find out why before reading anything else.",
            )
        )
    if at.share_in_two_variants > MOST_IN_TWO_VARIANTS:
        found.append(
            _reason(
                DecisionCode.TWO_VARIANTS,
                f"{at.share_in_two_variants:.1%} of the users were seen in two variants, more than"
                f" {MOST_IN_TWO_VARIANTS:.0%}; whom the rest leaves out is not chance.",
            )
        )
    if at.primary_not_asked:
        found.append(
            _reason(
                DecisionCode.PRIMARY_NOT_ASKED,
                f"The plan decides by {at.metric}, which this answer does not have; ask with metrics={at.metric}.",
            )
        )
    elif not at.tested:
        found.append(
            _reason(
                DecisionCode.NO_TEST,
                f"{at.metric} has no test of its differences; ask with one that has as the first of metrics.",
            )
        )
    return found


def _too_early(at: Circumstances) -> list[DecisionReason]:
    if not at.started:
        return [_reason(DecisionCode.NOT_STARTED, "The experiment has not started.")]
    if at.below_min_sample and not at.ended:
        return [_reason(DecisionCode.BELOW_MIN_SAMPLE, "A variant has fewer exposed users than min_sample.")]
    return []


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
        reasons += _guardrail_reasons(key, harmed, [name for name in unshown if name not in harmed])
        complete = not unshown and not at.guardrails_not_asked and not at.below_min_sample
        if standings[key] is Standing.BETTER and not harmed and complete:
            shippable.append(key)
        elif standings[key] is Standing.WORSE or harmed or over:
            rejected.append(key)
    reasons = [*_primary_reasons(at.metric, standings), *reasons, *_missing(at), *_progress(at)]
    if shippable:
        best = max(shippable, key=lambda key: primary[key].gain or 0.0)
        held = [_reason(DecisionCode.GUARDRAILS_HOLD, f"Every guardrail holds for {best}.")] if guardrails else []
        return DecisionVerdict.SHIP, best, [*reasons, *held]
    if len(rejected) == len(primary):
        return DecisionVerdict.DO_NOT_SHIP, control, reasons
    return DecisionVerdict.KEEP_RUNNING, None, reasons


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


def _primary_reasons(metric: str, standings: Mapping[str, Standing]) -> list[DecisionReason]:
    codes = {
        Standing.BETTER: (DecisionCode.PRIMARY_BETTER, "is better than the control"),
        Standing.WORSE: (DecisionCode.PRIMARY_WORSE, "is worse than the control"),
        Standing.OPEN: (DecisionCode.PRIMARY_NOT_DECIDED, "is neither shown to be better nor worse"),
    }
    return [
        _reason(codes[standing][0], f"{key} {codes[standing][1]} by {metric}.") for key, standing in standings.items()
    ]


def _guardrail_reasons(key: str, harmed: Sequence[str], unshown: Sequence[str]) -> list[DecisionReason]:
    return [
        *[_reason(DecisionCode.GUARDRAIL_HARMED, f"{key} is worse than the control by {name}.") for name in harmed],
        *[
            _reason(
                DecisionCode.NON_INFERIORITY_NOT_SHOWN,
                f"{key} is not shown to be within the margin of the control by {name}.",
            )
            for name in unshown
        ],
    ]


def _missing(at: Circumstances) -> list[DecisionReason]:
    return [
        _reason(
            DecisionCode.GUARDRAIL_NOT_ASKED,
            f"The plan's guardrail {name} is not in this answer, so nothing can be shipped; ask with metrics={name}.",
        )
        for name in at.guardrails_not_asked
    ]


def _progress(at: Circumstances) -> list[DecisionReason]:
    found = []
    if at.below_min_sample:
        found.append(_reason(DecisionCode.BELOW_MIN_SAMPLE, "A variant has fewer exposed users than min_sample."))
    if at.reached:
        found.append(
            _reason(
                DecisionCode.PLANNED_SAMPLE_REACHED, f"{at.users} of the planned {at.planned_sample} users are there."
            )
        )
    elif at.planned_sample is not None and at.ended:
        found.append(
            _reason(
                DecisionCode.ENDED_BEFORE_PLAN,
                f"The experiment ended with {at.users} of the planned {at.planned_sample} users.",
            )
        )
    elif at.planned_sample is not None:
        found.append(
            _reason(
                DecisionCode.PLANNED_SAMPLE_NOT_REACHED,
                f"{at.users} of the planned {at.planned_sample} users are there.",
            )
        )
    elif at.ended:
        found.append(_reason(DecisionCode.ENDED, "The experiment has ended: no more users will come."))
    return found


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


def _reason(code: DecisionCode, text: str) -> DecisionReason:
    return DecisionReason(code=code, text=text)
