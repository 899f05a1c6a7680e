"""What all charts are drawn with: scales, axes and the frame of an SVG picture. Plain functions, no I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from app.reports.markup import Child, Html, joined, tag
from app.reports.numbers import day, tick_labels, ticks

WIDTH = 720.0
# The height of the writing, and what a character of it takes on average and at most.
TEXT_HEIGHT = 12.0
CHARACTER_WIDTH = 6.6


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers from `low` to `high` to coordinates from `start` to `end`; what lies outside is put at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.start + self.end) / 2
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def beyond(self, value: float) -> float:
        """Return where the value lies, also outside the ends: for what is clipped."""
        if self.high <= self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Area:
    """The part of a picture in which data are drawn."""

    left: float
    top: float
    right: float
    bottom: float


def picture(name: str, height: float, title: str, description: str, *children: Child) -> Html:
    """Return an SVG with a title and a description for those who cannot see it; `name` is unique in the page."""
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", description, id=f"{name}-desc"),
        children,
        # SVG's names are case-sensitive, and an HTML parser knows this one in lower case as well.
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        width=WIDTH,
        height=height,
    )


def clipped(name: str, area: Area, *children: Child) -> Html:
    """Return the children without what lies outside the area; `name` is unique in the page."""
    frame = tag("rect", x=area.left, y=area.top, width=area.right - area.left, height=area.bottom - area.top)
    return tag("g", tag("clipPath", frame, id=f"{name}-clip"), tag("g", children, clip_path=f"url(#{name}-clip)"))


def write(x: float, y: float, *content: Child, anchor: str | None = None, class_: str | None = None) -> Html:
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def stroke(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> Html:
    return tag("polyline", points=_written(points), class_=class_, fill="none")


def polygon(points: Sequence[tuple[float, float]], class_: str, fill: str | None = None) -> Html:
    return tag("polygon", points=_written(points), class_=class_, fill=fill)


def square(x: float, y: float, half: float, class_: str) -> Html:
    return tag("rect", x=x - half, y=y - half, width=2 * half, height=2 * half, class_=class_)


def diamond(x: float, y: float, half: float, class_: str) -> Html:
    return tag("path", d=f"M{x - half:.1f} {y:.1f}l{half} {-half}l{half} {half}l{-half} {half}z", class_=class_)


def cross(x: float, y: float, half: float, class_: str) -> Html:
    ends = f"M{x - half:.1f} {y - half:.1f}l{2 * half} {2 * half}m0 {-2 * half}l{-2 * half} {2 * half}"
    return tag("path", d=ends, class_=class_)


def shortened(text: str, width: float) -> str:
    """Cut a text so that it fits a width; the whole of it stands in a table beside the chart."""
    most = max(1, int(width / CHARACTER_WIDTH))
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def horizontal_axis(scale: Scale, area: Area, title: str, *, sign: bool = False) -> Html:
    """Return grid lines, numbers and the name of an axis below the area."""
    places = ticks(scale.low, scale.high, most=6)
    parts: list[Child] = []
    for place, label in zip(places, tick_labels(places, sign=sign), strict=True):
        x = scale(place)
        parts.append(stroke(x, area.top, x, area.bottom, "grid"))
        parts.append(write(x, area.bottom + 15, label, anchor="middle", class_="tick"))
    parts.append(write((area.left + area.right) / 2, area.bottom + 32, title, anchor="middle", class_="tick"))
    return joined(parts)


def vertical_axis(scale: Scale, area: Area, title: str, *, sign: bool = False) -> Html:
    """Return grid lines and numbers beside the area, and the name of the axis above it."""
    places = ticks(scale.low, scale.high, most=6)
    parts: list[Child] = [write(area.left, area.top - 8, title, class_="tick")]
    for place, label in zip(places, tick_labels(places, sign=sign), strict=True):
        y = scale(place)
        parts.append(stroke(area.left, y, area.right, y, "grid"))
        parts.append(write(area.left - 6, y + 4, label, anchor="end", class_="tick"))
    return joined(parts)


def day_axis(first: datetime, days: int, area: Area) -> tuple[Scale, Html]:
    """Return the scale of a number of days counted from 0, and its axis below the area."""
    scale = (
        Scale(0, max(1, days - 1), area.left + 8, area.right - 8) if days > 1 else Scale(0, 0, area.left, area.right)
    )
    step = next((step for step in (1, 2, 7, 14, 28, 91, 182, 364, 1092) if days / step <= 8), days)
    parts: list[Child] = [stroke(area.left, area.bottom, area.right, area.bottom, "axis")]
    for number in range(0, days, step):
        x = scale(number)
        parts.append(stroke(x, area.bottom, x, area.bottom + 4, "axis"))
        parts.append(write(x, area.bottom + 17, day(first + timedelta(days=number)), anchor="middle", class_="tick"))
    return scale, joined(parts)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until none is nearer to its neighbour than the gap, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    # Half of what the last one was pushed down is taken back by all.
    excess = max((moved[index] - places[index] for index in order), default=0.0) / 2
    return [place - excess for place in moved]


def _written(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
