"""How effects went day by day. Plain functions, no I/O."""

from collections import defaultdict
from collections.abc import Sequence

from app.reports.markup import Html, tag
from app.reports.trends import effect_chart
from app.reports.values import Material
from app.results.daily_values import EffectPoint, EffectSeries
from app.results.words import NO_DAILY_DATA, sentences

# More pictures than these make a page that no browser scrolls and nobody reads; the tables hold all the numbers.
MOST_PICTURES = 60


def over_time(material: Material) -> Html:
    """Show how every effect came about."""
    definitions = {definition.key: definition for definition in material.results.definitions}
    drawn: list[Html] = []
    silent: list[EffectSeries] = []
    left = 0
    for number, series in enumerate(material.results.effect_over_time):
        if not any(point.difference is not None for point in series.points):
            silent.append(series)
        elif len(drawn) >= MOST_PICTURES:
            left += 1
        else:
            measure = material.measure(definitions[series.metric]).for_pictures()
            label = f"{series.variant} against {material.control}"
            title = tag("h3", tag("code", series.metric), ": ", tag("code", label))
            chart = tag("figure", effect_chart(f"effect-{number}", series, label, measure))
            drawn.append(tag("div", title, chart, [tag("p", said, class_="note") for said in _gaps(series)]))
    return tag(
        "section",
        tag("h2", "Effect over time"),
        tag(
            "p",
            "Every point is the difference by all that had happened by the end of that day. Who looks every day reads"
            " the always-valid band: the truth stays inside it all along, as often as the level says.",
        ),
        drawn or tag("p", "No metric of this report was measured day by day.", class_="note"),
        tag("p", f"{left} more pictures are left out; ask for fewer metrics.", class_="note") if left else None,
        [
            tag("p", tag("code", metric), ": ", why, class_="note")
            for metric, why in dict.fromkeys((own.metric, _why_silent(own)) for own in silent)
        ],
        class_="sheet",
    )


def _gaps(series: EffectSeries) -> list[str]:
    """Say which days lack a number, and why."""
    found: dict[tuple[str, str], list[EffectPoint]] = defaultdict(list)
    for point in series.points:
        if point.null_reason is not None:
            what = "without a difference" if point.difference is None else "with a difference but not both intervals"
            found[what, point.null_reason].append(point)
    return [f"{_days(points)} {what}: {_in_words(reason)}" for (what, reason), points in found.items()]


def _days(points: Sequence[EffectPoint]) -> str:
    first, last = (f"{point.time:%Y-%m-%d}" for point in (points[0], points[-1]))
    return f"One day ({first})" if len(points) == 1 else f"{len(points)} days (the first {first}, the last {last})"


def _in_words(*reasons: str | None) -> str:
    return " ".join(sentences(reasons)) or "no difference yet."


def _why_silent(own: EffectSeries) -> str:
    if own.null_reason == NO_DAILY_DATA:
        return "not measured day by day."
    return _in_words(own.null_reason, *(point.null_reason for point in own.points))
