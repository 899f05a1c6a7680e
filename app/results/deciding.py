"""The winner and the decision of an answer, from its comparisons. Plain functions, no I/O."""

from collections.abc import Mapping

from app.metrics.values import Role
from app.results.circumstances import Circumstances, Evidence
from app.results.contrasts import Contrast
from app.results.decision import decide_on
from app.results.measured import Measured
from app.results.page import Page
from app.results.values import Question
from app.results.verdicts import DecisionResult, Verdict
from app.stats.group_sequential import Spending


def winner(page: Page, *, srm_mismatch: bool) -> tuple[str | None, Verdict]:
    """Name the winner by the first metric, and say why it is that one."""
    metric = page.metrics[0]
    if not metric.tested:
        return None, Verdict.NO_TEST
    return decide(
        {arm.variant.key: page.contrasts[metric.key, page.against_control(arm)] for arm in page.treatments},
        page.control.variant.key,
        srm_mismatch=srm_mismatch,
        below_min_sample=any(page.below_min_sample(arm) for arm in page.arms),
        sign=metric.sign,
    )


def decide(
    contrasts: Mapping[str, Contrast], control: str, *, srm_mismatch: bool, below_min_sample: bool, sign: float = 1.0
) -> tuple[str | None, Verdict]:
    """Name the winner: the best arm whose interval of the difference lies above 0, the control when all lie below.

    contrasts: each treatment's, by variant key, for the metric that decides. sign: -1 where less is better, which
    turns above into below.
    """
    if srm_mismatch:
        return None, Verdict.SRM_MISMATCH
    if below_min_sample:
        return None, Verdict.BELOW_MIN_SAMPLE
    better = {
        key: sign * found.difference
        for key, found in contrasts.items()
        if found.difference is not None and _lies(found, sign)
    }
    if better:
        return max(better, key=lambda key: better[key]), Verdict.TREATMENT_WINS
    if contrasts and all(_lies(found, -sign) for found in contrasts.values()):
        return control, Verdict.CONTROL_WINS
    return None, Verdict.UNDECIDED


def _lies(found: Contrast, sign: float) -> bool:
    """Tell whether the interval lies above 0, or below it for a negative sign."""
    end = found.lower if sign > 0 else found.upper
    return end is not None and sign * end > 0


def decision_on(page: Page, *, srm_mismatch: bool) -> DecisionResult:
    """Decide by the plan's primary metric and guardrails, without a plan by the first metric alone."""
    question, plan, attached = page.question, page.experiment.plan, page.experiment.metrics
    promised = {item.metric.key: item for item in attached if not item.exploratory}
    planned = next((key for key, item in promised.items() if item.role is Role.PRIMARY), None)
    by_key = {metric.key: metric for metric in page.metrics}
    primary = by_key.get(planned or page.metrics[0].key)
    guards = [key for key, item in promised.items() if item.role is Role.GUARDRAIL]
    tested = primary is not None and primary.tested
    # Stored metrics name their events themselves.
    of_named_events = [by_key[key] for key in (planned, *guards) if key in by_key and by_key[key].version is None]
    return decide_on(
        Circumstances(
            metric=planned or page.metrics[0].key,
            # 0.05 for 95 %, not 0.050000000000000044.
            alpha=round(1 - question.confidence, 12),
            started=page.experiment.started_at is not None,
            ended=page.has_ended,
            srm_mismatch=srm_mismatch,
            share_in_two_variants=page.share_in_two_variants,
            below_min_sample=any(page.below_min_sample(arm) for arm in page.arms),
            tested=tested,
            users=page.users,
            planned_sample=page.planned_sample,
            stopping_rule=plan.stopping_rule,
            looks=plan.looks,
            spending=Spending.OBRIEN_FLEMING if plan.spending is None else Spending(plan.spending.value),
            primary_not_asked=primary is None,
            guardrails_not_asked=tuple(key for key in guards if key not in by_key),
            part_of_the_data=_is_part(question, narrowed=bool(question.event_types and of_named_events)),
        ),
        page.control.variant.key,
        {} if primary is None else _evidence(page, primary),
        {key: _evidence(page, by_key[key]) for key in guards if key in by_key},
    )


def _is_part(question: Question, *, narrowed: bool) -> bool:
    """Tell whether the answer is about less, or more, than the experiment as it was planned.

    narrowed: a planned metric is of other events than planned. Without a plan, event types are what the caller means
    by the metric.
    """
    of_some = bool(question.context) or question.start is not None or question.end is not None
    return of_some or question.include_overrides or narrowed


def _evidence(page: Page, metric: Measured) -> dict[str, Evidence]:
    return {
        arm.variant.key: _evidence_of(metric, page.contrasts[metric.key, page.against_control(arm)])
        for arm in page.treatments
    }


def _evidence_of(metric: Measured, found: Contrast) -> Evidence:
    """Turn a contrast so that above 0 is better."""
    margin, shown = metric.margin, found.noninferiority
    worst = found.always_lift_lower if metric.sign > 0 else found.always_lift_upper
    return Evidence(
        gain=None if found.difference is None else metric.sign * found.difference,
        statistic=None if found.statistic is None else metric.sign * found.statistic,
        p_value=found.p_value,
        always_p_value=found.always_p_value,
        margin_statistic=None if shown is None else shown.statistic,
        margin_shown=None if shown is None else shown.shown,
        margin_always_shown=None
        if margin is None
        else worst is not None and shown is not None and shown.null_reason is None and metric.sign * worst > -margin,
    )
