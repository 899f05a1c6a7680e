"""What an answer says about parts of the users, however these are divided. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.core.errors import Invalid
from app.results.comparison_values import ComparisonResult
from app.results.homogeneous import homogeneity_of
from app.results.limits import MOST_PART_COMPARISONS
from app.results.measured import Measured
from app.results.page import Page, page_of
from app.results.part_values import HomogeneityResult, PoststratifiedResult
from app.results.parts import comparisons_of, family_of
from app.results.poststratified import poststratified_of
from app.results.values import Segment
from app.results.variant_values import FamilyResult


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the users, with the page about them and its comparisons."""

    segment: Segment
    page: Page
    comparisons: tuple[ComparisonResult, ...]


@dataclass(frozen=True, slots=True)
class Divided:
    """All parts, and what they say together."""

    parts: Sequence[Part]
    family: FamilyResult
    homogeneity: tuple[HomogeneityResult, ...]
    poststratified: tuple[PoststratifiedResult, ...]


def divided(whole: Page, segments: Sequence[Segment], metrics: Sequence[Sequence[Measured]], family: str) -> Divided:
    """Compare within each part; the p-values of all parts are adjusted together.

    metrics: of each segment, in their order. family: what is adjusted together, in words.

    Raises:
        Invalid: there is too much to compare.
    """
    number = len(segments) * len(whole.pairs) * len(whole.metrics)
    if number > MOST_PART_COMPARISONS:
        raise Invalid.field(
            "metrics",
            f"{len(segments)} parts of the users, {len(whole.pairs)} pairs of variants and {len(whole.metrics)} metrics"
            f" make {number:,} comparisons, and at most {MOST_PART_COMPARISONS:,} are made; name fewer metrics or"
            " pairs, or ask for wider cohorts",
        )
    question = replace(whole.question, with_series=False)
    pages = [
        page_of(whole.experiment, question, whole.reading, own, segment.observations, whole.provenance)
        for segment, own in zip(segments, metrics, strict=True)
    ]
    comparisons = comparisons_of(pages)
    return Divided(
        parts=[Part(*found) for found in zip(segments, pages, comparisons, strict=True)],
        family=family_of([found for compared in comparisons for found in compared], family),
        homogeneity=homogeneity_of(whole, metrics),
        poststratified=poststratified_of(whole, metrics),
    )
