"""The tables of the report. Plain functions, no I/O."""

from collections.abc import Sequence

from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import NOTHING, Measure, chance, p_value, percent, percents, plain
from app.reports.values import Material, key_of, label_of, left_out_of
from app.results.answer import DefinitionResult
from app.results.comparison_values import ComparisonResult, Method
from app.results.part_values import BreakdownResult, CohortResult, CohortsResult, SegmentResult
from app.results.poststratified import NO_STRATIFIED_FORM
from app.results.values import CohortWidth
from app.results.variant_values import MetricResult, VariantResult
from app.results.words import NO_TEST, sentences

_TESTS = {
    Method.POOLED_Z: "pooled z",
    Method.WELCH_T: "Welch t",
    Method.DELTA_Z: "delta z",
    Method.QUANTILE_Z: "quantile z",
    Method.NONE: "none",
}


def table(caption: str, heads: Sequence[Child], rows: Sequence[Sequence[Child]], *, texts: int = 0) -> Html:
    """Return a table whose first column names the rows; the others hold numbers, but for the last `texts`."""
    numbers = len(heads) - texts
    classes = ["text" if index >= numbers else "number" for index in range(len(heads))]
    head = [
        tag("th", content, scope="col", class_=None if index == 0 or classes[index] == "text" else "number")
        for index, content in enumerate(heads)
    ]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            [tag("td", content, class_=class_) for content, class_ in zip(row[1:], classes[1:], strict=True)],
        )
        for row in rows
    ]
    made = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", made, class_="scroll")


def facts(rows: Sequence[tuple[Child, Child]], caption: str) -> Html:
    """Return a table of names with what is said of each."""
    return table(caption, ("What", "Value"), [[name, said] for name, said in rows], texts=1)


def small(content: Child) -> Html:
    return tag("small", content)


def values_table(material: Material, definition: DefinitionResult) -> Html:
    """Show the metric in every variant."""
    measure, level = material.measure(definition), material.results.metadata.confidence_level
    rows = []
    for variant in material.results.variants:
        found = variant.metrics[definition.key]
        role = "control" if variant.is_control else None
        rows.append(
            [
                [tag("code", variant.key), small(foreign(material.variant_name(variant.key))), role and small(role)],
                plain(found.sample_size),
                measure.value(found.value),
                measure.values(found.ci_lower, found.ci_upper),
                NOTHING if found.lift_vs_control is None else percent(found.lift_vs_control / 100),
                chance(found.prob_best),
                _remarks(found, below=variant.below_min_sample),
            ]
        )
    heads = ("Variant", "Users", "Value", f"{level:g} % interval", "Lift", "Chance to be the best", "Remarks")
    return table(f"{definition.key} by variant", heads, rows, texts=1)


def _remarks(found: MetricResult, *, below: bool) -> str:
    said = list(sentences([found.null_reason])) or ([found.null_reason] if found.null_reason else [])
    return " ".join([*said, *(["Fewer users than the least sample."] if below else [])])


def effects_table(definition: DefinitionResult, comparisons: Sequence[ComparisonResult], measure: Measure) -> Html:
    """Show how large the effect is, by every way to estimate it."""
    rows: list[list[Child]] = []
    for found in comparisons:
        difference = measure.difference(found.difference)
        rows.append(
            [
                [tag("code", label_of(found)), small("as measured, one look")],
                difference,
                measure.differences(found.difference_ci_lower, found.difference_ci_upper),
                percent(found.lift),
                percents(found.lift_ci_lower, found.lift_ci_upper),
                p_value(found.p_value),
            ]
        )
        rows.append(
            [
                [tag("code", label_of(found)), small("always valid")],
                difference,
                measure.differences(found.always_valid_ci_lower, found.always_valid_ci_upper),
                percent(found.lift),
                percents(found.always_valid_lift_ci_lower, found.always_valid_lift_ci_upper),
                p_value(found.always_valid_p_value),
            ]
        )
        cuped = found.cuped
        if cuped.difference is not None:
            reduced = cuped.variance_reduction_percent
            said = "CUPED" if reduced is None else f"CUPED, variance {plain(reduced)} % smaller"
            rows.append(
                [
                    [tag("code", label_of(found)), small(said)],
                    measure.difference(cuped.difference),
                    measure.differences(cuped.difference_ci_lower, cuped.difference_ci_upper),
                    percent(cuped.lift),
                    percents(cuped.lift_ci_lower, cuped.lift_ci_upper),
                    p_value(cuped.p_value),
                ]
            )
    heads = ("Comparison", "Difference", "Its interval", "Lift", "Its interval", "p")
    return table(f"{definition.key}: effect by comparison", heads, rows)


def evidence_table(definition: DefinitionResult, comparisons: Sequence[ComparisonResult], measure: Measure) -> Html:
    """Show what speaks for the effect."""
    rows: list[list[Child]] = [
        [
            tag("code", label_of(found)),
            p_value(found.p_value),
            p_value(found.p_value_holm),
            p_value(found.p_value_bh),
            p_value(found.always_valid_p_value),
            chance(found.bayes.prob_better),
            measure.differences(found.bayes.credible_lower, found.bayes.credible_upper),
            measure.difference(found.bayes.expected_loss_if_shipped).lstrip("+"),
            _TESTS[found.method],
        ]
        for found in comparisons
    ]
    heads = (
        "Comparison",
        "p, raw",
        "p, Holm",
        "p, BH",
        "p, always valid",
        "Chance to be better",
        "Credible interval",
        "Expected loss if shipped",
        "Test",
    )
    return table(f"{definition.key}: evidence by comparison", heads, rows, texts=1)


