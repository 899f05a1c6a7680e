"""The report as one page that needs nothing else. Plain functions, no I/O."""

from app.reports import sections
from app.reports.markup import Html, joined, tag
from app.reports.style import STYLE
from app.reports.values import Material

# What the page may load: nothing. It stands in the page as well, for those who save it.
SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(material: Material) -> str:
    """Return the whole document."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=SECURITY_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{material.experiment.name} \N{EN DASH} report"),
        tag("style", STYLE),
    )
    body = tag(
        "body",
        tag(
            "main",
            sections.heading(material),
            sections.decision(material),
            sections.plan(material),
            sections.users(material),
            sections.results(material),
            sections.breakdown(material),
            sections.over_time(material),
            sections.beliefs(material),
            sections.provenance(material),
            sections.glossary(),
        ),
    )
    return joined([Html("<!DOCTYPE html>"), tag("html", head, body, lang="en")])
