"""The chart of cohorts: the effect among the users of each day or week. Plain functions, no I/O."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from app.reports.drawing import (
    TEXT_HEIGHT,
    WIDTH,
    Area,
    Scale,
    clipped,
    day_axis,
    picture,
    square,
    stroke,
    vertical_axis,
    write,
)
from app.reports.markup import Child, Html, joined
from app.reports.numbers import Measure
from app.results.answer import CohortResult
from app.results.comparison_values import ComparisonResult
from app.results.values import CohortWidth

_DAY = timedelta(days=1)
_HEIGHT = 230.0
_LEFT = 64.0
# An interval that reaches further from its effect than this many times the typical one is cut, so that others stay
# readable: a day with few users says little.
_FARTHEST = 3.0

_Drawn = Sequence[tuple[CohortResult, ComparisonResult]]


def cohort_chart(
    name: str, label: str, width: CohortWidth, drawn: _Drawn, whole: float | None, measure: Measure
) -> Html:
    """Draw the difference in each cohort with its interval, and that of all users as a line.

    drawn: cohorts in the order of time, each with a comparison that has a difference, one of them at least.
    """
    area = Area(_LEFT, 34, WIDTH - 16, _HEIGHT - 62)
    # The rest has its place right before the others, however long it is.
    times = [cohort.until - width.width if cohort.since is None else cohort.since for cohort, _ in drawn]
    across, axis = day_axis(times[0], (times[-1] - times[0]) // _DAY + 1, area)
    up = Scale(*_range([found for _, found in drawn], whole, measure.factor), area.bottom, area.top)
    parts: list[Child] = [vertical_axis(up, area, measure.axis("Difference from the control"), sign=True), axis]
    parts.append(stroke(area.left, up(0), area.right, up(0), "zero"))
    if whole is not None:
        height = up(whole * measure.factor)
        parts.append(stroke(area.left, height, area.right, height, "edge always"))
    marks = [
        _mark(cohort, found, across((time - times[0]) / _DAY), up, measure.factor)
        for (cohort, found), time in zip(drawn, times, strict=True)
    ]
    parts.append(clipped(name, area, marks))
    parts.append(_legend(_HEIGHT - 14, has_rest=any(cohort.is_rest for cohort, _ in drawn)))
    return picture(name, _HEIGHT, f"Effect by {width} of exposure: {label}", _said(drawn, measure), parts)


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


def _mark(cohort: CohortResult, found: ComparisonResult, x: float, up: Scale, factor: float) -> Html:
    parts: list[Child] = []
    if found.difference_ci_lower is not None and found.difference_ci_upper is not None:
        lower, upper = up.beyond(found.difference_ci_lower * factor), up.beyond(found.difference_ci_upper * factor)
        parts.append(stroke(x, lower, x, upper, "thin"))
    if found.difference is not None:
        parts.append(square(x, up(found.difference * factor), 4, "mark s0" if cohort.is_rest else "point"))
    return joined(parts)


def _legend(y: float, *, has_rest: bool) -> Html:
    middle = y - TEXT_HEIGHT / 3
    parts: list[Child] = [
        stroke(_LEFT + 6, middle - 8, _LEFT + 6, middle + 8, "thin"),
        square(_LEFT + 6, middle, 4, "point"),
        write(_LEFT + 18, y, "difference and interval for one look"),
        stroke(_LEFT + 250, middle, _LEFT + 280, middle, "edge always"),
        write(_LEFT + 288, y, "difference of all users"),
    ]
    if has_rest:
        parts += [square(_LEFT + 450, middle, 4, "mark s0"), write(_LEFT + 460, y, "all before, together")]
    return joined(parts)


def _said(drawn: _Drawn, measure: Measure) -> str:
    return " ".join(
        f"{_when(cohort.since, cohort.until)}: {measure.difference(found.difference)}, interval"
        f" {measure.differences(found.difference_ci_lower, found.difference_ci_upper)}."
        for cohort, found in drawn
    )


def _when(since: datetime | None, until: datetime) -> str:
    return f"Before {until:%Y-%m-%d}" if since is None else f"{since:%Y-%m-%d}"
