"""Who is in the experiment: the sample ratio, who is left out, and exposures over time. Plain functions, no I/O."""

from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import NOTHING, p_in_words, plain
from app.reports.tables import facts, table
from app.reports.trends import exposures_chart
from app.reports.values import Material
from app.results.daily_values import ExposureSeries


def users(material: Material) -> Html:
    """Show who is in the experiment, and whether the shares are those that were planned."""
    results, srm = material.results, material.results.srm
    total = sum(srm.observed.values())
    rows: list[list[Child]] = [
        [
            [tag("code", key), " ", foreign(material.variant_name(key))],
            plain(observed),
            plain(round(srm.expected[key], 1)),
            NOTHING if not total else f"{100 * observed / total:.2f} %",
        ]
        for key, observed in srm.observed.items()
    ]
    if srm.mismatch:
        said = tag(
            "p",
            f"Sample ratio mismatch ({p_in_words(srm.p_value)}): the variants do not have the planned shares of users."
            " No number of this report can be trusted until it is known why.",
            class_="alarm",
        )
    elif srm.p_value is None:
        said = tag("p", f"The shares cannot be tested: {srm.null_reason}.", class_="note")
    else:
        said = tag("p", f"The shares are as planned (sample ratio test, {p_in_words(srm.p_value)}).", class_="note")
    return tag(
        "section",
        tag("h2", "Users"),
        table("Users by variant, and as many as the allocation gives", ("Variant", "Users", "Expected", "Share"), rows),
        said,
        _excluded(material),
        _exposures(results.exposures_over_time),
        class_="sheet",
    )


def _excluded(material: Material) -> Child:
    excluded = {reason: count for reason, count in material.results.provenance.users_excluded.items() if count}
    if not excluded:
        return tag("p", "No user was left out.")
    rows: list[tuple[Child, Child]] = [(tag("code", reason), plain(count)) for reason, count in excluded.items()]
    return facts(rows, "Users who were left out, by reason")


def _exposures(series: tuple[ExposureSeries, ...]) -> Child:
    if not any(own.points for own in series):
        return tag("p", "Nobody has been exposed yet.", class_="note")
    return tag("figure", exposures_chart(series))