def steps_table(definition: DefinitionResult, variants: Sequence[VariantResult]) -> Child:
    """Show how many users of a funnel got how far; nothing for other metrics."""
    steps = {variant.key: variant.metrics[definition.key].steps for variant in variants}
    most = max((len(reached) for reached in steps.values() if reached), default=0)
    if not most:
        return None
    heads = ("Variant", *(f"Step {number}" for number in range(1, most + 1)))
    rows = [
        [tag("code", key), *(plain(users) for users in reached or ()), *[NOTHING] * (most - len(reached or ()))]
        for key, reached in steps.items()
    ]
    return table(f"{definition.key}: users who got as far", heads, rows)


def parts_table(material: Material, definition: DefinitionResult, found: BreakdownResult | CohortsResult) -> Child:
    """Show a metric's effect in each part of the users; nothing for metrics that are not compared."""
    measure, left_out = material.measure(definition), left_out_of(found)
    rows: list[list[Child]] = []
    for place, (name, part) in enumerate(_parts(found)):
        for one in part.comparisons:
            if one.metric != definition.key or one.method is Method.NONE:
                continue
            rows.append(
                [
                    [name, small("not in the test") if place in left_out.get(key_of(one), ()) else None],
                    plain(part.users),
                    "mismatch" if part.srm.mismatch else p_value(part.srm.p_value),
                    tag("code", label_of(one)),
                    measure.difference(one.difference),
                    measure.differences(one.difference_ci_lower, one.difference_ci_upper),
                    percent(one.lift),
                    p_value(one.p_value),
                    p_value(one.p_value_holm),
                ]
            )
    if not rows:
        return None
    heads = ("Part", "Users", "SRM, p", "Comparison", "Difference", "Its interval", "Lift", "p, raw", "p, Holm")
    return table(f"{definition.key} in each part of the users", heads, rows)


def homogeneity_table(material: Material, found: BreakdownResult | CohortsResult) -> Child:
    """Show for every metric whether its effect is the same in all parts; nothing if none was tested."""
    tests = [one for one in found.homogeneity if one.null_reason != NO_TEST]
    if not tests:
        return None
    rows: list[list[Child]] = [
        [
            [tag("code", one.metric), ": ", tag("code", label_of(one))],
            plain(one.parts),
            plain(one.left_out),
            NOTHING if one.statistic is None else plain(one.statistic),
            p_value(one.p_value),
            p_value(one.p_value_holm),
            NOTHING if one.i_squared_percent is None else f"{plain(one.i_squared_percent)} %",
            " ".join(one.notes) or NOTHING,
        ]
        for one in tests
    ]
    heads = ("Comparison", "Parts", "Left out", "Q", "p, raw", "p, Holm", "I²", "Remarks")
    made = table("Is the effect the same in all parts?", heads, rows, texts=1)
    return [made, _left_out(material, found) if any(one.left_out for one in tests) else None]


def _left_out(material: Material, found: BreakdownResult | CohortsResult) -> Html:
    least = material.results.metadata.min_sample
    small_ones = f" with fewer than {plain(least)} users of one of the two variants, and those" if least > 1 else ""
    shown = " Pictures show them hollow, if they have an interval." if isinstance(found, CohortsResult) else ""
    return tag(
        "p",
        f"Left out are parts{small_ones} whose difference has no variance, as where nobody did anything. They are"
        f" marked in the tables below: not in the test.{shown}",
        class_="note",
    )


def poststratified_table(
    material: Material, definition: DefinitionResult, found: BreakdownResult | CohortsResult
) -> Child:
    """Show a metric's effect with the parts of the users as strata; nothing for metrics that cannot be weighted."""
    measure = material.measure(definition)
    compared = [one for one in found.poststratified if one.metric == definition.key]
    if all(one.difference is None and one.null_reason == NO_STRATIFIED_FORM for one in compared):
        return None
    rows: list[list[Child]] = [
        [
            tag("code", label_of(one)),
            plain(one.strata),
            measure.difference(one.difference),
            measure.differences(one.difference_ci_lower, one.difference_ci_upper),
            percent(one.lift),
            percents(one.lift_ci_lower, one.lift_ci_upper),
            p_value(one.p_value),
            NOTHING if one.variance_reduction_percent is None else f"{plain(one.variance_reduction_percent)} %",
            " ".join(one.notes) or NOTHING,
        ]
        for one in compared
    ]
    heads = (
        *("Comparison", "Parts", "Difference", "Its interval", "Lift", "Its interval", "p, raw"),
        *("Variance smaller by", "Remarks"),
    )
    return table(f"{definition.key} of all users, with the parts as strata", heads, rows, texts=1)


def _parts(found: BreakdownResult | CohortsResult) -> Sequence[tuple[Child, SegmentResult | CohortResult]]:
    if isinstance(found, BreakdownResult):
        return [(_segment(one), one) for one in found.segments]
    return [(cohort_name(one, found.width), one) for one in found.cohorts]


def _segment(segment: SegmentResult) -> Child:
    if segment.is_rest:
        return "all other values"
    return "without a value" if segment.value is None else foreign(segment.value)


def cohort_name(cohort: CohortResult, width: CohortWidth) -> str:
    """Name a cohort by its first day."""
    if cohort.since is None:
        return f"before {cohort.until:%Y-%m-%d}"
    return f"{cohort.since:%Y-%m-%d}" if width is CohortWidth.DAY else f"week of {cohort.since:%Y-%m-%d}"
