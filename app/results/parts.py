"""The parts that an answer and each segment of its breakdown have alike. Plain functions, no I/O."""

from collections.abc import Iterable, Sequence

from app.results.beliefs import Chance, prob_best
from app.results.comparing import comparison
from app.results.comparison_values import ComparisonResult
from app.results.estimates import lift_percent, measure
from app.results.measured import Measured
from app.results.page import Arm, Page
from app.results.series import series_of
from app.results.variant_values import FamilyResult, MetricResult, SrmResult, VariantResult
from app.stats.multiple import Correction, adjust_p_values
from app.stats.srm import srm_check


def variants_of(page: Page) -> tuple[VariantResult, ...]:
    """Return every variant with its metrics."""
    confidence = page.question.confidence if page.question.include_ci else None
    best = {
        metric.key: prob_best(metric, [metric.of(arm.variant.id) for arm in page.arms], page.reading)
        for metric in page.metrics
    }
    return tuple(
        VariantResult(
            id=arm.variant.id,
            key=arm.variant.key,
            is_control=arm.variant.is_control,
            below_min_sample=page.below_min_sample(arm),
            metrics={metric.key: _metric(page, metric, arm, best[metric.key][index]) for metric in page.metrics},
            time_series=series_of(arm.seen, page.question.granularity.width, confidence),
        )
        for index, arm in enumerate(page.arms)
    )


def comparisons_of(pages: Sequence[Page]) -> tuple[tuple[ComparisonResult, ...], ...]:
    """Return every page's comparisons; p-values are adjusted over all of them together."""
    p_values = [found.p_value for page in pages for found in page.contrasts.values()]
    holm = iter(adjust_p_values(p_values).adjusted)
    bh = iter(adjust_p_values(p_values, method=Correction.BENJAMINI_HOCHBERG).adjusted)
    return tuple(_comparisons(page, holm, bh) for page in pages)


def family_of(comparisons: Sequence[ComparisonResult], text: str) -> FamilyResult:
    """Say how many comparisons are adjusted together."""
    tested = sum(found.p_value is not None for found in comparisons)
    return FamilyResult(comparisons=len(comparisons), tested=tested, text=text)


def sample_ratio(arms: Sequence[Arm]) -> SrmResult:
    """Test whether the arms have the users that the allocation gives them."""
    test = srm_check([arm.seen.exposed_by_plan for arm in arms], [arm.variant.allocation_pct for arm in arms])
    return SrmResult(
        observed={arm.variant.key: arm.seen.exposed_by_plan for arm in arms},
        expected={arm.variant.key: users for arm, users in zip(arms, test.expected, strict=True)},
        statistic=test.statistic,
        df=test.df,
        p_value=test.p_value,
        mismatch=test.mismatch,
        null_reason=test.null_reason,
    )


def _comparisons(page: Page, holm: Iterable[float | None], bh: Iterable[float | None]) -> tuple[ComparisonResult, ...]:
    asked = [(variant, control, metric) for variant, control in page.pairs for metric in page.metrics]
    # The adjusted values come last: what is shorter ends the walk before it takes one of the next page's.
    return tuple(
        comparison(metric, variant, control, found, page.reading, page.question, holm=by_holm, bh=by_bh)
        for (variant, control, metric), found, by_holm, by_bh in zip(
            asked, page.contrasts.values(), holm, bh, strict=False
        )
    )


def _metric(page: Page, metric: Measured, arm: Arm, best: Chance) -> MetricResult:
    own, control, wanted = metric.of(arm.variant.id), metric.of(page.control.variant.id), page.question.include_ci
    found = measure(metric, own, page.question.confidence)
    return MetricResult(
        value=found.value,
        sample_size=arm.seen.exposed,
        ci_lower=found.lower if wanted else None,
        ci_upper=found.upper if wanted else None,
        lift_vs_control=None if arm.variant.is_control else lift_percent(control, own),
        prob_best=best.value,
        prob_best_null_reason=best.null_reason,
        steps=own.steps or None,
        # A reason that concerns the interval alone is of interest only where an interval was wanted.
        null_reason=found.null_reason if wanted or found.value is None else None,
    )
