"""The report as one page that needs nothing else. Plain functions, no I/O."""

from app.reports.markup import Html, joined, tag
from app.reports.sections import beliefs, breakdown, cohorts, decision, over_time, plan, provenance, results, users
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
            decision.heading(material),
            decision.decision(material),
            plan.plan(material),
            users.users(material),
            results.results(material),
            breakdown.breakdown(material),
            cohorts.cohorts(material),
            over_time.over_time(material),
            beliefs.beliefs(material),
            provenance.provenance(material),
            provenance.glossary(),
        ),
    )
    return joined([Html("<!DOCTYPE html>"), tag("html", head, body, lang="en")])
