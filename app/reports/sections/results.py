"""The results of each metric: the picture of all effects, and a table for each. Plain functions, no I/O."""

from app.metrics.values import Role
from app.reports.forest import Bar, forest
from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import p_in_words
from app.reports.tables import (
    effects_table,
    evidence_table,
    steps_table,
    values_table,
)
from app.reports.values import Material, is_less_better, label_of
from app.results.answer import DefinitionResult
from app.results.comparison_values import ComparisonResult
from app.results.words import sentences


def results(material: Material) -> Html:
    """Show every metric: all intervals in one picture, then the numbers."""
    definitions = material.results.definitions
    bars = [
        _bar(definition, found, material.control)
        for definition in definitions
        for found in material.comparisons(definition.key)
        if found.method.value != "none"
    ]
    level = material.results.metadata.confidence_level
    return tag(
        "section",
        tag("h2", "Results"),
        tag("figure", forest(bars, level)) if bars else None,
        [_metric(material, definition) for definition in definitions],
        tag("p", material.results.metadata.family.text, class_="soft"),
        class_="sheet",
    )


def _bar(definition: DefinitionResult, found: ComparisonResult, control: str) -> Bar:
    return Bar(
        metric=definition.key,
        label=found.variant if found.control == control else label_of(found),
        over_control=found.control == control,
        less_is_better=is_less_better(definition),
        lift=found.lift,
        lower=found.lift_ci_lower,
        upper=found.lift_ci_upper,
        always_lower=found.always_valid_lift_ci_lower,
        always_upper=found.always_valid_lift_ci_upper,
    )


def _metric(material: Material, definition: DefinitionResult) -> Html:
    comparisons = material.comparisons(definition.key)
    measure = material.measure(definition)
    tested = [found for found in comparisons if found.method.value != "none"]
    return tag(
        "div",
        tag("h3", tag("code", definition.key), [" ", foreign(definition.name)] if definition.name else None),
        tag("p", _described(definition), class_="soft"),
        [tag("p", foreign(note), class_="note") for note in definition.notes],
        values_table(material, definition),
        effects_table(definition, tested, measure) if tested else None,
        evidence_table(definition, tested, measure) if tested else None,
        steps_table(definition, material.results.variants),
        _guardrail(comparisons),
        [tag("p", note, class_="note") for note in dict.fromkeys(n for found in comparisons for n in found.notes)],
    )


def _described(definition: DefinitionResult) -> list[Child]:
    said: list[Child] = ["Less is better" if is_less_better(definition) else "More is better"]
    said.append("; exploratory, so it proves nothing" if definition.exploratory else f"; role: {definition.role.value}")
    if definition.role is Role.GUARDRAIL and definition.margin is not None:
        said.append(f", margin {100 * definition.margin:.4g} %")
    if definition.version is not None:
        said.append(f"; version {definition.version}")
    if definition.unit is not None:
        said += ["; unit: ", foreign(definition.unit)]
    return [*said, "."]


def _guardrail(comparisons: list[ComparisonResult]) -> Child:
    said: list[Child] = []
    for found in comparisons:
        shown = found.noninferiority
        if shown is None:
            continue
        margin, tested = f"{100 * shown.margin:.4g} %", f" (one-sided {p_in_words(shown.p_value)})"
        if shown.p_value is None:
            outcome, tested = (
                f"cannot be compared by a margin of {margin}",
                f": {' '.join(sentences([shown.null_reason]))}",
            )
        elif shown.shown:
            outcome = f"is not worse by {margin} or more"
        else:
            outcome = f"could still be worse by {margin} or more"
        said.append(tag("li", tag("code", found.variant), f" {outcome}{tested}"))
    return [tag("p", "Guardrail:"), tag("ul", said)] if said else None
