"""Why a decision is what it is: reasons as codes and as sentences. Plain functions, no I/O."""

from collections.abc import Mapping, Sequence

from app.experiments.analysis_plan import StoppingRule
from app.results.circumstances import Circumstances, Standing
from app.results.verdicts import DecisionCode, DecisionReason

# So many users of all in two variants are an accident; more are a fault of the set-up that no analysis mends.
MOST_IN_TWO_VARIANTS = 0.01


def against_any_decision(at: Circumstances) -> list[DecisionReason]:
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


def too_early(at: Circumstances) -> list[DecisionReason]:
    """Return why nothing can be said yet."""
    if not at.started:
        return [_reason(DecisionCode.NOT_STARTED, "The experiment has not started.")]
    if at.below_min_sample and not at.ended:
        return [_reason(DecisionCode.BELOW_MIN_SAMPLE, "A variant has fewer exposed users than min_sample.")]
    return []


def of_primary(at: Circumstances, standings: Mapping[str, Standing], *, judged: bool) -> list[DecisionReason]:
    """Say how each treatment stands by the primary metric; `judged`: whether the rule has looked at it yet."""
    codes = {
        Standing.BETTER: (DecisionCode.PRIMARY_BETTER, f"is better than the control by {at.metric}"),
        Standing.WORSE: (DecisionCode.PRIMARY_WORSE, f"is worse than the control by {at.metric}"),
        Standing.OPEN: (DecisionCode.PRIMARY_NOT_DECIDED, _left_open(at) if judged else _not_judged(at)),
    }
    return [_reason(codes[standing][0], f"{key} {codes[standing][1]}.") for key, standing in standings.items()]


def _left_open(at: Circumstances) -> str:
    so_far = "" if at.reached or at.ended else " so far"
    return f"is not shown to be better or worse than the control by {at.metric}{so_far}"


def _not_judged(at: Circumstances) -> str:
    first = "the first planned look" if at.rule is StoppingRule.GROUP_SEQUENTIAL else "the planned sample is there"
    if at.ended:
        return f"was never judged by {at.metric}: the plan does not do so before {first}, and the experiment has ended"
    return f"is not judged by {at.metric} yet: the plan does not do so before {first}"


def of_guardrails(key: str, harmed: Sequence[str], unshown: Sequence[str]) -> list[DecisionReason]:
    """Say which guardrails stand against a treatment."""
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


def of_missing(at: Circumstances) -> list[DecisionReason]:
    """Say which guardrails the answer does not have."""
    return [
        _reason(
            DecisionCode.GUARDRAIL_NOT_ASKED,
            f"The plan's guardrail {name} is not in this answer, so nothing can be shipped; ask with metrics={name}.",
        )
        for name in at.guardrails_not_asked
    ]


def of_progress(at: Circumstances) -> list[DecisionReason]:
    """Say how far the experiment has got."""
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


def of_part() -> DecisionReason:
    """Say that the answer is not about the experiment as it was planned."""
    return _reason(
        DecisionCode.PART_OF_THE_DATA,
        "The question keeps part of the users or of the time, or adds overrides; the plan speaks of all users. Ask"
        " without filters before acting.",
    )


def of_held_guardrails(variant: str) -> DecisionReason:
    """Say that no guardrail stands against a variant."""
    return _reason(DecisionCode.GUARDRAILS_HOLD, f"Every guardrail holds for {variant}.")


def _reason(code: DecisionCode, text: str) -> DecisionReason:
    return DecisionReason(code=code, text=text)
