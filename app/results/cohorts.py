"""The answer by when users came, in the order of time. Plain functions, no I/O."""

from collections.abc import Sequence
from datetime import datetime

from app.results.divided import Part, divided
from app.results.measured import Measured
from app.results.page import Page
from app.results.part_values import CohortResult, CohortsResult
from app.results.parts import sample_ratio, variants_of
from app.results.values import CohortWidth, Segment

_FAMILY = (
    "p_value_holm and p_value_bh are adjusted over all comparisons of these cohorts that were tested: every cohort by"
    " every pair by every metric. Among many days one looks special by chance; `homogeneity` asks whether they differ"
    " at all."
)


def cohorts_of(
    whole: Page, width: CohortWidth, segments: Sequence[Segment], metrics: Sequence[Sequence[Measured]]
) -> CohortsResult:
    """Return the answer for each cohort that has users.

    segments: the newest cohort first, then the rest. metrics: of each, in their order.
    """
    peopled = [(segment, own) for segment, own in zip(segments, metrics, strict=True) if _has_users(whole, segment)][
        ::-1
    ]
    found = divided(whole, [segment for segment, _ in peopled], [own for _, own in peopled], _FAMILY)
    beginnings = [segment.since for segment in segments if segment.since is not None]
    return CohortsResult(
        width=width,
        cohorts=tuple(_cohort(part, width, min(beginnings)) for part in found.parts),
        family=found.family,
        homogeneity=found.homogeneity,
        poststratified=found.poststratified,
    )


def _has_users(whole: Page, segment: Segment) -> bool:
    """Tell whether anybody is in a cohort; there may be one of nobody but users who are left out."""
    return any(segment.observations.of(variant.id).exposed for variant in whole.experiment.variants)


def _cohort(part: Part, width: CohortWidth, earliest: datetime) -> CohortResult:
    """Return the answer for one cohort.

    earliest: where the first one begins that is not the rest.
    """
    since = part.segment.since
    return CohortResult(
        since=since,
        until=earliest if since is None else since + width.width,
        is_rest=part.segment.is_rest,
        users=part.page.users,
        srm=sample_ratio(part.page.arms),
        variants=variants_of(part.page),
        comparisons=part.comparisons,
    )
