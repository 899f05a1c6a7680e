"""The results by when users came. Plain functions, no I/O."""

from app.reports.cohort_chart import Drawn, cohort_chart
from app.reports.markup import Child, Html, tag
from app.reports.sections.over_time import MOST_PICTURES
from app.reports.tables import homogeneity_table, parts_table, poststratified_table
from app.reports.values import Material, key_of, label_of, left_out_of
from app.results.part_values import CohortsResult


def cohorts(material: Material) -> Child:
    """Show the effect among the users of each day or week, if that was asked for."""
    found = material.results.cohorts
    if found is None:
        return None
    drawn = _charts(material, found)
    left = len(drawn) - MOST_PICTURES
    return tag(
        "section",
        tag("h2", f"By the {found.width} of exposure"),
        tag(
            "p",
            f"Every user is in the {found.width} (UTC) of the first exposure, and counts there with all that happened"
            " since. The cohorts have no user in common, so that one of them that stands out says something by itself."
            " But those who came early have had more time: compare cohorts by metrics with a window after the exposure,"
            " or mind that the last ones are not done.",
        ),
        homogeneity_table(material, found),
        drawn[:MOST_PICTURES],
        tag("p", f"{left} more pictures are left out; ask for fewer metrics.", class_="note") if left > 0 else None,
        [parts_table(material, definition, found) for definition in material.results.definitions],
        tag("p", found.family.text, class_="soft"),
        tag(
            "p",
            "All users once more: the cohorts are compared each in itself, and weighted by their users. That takes out"
            " what made days differ, also where the allocation was changed in between.",
        ),
        [poststratified_table(material, definition, found) for definition in material.results.definitions],
        class_="sheet",
    )


def _charts(material: Material, found: CohortsResult) -> list[Html]:
    definitions = {definition.key: definition for definition in material.results.definitions}
    left_out = left_out_of(found)
    drawn: list[Html] = []
    for number, whole in enumerate(material.results.comparisons):
        own = [
            Drawn(cohort, compared, is_tested=place not in left_out.get(key_of(whole), ()))
            for place, cohort in enumerate(found.cohorts)
            for compared in cohort.comparisons
            if key_of(compared) == key_of(whole) and compared.difference is not None
            if compared.difference_ci_lower is not None
        ]
        if not own:
            continue
        measure = material.measure(definitions[whole.metric]).for_pictures()
        label = f"{whole.metric}, {label_of(whole)}"
        picture = cohort_chart(f"cohorts-{number}", label, found.width, own, whole.difference, measure)
        title = tag("h3", tag("code", whole.metric), ": ", tag("code", label_of(whole)))
        drawn.append(tag("div", title, tag("figure", picture)))
    return drawn
