"""The charts over time: the effect with its bands, and the exposures. Plain functions, no I/O."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from app.reports.drawing import (
    TEXT_HEIGHT,
    WIDTH,
    Area,
    Scale,
    clipped,
    cross,
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
    """Draw the difference at the end of every day, with the interval for one look and the always-valid one.

    Days without a number interrupt the line and the bands, and days without a difference are marked below them. One day
    has a difference at least.
    """
    points = series.points
    known = [point for point in points if point.difference is not None]
    without = [point for point in points if point.difference is None]
    area = Area(_LEFT, 34, WIDTH - 16, _EFFECT_HEIGHT - 62)
    first, last = points[0].time, points[-1].time
    across, axis = day_axis(first, (last - first) // _DAY + 1, area)
    low, high = _range(known, measure.factor)
    up = Scale(low, high, area.bottom, area.top)
    parts: list[Child] = [vertical_axis(up, area, measure.axis("Difference from the control"), sign=True)]
    parts.append(axis)

    def place(point: EffectPoint, value: float) -> _Point:
        return across((point.time - first) / _DAY), up.beyond(value * measure.factor)

    always = _lines(points, lambda point: (point.always_valid_ci_lower, point.always_valid_ci_upper), place)
    fixed = _lines(points, lambda point: (point.ci_lower, point.ci_upper), place)
    bands = [_band(lower, upper, "always") for lower, upper in always]
    bands += [_band(lower, upper, "fixed") for lower, upper in fixed]
    parts.append(clipped(name, area, bands))
    parts.append(stroke(area.left, up(0), area.right, up(0), "zero"))
    for (line,) in _lines(points, lambda point: (point.difference,), place):
        if len(line) > 1:
            parts.append(polyline(line, "curve"))
        if len(line) == 1 or len(known) <= _MOST_MARKS:
            # A day by itself has its intervals behind the mark.
            parts.append([square(x, y, 2.5 if len(line) > 1 else 4, "point") for x, y in line])
    thinned = without[:: 1 + len(without) // _MOST_MARKS]
    parts.append([cross(across((point.time - first) / _DAY), area.bottom - 6, 3, "cross") for point in thinned])
    parts.append(_effect_legend(_EFFECT_HEIGHT - 14, has_gaps=bool(without)))
    return picture(
        name, _EFFECT_HEIGHT, f"Effect over time: {series.metric}, {label}", _said(known, last, measure), parts
    )


def _lines(
    points: Sequence[EffectPoint],
    read: Callable[[EffectPoint], Sequence[float | None]],
    place: Callable[[EffectPoint, float], _Point],
) -> list[list[list[_Point]]]:
    """Return a line for each of the values that are read, once for every run of days that have all of them."""
    runs: list[list[list[_Point]]] = [[]]
    for point in points:
        wanted = read(point)
        places = [place(point, value) for value in wanted if value is not None]
        if len(places) == len(wanted):
            runs[-1].append(places)
        else:
            runs.append([])
    return [[list(line) for line in zip(*run, strict=True)] for run in runs if run]


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
    if len(lower) == 1:
        (x, bottom), (_, top) = lower[0], upper[0]
        return stroke(x, bottom, x, top, "thick" if class_ == "fixed" else "thin")
    area = polygon([*lower, *reversed(upper)], f"band {class_}")
    return joined([area, polyline(lower, f"edge {class_}"), polyline(upper, f"edge {class_}")])


def _effect_legend(y: float, *, has_gaps: bool) -> Html:
    middle = y - TEXT_HEIGHT / 3
    parts: list[Child] = [
        stroke(_LEFT, middle, _LEFT + 30, middle, "curve"),
        square(_LEFT + 15, middle, 2.5, "point"),
        write(_LEFT + 38, y, "difference so far"),
        stroke(_LEFT + 170, middle, _LEFT + 200, middle, "edge fixed"),
        write(_LEFT + 208, y, "interval for one look"),
        stroke(_LEFT + 365, middle, _LEFT + 395, middle, "edge always"),
        write(_LEFT + 403, y, "always-valid band"),
    ]
    if has_gaps:
        parts += [cross(_LEFT + 535, middle, 3, "cross"), write(_LEFT + 545, y, "no difference")]
    return joined(parts)


def _said(known: Sequence[EffectPoint], end: datetime, measure: Measure) -> str:
    """Say what the last day has that has a difference; the chart goes on to `end`."""
    last = known[-1]
    when = "At the end" if last.time == end else f"At the end there is none; on {moment(last.time)}"
    return (
        f"From {moment(known[0].time)} to {moment(end)}. {when} the difference is"
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
