"""The answer for each value of an attribute. Plain functions, no I/O."""

from collections.abc import Sequence

from app.results.divided import divided
from app.results.measured import Measured
from app.results.page import Page
from app.results.part_values import BreakdownResult, SegmentResult
from app.results.parts import sample_ratio, variants_of
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
    found = divided(whole, segments, metrics, _FAMILY)
    return BreakdownResult(
        attribute=attribute,
        segments=tuple(
            SegmentResult(
                value=part.segment.value,
                is_rest=part.segment.is_rest,
                users=part.page.users,
                srm=sample_ratio(part.page.arms),
                variants=variants_of(part.page),
                comparisons=part.comparisons,
            )
            for part in found.parts
        ),
        family=found.family,
        homogeneity=found.homogeneity,
        poststratified=found.poststratified,
    )
