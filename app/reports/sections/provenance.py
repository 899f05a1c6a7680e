"""Where the numbers come from, and what the words mean. Plain functions, no I/O."""

from collections.abc import Mapping

from app.reports.glossary import GLOSSARY
from app.reports.markup import Child, Html, tag
from app.reports.numbers import moment, plain
from app.reports.tables import (
    facts,
)
from app.reports.values import Material


def provenance(material: Material) -> Html:
    """Say where the numbers come from, so that they can be had again."""
    found = material.results.provenance
    reasons = found.null_reasons
    rows: list[tuple[Child, Child]] = [
        ("Sources", ", ".join(found.sources)),
        ("Complete until", moment(found.complete_until)),
        ("Behind the present by", f"{plain(round(found.lag_seconds, 1))} s"),
        ("Events counted", plain(found.events_counted)),
        ("Duplicates dropped", _known(found.duplicates_dropped, reasons.get("duplicates_dropped"))),
        ("Late events", _known(found.late_events, reasons.get("late_events"))),
        ("Experiment's version", str(found.experiment_version)),
        ("Versions of metrics", _versions(found.metric_versions)),
        ("Hash of the question", tag("code", found.query_hash)),
        ("Answer's id", tag("code", found.answer_id or f"none: {reasons.get('answer_id')}")),
    ]
    how = (
        f"The same answer as JSON: GET /api/v1/experiments/{material.experiment.key}/results/{found.answer_id}"
        if found.answer_id
        else "This answer is not kept."
    )
    return tag(
        "section",
        tag("h2", "Where the numbers come from"),
        facts(rows, "Provenance"),
        tag("p", tag("code", how)),
        class_="sheet",
    )


def _known(count: int | None, reason: str | None) -> str:
    return plain(count) if count is not None else f"not known: {reason}"


def _versions(versions: Mapping[str, int | None]) -> str:
    return ", ".join(f"{key}: {'built in' if version is None else version}" for key, version in versions.items())


def glossary() -> Html:
    return tag(
        "section",
        tag("h2", "Words"),
        tag("dl", [tag("div", tag("dt", word), tag("dd", meaning)) for word, meaning in GLOSSARY]),
        class_="sheet",
    )
