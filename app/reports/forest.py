"""The chart of intervals: every comparison's lift, with both its intervals. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from app.reports.drawing import (
    TEXT_HEIGHT,
    WIDTH,
    Area,
    Scale,
    horizontal_axis,
    picture,
    shortened,
    square,
    stroke,
    write,
)
from app.reports.markup import Child, Html, joined, tag
from app.reports.numbers import percent, percents, short_percents

_LABELS, _NUMBERS = 180.0, 222.0
_ROW = 24.0
# An interval that reaches further than this many times the typical one ends in an arrow, so that others stay readable.
_FARTHEST = 5.0
_WIDEST, _NARROWEST = 1000.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One comparison of one metric, as fractions: 0.12 is +12 %."""

    metric: str
    label: str
    over_control: bool
    less_is_better: bool
    lift: float | None
    lower: float | None
    upper: float | None
    always_lower: float | None
    always_upper: float | None


def forest(bars: Sequence[Bar], confidence_level: float) -> Html:
    """Draw all comparisons, those of a metric together."""
    groups = [(metric, list(own)) for metric, own in groupby(bars, key=lambda bar: bar.metric)]
    height = 34 + _ROW * (len(bars) + len(groups)) + 62
    area = Area(_LABELS, 34, WIDTH - _NUMBERS, height - 62)
    reach = _reach(bars)
    scale = Scale(-reach, reach, area.left, area.right)
    parts: list[Child] = [horizontal_axis(scale, area, _axis(bars), sign=True)]
    parts.append(stroke(scale(0), area.top, scale(0), area.bottom, "zero"))
    parts.append(write(WIDTH - _NUMBERS + 12, 20, "Lift and interval", class_="tick"))
    y = area.top
    for metric, own in groups:
        y += _ROW
        parts.append(_heading(metric, y, less_is_better=own[0].less_is_better))
        for bar in own:
            y += _ROW
            parts.append(_row(bar, scale, y - _ROW / 2 + 4))
    parts.append(_legend(height - 12, confidence_level))
    return picture("forest", height, "Intervals of the lift", _described(bars), parts)


def _axis(bars: Sequence[Bar]) -> str:
    over = "the control" if all(bar.over_control for bar in bars) else "whom each is compared with"
    return f"Lift over {over}, percent"


def _reach(bars: Sequence[Bar]) -> float:
    """Return up to how many percent the axis goes to either side."""
    fixed = sorted(_farthest(bar.lower, bar.lift, bar.upper) for bar in bars)
    fixed = [reach for reach in fixed if reach > 0]
    always = max((_farthest(bar.always_lower, bar.always_upper) for bar in bars), default=0.0)
    typical = fixed[len(fixed) // 2] if fixed else 0.0
    wanted = min(max([*fixed, always]), _FARTHEST * typical) if fixed else 0.0
    return min(max(110 * wanted, _NARROWEST), _WIDEST)


def _farthest(*values: float | None) -> float:
    return max((abs(value) for value in values if value is not None), default=0.0)


def _heading(metric: str, y: float, *, less_is_better: bool) -> Html:
    direction = "less is better" if less_is_better else "more is better"
    name = write(0, y - 4, shortened(metric, _LABELS + 80), class_="strong")
    return joined([name, write(WIDTH, y - 4, direction, anchor="end", class_="tick")])


def _row(bar: Bar, scale: Scale, y: float) -> Html:
    parts: list[Child] = [write(12, y + 4, shortened(bar.label, _LABELS - 16))]
    if bar.lift is None:
        parts.append(write(scale.end + 12, y + 4, "no lift: see the difference", class_="tick"))
        return joined(parts)
    for low, high, class_, whisker in (
        (bar.always_lower, bar.always_upper, "thin", 4.0),
        (bar.lower, bar.upper, "thick", 0.0),
    ):
        if low is not None or high is not None:
            parts.append(_interval(low, high, scale, y, class_, whisker))
    if scale.holds(100 * bar.lift):
        parts.append(square(scale(100 * bar.lift), y, 5, "point"))
    parts.append(write(scale.end + 12, y + 4, short_percents(bar.lift, bar.lower, bar.upper)))
    return joined(parts)


def _interval(low: float | None, high: float | None, scale: Scale, y: float, class_: str, whisker: float) -> Html:
    """Draw an interval; an end outside the axis, or none at all, is an arrow."""
    ends = (scale.low - 1 if low is None else 100 * low, scale.high + 1 if high is None else 100 * high)
    if ends[1] < scale.low or ends[0] > scale.high:
        side = scale.start if ends[1] < scale.low else scale.end
        return _arrow(side, y, 1 if side == scale.end else -1)
    parts: list[Child] = [stroke(scale(ends[0]), y, scale(ends[1]), y, class_)]
    for end, towards in ((ends[0], -1), (ends[1], 1)):
        if not scale.holds(end):
            parts.append(_arrow(scale(end), y, towards))
        elif whisker:
            parts.append(stroke(scale(end), y - whisker, scale(end), y + whisker, class_))
    return joined(parts)


def _arrow(x: float, y: float, towards: int) -> Html:
    tip = x + 2 * towards
    return tag("path", d=f"M{tip:.1f} {y:.1f}l{-7 * towards} -5v10z", class_="point")


def _legend(y: float, confidence_level: float) -> Html:
    middle = y - TEXT_HEIGHT / 3
    return joined(
        [
            stroke(12, middle, 42, middle, "thick"),
            square(27, middle, 5, "point"),
            write(50, y, f"{confidence_level:g} % interval for one look"),
            stroke(260, middle, 290, middle, "thin"),
            stroke(260, middle - 4, 260, middle + 4, "thin"),
            stroke(290, middle - 4, 290, middle + 4, "thin"),
            write(298, y, "always valid, however often one looks"),
            _arrow(560, middle, 1),
            write(570, y, "goes on"),
        ]
    )


def _described(bars: Sequence[Bar]) -> str:
    return " ".join(
        f"{bar.metric}, {bar.label}: lift {percent(bar.lift)}, interval {percents(bar.lower, bar.upper)},"
        f" always valid {percents(bar.always_lower, bar.always_upper)}."
        for bar in bars
    )
