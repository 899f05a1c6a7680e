"""The charts over time: the effect with its bands, and the exposures. Plain functions, no I/O."""

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
    polygon,
    polyline,
    shortened,
    spread,
    square,
    stroke,
    vertical_axis,
    write,
)
from app.reports.markup import Child, Html, joined, tag
from app.reports.numbers import Measure, moment, plain
from app.results.daily_values import EffectPoint, EffectSeries, ExposureSeries

_DAY = timedelta(days=1)
_EFFECT_HEIGHT, _EXPOSURES_HEIGHT = 270.0, 250.0
_LEFT = 64.0
# Lines are told apart by their dashes and marks, not by their colours.
_STYLES = 6
_MOST_MARKS = 40

_Point = tuple[float, float]


def effect_chart(name: str, series: EffectSeries, label: str, measure: Measure) -> Html:
    """Draw the difference at the end of every day, with the interval for one look and the always-valid one."""
    points = [point for point in series.points if point.difference is not None]
    area = Area(_LEFT, 34, WIDTH - 16, _EFFECT_HEIGHT - 62)
    first, last = points[0].time, points[-1].time
    across, axis = day_axis(first, (last - first) // _DAY + 1, area)
    low, high = _range(points, measure.factor)
    up = Scale(low, high, area.bottom, area.top)
    parts: list[Child] = [vertical_axis(up, area, measure.axis("Difference from the control"), sign=True)]
    parts.append(axis)

    def places(values: Sequence[tuple[EffectPoint, float | None]]) -> list[_Point]:
        factor = measure.factor
        return [
            (across((p.time - first) / _DAY), up.beyond(value * factor)) for p, value in values if value is not None
        ]

    bands = (
        ("always", [(p, p.always_valid_ci_lower) for p in points], [(p, p.always_valid_ci_upper) for p in points]),
        ("fixed", [(p, p.ci_lower) for p in points], [(p, p.ci_upper) for p in points]),
    )
    drawn = [_band(places(lower), places(upper), class_) for class_, lower, upper in bands]
    parts.append(clipped(name, area, drawn))
    parts.append(stroke(area.left, up(0), area.right, up(0), "zero"))
    line = places([(p, p.difference) for p in points])
    parts.append(polyline(line, "curve"))
    if len(line) <= _MOST_MARKS:
        parts.append([square(x, y, 2.5, "point") for x, y in line])
    parts.append(_effect_legend(_EFFECT_HEIGHT - 14))
    return picture(name, _EFFECT_HEIGHT, f"Effect over time: {series.metric}, {label}", _said(points, measure), parts)


def _range(points: Sequence[EffectPoint], factor: float) -> tuple[float, float]:
    """Return the ends of the axis: all effects, and the bands from when they have become narrow."""
    late, later = points[len(points) // 4 :], points[len(points) // 2 :]
    seen = [p.difference for p in points] + [p.ci_lower for p in late] + [p.ci_upper for p in late]
    known = [value * factor for value in seen if value is not None]
    reach = max((abs(value) for value in known), default=0.0)
    wide = [p.always_valid_ci_lower for p in later] + [p.always_valid_ci_upper for p in later]
    known += [value * factor for value in wide if value is not None] + [0.0]
    low, high = min(known), max(known)
    margin = 0.08 * (high - low) or reach or 1.0
    return low - margin, high + margin


def _band(lower: Sequence[_Point], upper: Sequence[_Point], class_: str) -> Html:
    if not lower or not upper:
        return Html()
    if len(lower) == 1:
        (x, bottom), (_, top) = lower[0], upper[0]
        return stroke(x, bottom, x, top, "thick" if class_ == "fixed" else "thin")
    area = polygon([*lower, *reversed(upper)], f"band {class_}")
    return joined([area, polyline(lower, f"edge {class_}"), polyline(upper, f"edge {class_}")])


def _effect_legend(y: float) -> Html:
    middle = y - TEXT_HEIGHT / 3
    return joined(
        [
            stroke(_LEFT, middle, _LEFT + 30, middle, "curve"),
            square(_LEFT + 15, middle, 2.5, "point"),
            write(_LEFT + 38, y, "difference so far"),
            stroke(_LEFT + 170, middle, _LEFT + 200, middle, "edge fixed"),
            write(_LEFT + 208, y, "interval for one look"),
            stroke(_LEFT + 365, middle, _LEFT + 395, middle, "edge always"),
            write(_LEFT + 403, y, "always-valid band"),
        ]
    )


def _said(points: Sequence[EffectPoint], measure: Measure) -> str:
    last = points[-1]
    return (
        f"From {moment(points[0].time)} to {moment(last.time)}. At the end the difference is"
        f" {measure.difference(last.difference)}, interval {measure.differences(last.ci_lower, last.ci_upper)},"
        f" always valid {measure.differences(last.always_valid_ci_lower, last.always_valid_ci_upper)}."
    )


def exposures_chart(series: Sequence[ExposureSeries]) -> Html:
    """Draw how many users each variant had by the end of every day."""
    area = Area(_LEFT, 34, WIDTH - 150, _EXPOSURES_HEIGHT - 34)
    times = [point.time for own in series for point in own.points]
    first, last = min(times), max(times)
    across, axis = day_axis(first, (last - first) // _DAY + 1, area)
    most = max(own.points[-1].total for own in series if own.points)
    up = Scale(0, max(1, most) * 1.05, area.bottom, area.top)
    parts: list[Child] = [vertical_axis(up, area, "Exposed users so far"), axis]
    drawn = [(own, _places(own, first, last, across, up)) for own in series if own.points]
    labels = spread([places[-1][1] for _, places in drawn], TEXT_HEIGHT + 3)
    for number, ((own, places), y) in enumerate(zip(drawn, labels, strict=True)):
        style = number % _STYLES
        parts.append(polyline(places, f"line s{style}"))
        parts.append([_mark(x, y, style) for x, y in _marked(places)])
        x, height = places[-1]
        parts.append(stroke(x + 4, height, area.right + 12, y, "leader"))
        parts.append(_mark(area.right + 18, y, style))
        parts.append(write(area.right + 26, y + 4, shortened(own.variant, 120)))
    return picture("exposures", _EXPOSURES_HEIGHT, "Exposures over time", _totals(series), parts)


def _places(own: ExposureSeries, first: datetime, last: datetime, across: Scale, up: Scale) -> list[_Point]:
    places = [(across((point.time - first) / _DAY), up(point.total)) for point in own.points]
    # An arm that has no more users goes on as it was.
    return [*places, (across((last - first) / _DAY), places[-1][1])]


def _marked(places: Sequence[_Point]) -> Sequence[_Point]:
    """Choose few places to mark, so that the marks tell lines apart and do not become one."""
    return places[:: max(1, len(places) // 8)]


def _mark(x: float, y: float, style: int) -> Html:
    shapes = ("m-3.5 -3.5h7v7h-7z", "m-4 0l4 -4l4 4l-4 4z", "m-4 3.5l4 -7l4 7z", "m-4 -3.5l4 7l4 -7z")
    return tag("path", d=f"M{x:.1f} {y:.1f}{shapes[style % len(shapes)]}", class_=f"mark s{style}")


def _totals(series: Sequence[ExposureSeries]) -> str:
    return " ".join(f"{own.variant}: {plain(own.points[-1].total)} users in all." for own in series if own.points)
