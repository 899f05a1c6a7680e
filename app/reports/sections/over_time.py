"""How effects went day by day. Plain functions, no I/O."""

from app.reports.markup import Html, tag
from app.reports.trends import effect_chart
from app.reports.values import Material
from app.results.daily_values import EffectSeries
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
            drawn.append(tag("div", title, tag("figure", effect_chart(f"effect-{number}", series, label, measure))))
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
        [tag("p", tag("code", own.metric), ": ", _why_silent(own), class_="note") for own in _once(silent)],
        class_="sheet",
    )


def _once(silent: list[EffectSeries]) -> list[EffectSeries]:
    return list({own.metric: own for own in silent}.values())


def _why_silent(own: EffectSeries) -> str:
    if own.null_reason == NO_DAILY_DATA:
        return "not measured day by day."
    return " ".join(sentences([own.null_reason])) or "no difference yet."
