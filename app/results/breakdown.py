"""The answer for each value of an attribute. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import replace

from app.results.answer import BreakdownResult, SegmentResult
from app.results.measured import Measured
from app.results.page import Page, page_of
from app.results.parts import comparisons_of, family_of, sample_ratio, variants_of
from app.results.poststratified import poststratified_of
from app.results.values import Segment

_FAMILY = (
    "p_value_holm and p_value_bh are adjusted over all comparisons of this breakdown that were tested: every segment by"
    " every pair by every metric. An effect in one segment of many is the first thing to doubt."
)


def breakdown_of(
    whole: Page, attribute: str, segments: Sequence[Segment], metrics: Sequence[Sequence[Measured]]
) -> BreakdownResult:
    """Return the answer for each segment.

    metrics: of each segment, in their order.
    """
    question = replace(whole.question, with_series=False)
    pages = [
        page_of(whole.experiment, question, whole.reading, own, segment.observations, whole.provenance)
        for segment, own in zip(segments, metrics, strict=True)
    ]
    comparisons = comparisons_of(pages)
    return BreakdownResult(
        attribute=attribute,
        segments=tuple(
            SegmentResult(
                value=segment.value,
                is_rest=segment.is_rest,
                users=page.users,
                srm=sample_ratio(page.arms),
                variants=variants_of(page),
                comparisons=compared,
            )
            for segment, page, compared in zip(segments, pages, comparisons, strict=True)
        ),
        family=family_of([found for compared in comparisons for found in compared], _FAMILY),
        poststratified=poststratified_of(whole, metrics),
    )
