"""The chart of cohorts: the effect among the users of each day or week. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.reports.drawing import (
    TEXT_HEIGHT,
    WIDTH,
    Area,
    Scale,
    clipped,
    day_axis,
    diamond,
    picture,
    square,
    stroke,
    vertical_axis,
    write,
)
from app.reports.markup import Child, Html, joined
from app.reports.numbers import Measure
from app.results.comparison_values import ComparisonResult
from app.results.part_values import CohortResult
from app.results.values import CohortWidth

_DAY = timedelta(days=1)
_HEIGHT = 230.0
_LINE = TEXT_HEIGHT + 6
_LEFT = 64.0
# An interval that reaches further from its effect than this many times the typical one is cut, so that others stay
# readable: a day with few users says little.
_FARTHEST = 3.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """A cohort with one comparison; `is_tested`: it is in the test that the comparison is alike in all cohorts."""

    cohort: CohortResult
    found: ComparisonResult
    is_tested: bool


def cohort_chart(
    name: str, label: str, width: CohortWidth, drawn: Sequence[Drawn], whole: float | None, measure: Measure
) -> Html:
    """Draw the difference in each cohort with its interval, and that of all users as a line.

    drawn: cohorts in the order of time, each with a comparison that has a difference, one of them at least.
    """
    area = Area(_LEFT, 34, WIDTH - 16, _HEIGHT - 62)
    # The rest has its place right before the others, however long it is.
    cohorts = [one.cohort for one in drawn]
    times = [cohort.until - width.width if cohort.since is None else cohort.since for cohort in cohorts]
    across, axis = day_axis(times[0], (times[-1] - times[0]) // _DAY + 1, area)
    up = Scale(*_range([one.found for one in drawn], whole, measure.factor), area.bottom, area.top)
    parts: list[Child] = [vertical_axis(up, area, measure.axis("Difference from the control"), sign=True), axis]
    parts.append(stroke(area.left, up(0), area.right, up(0), "zero"))
    if whole is not None:
        height = up(whole * measure.factor)
        parts.append(stroke(area.left, height, area.right, height, "edge always"))
    marks = [
        _mark(one, across((time - times[0]) / _DAY), up, measure.factor) for one, time in zip(drawn, times, strict=True)
    ]
    parts.append(clipped(name, area, marks))
    parts.append(_legend(_HEIGHT - 14))
    odd = _legend_of_odd_ones(_HEIGHT - 14 + _LINE, drawn)
    height = _HEIGHT + (_LINE if odd else 0)
    return picture(name, height, f"Effect by {width} of exposure: {label}", _said(drawn, measure), parts, odd)


def _range(drawn: Sequence[ComparisonResult], whole: float | None, factor: float) -> tuple[float, float]:
    """Return the ends of the axis: all effects, and the intervals that are not far longer than most."""
    known = [(one.difference, one.difference_ci_lower, one.difference_ci_upper) for one in drawn]
    reaches = sorted(
        max(upper - middle, middle - lower)
        for middle, lower, upper in known
        if middle is not None and lower is not None and upper is not None
    )
    farthest = _FARTHEST * reaches[len(reaches) // 2] if reaches else 0.0
    ends = [0.0, *([] if whole is None else [whole])]
    for middle, lower, upper in known:
        if middle is not None:
            ends += [middle, max(middle - farthest, lower if lower is not None else middle)]
            ends.append(min(middle + farthest, upper if upper is not None else middle))
    low, high = min(ends) * factor, max(ends) * factor
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _mark(one: Drawn, x: float, up: Scale, factor: float) -> Html:
    found = one.found
    parts: list[Child] = []
    if found.difference_ci_lower is not None and found.difference_ci_upper is not None:
        lower, upper = up.beyond(found.difference_ci_lower * factor), up.beyond(found.difference_ci_upper * factor)
        parts.append(stroke(x, lower, x, upper, "thin"))
    if found.difference is not None:
        # What is tested is told by the filling, and the rest by the form, because it may be either.
        draw, class_ = diamond if one.cohort.is_rest else square, "point" if one.is_tested else "mark s0"
        parts.append(draw(x, up(found.difference * factor), 5 if one.cohort.is_rest else 4, class_))
    return joined(parts)


def _legend(y: float) -> Html:
    middle = y - TEXT_HEIGHT / 3
    return joined(
        [
            stroke(_LEFT + 6, middle - 8, _LEFT + 6, middle + 8, "thin"),
            square(_LEFT + 6, middle, 4, "point"),
            write(_LEFT + 18, y, "difference and interval for one look"),
            stroke(_LEFT + 250, middle, _LEFT + 280, middle, "edge always"),
            write(_LEFT + 288, y, "difference of all users"),
        ]
    )


def _legend_of_odd_ones(y: float, drawn: Sequence[Drawn]) -> Html:
    """Name the marks that not every chart has."""
    middle = y - TEXT_HEIGHT / 3
    parts: list[Child] = []
    if not all(one.is_tested for one in drawn):
        parts += [square(_LEFT + 6, middle, 4, "mark s0"), write(_LEFT + 18, y, "hollow: not in the test")]
    if any(one.cohort.is_rest for one in drawn):
        parts += [diamond(_LEFT + 265, middle, 5, "point"), write(_LEFT + 288, y, "all before, together")]
    return joined(parts)


def _said(drawn: Sequence[Drawn], measure: Measure) -> str:
    return " ".join(
        f"{_when(one.cohort.since, one.cohort.until)}: {measure.difference(one.found.difference)}, interval"
        f" {measure.differences(one.found.difference_ci_lower, one.found.difference_ci_upper)}"
        f"{'' if one.is_tested else ', not in the test'}."
        for one in drawn
    )


def _when(since: datetime | None, until: datetime) -> str:
    return f"Before {until:%Y-%m-%d}" if since is None else f"{since:%Y-%m-%d}"
