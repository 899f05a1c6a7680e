"""The results for parts of the users. Plain functions, no I/O."""

from app.reports.markup import Child, foreign, tag
from app.reports.tables import homogeneity_table, parts_table, poststratified_table
from app.reports.values import Material


def breakdown(material: Material) -> Child:
    """Show the effect in parts of the users, if that was asked for."""
    found = material.results.breakdown
    if found is None:
        return None
    return tag(
        "section",
        tag("h2", "By ", foreign(found.attribute)),
        tag(
            "p",
            "Each part has fewer users than the whole, and among many parts one looks special by chance: read the"
            " adjusted p-values, and take what they show as an idea for the next experiment.",
        ),
        homogeneity_table(material, found),
        [parts_table(material, definition, found) for definition in material.results.definitions],
        tag("p", found.family.text, class_="soft"),
        tag(
            "p",
            "All users once more: the parts are compared each in itself, and weighted by their users. Parts that the"
            " variants have in different shares by chance then make no difference between them.",
        ),
        [poststratified_table(material, definition, found) for definition in material.results.definitions],
        class_="sheet",
    )
