"""The parts of the report, one after the other. Plain functions, no I/O."""

from collections.abc import Iterator, Mapping

from app.metrics.values import Role
from app.reports.forest import Bar, forest
from app.reports.glossary import GLOSSARY
from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import NOTHING, moment, p_in_words, plain
from app.reports.posterior import (
    Beta,
    Density,
    Posterior,
    density_of_normal,
    density_of_rates,
    posterior_chart,
)
from app.reports.tables import (
    effects_table,
    evidence_table,
    facts,
    poststratified_table,
    segments_table,
    steps_table,
    table,
    values_table,
)
from app.reports.trends import effect_chart, exposures_chart
from app.reports.values import Material, is_less_better, label_of
from app.results.answer import (
    ComparisonResult,
    DecisionVerdict,
    DefinitionResult,
    EffectSeries,
    ExposureSeries,
    MetricResult,
    VariantResult,
)
from app.results.words import NO_DAILY_DATA, sentences

# More pictures than these make a page that no browser scrolls and nobody reads; the tables hold all the numbers.
_MOST_PICTURES = 60

_VERDICTS = {
    DecisionVerdict.SHIP: ("ship", "\N{CHECK MARK} Ship"),
    DecisionVerdict.DO_NOT_SHIP: ("stop", "\N{MULTIPLICATION SIGN} Do not ship"),
    DecisionVerdict.KEEP_RUNNING: ("wait", "\N{HORIZONTAL ELLIPSIS} Keep running"),
    DecisionVerdict.INVALID: ("stop", "! No decision can be taken from these data"),
}
_RULES = {
    "fixed": "once, at the planned sample size",
    "always_valid": "at any time, by always-valid intervals",
    "group_sequential": "at planned looks, by bounds that share the error among them",
}


def heading(material: Material) -> Html:
    experiment, metadata = material.experiment, material.results.metadata
    asked: list[tuple[Child, Child]] = [
        ("Experiment", [tag("code", experiment.key), f", number {experiment.id}, version {experiment.version}"]),
        ("Status", experiment.status.value),
        ("Started", moment(experiment.started_at)),
        ("Ended", moment(experiment.ended_at or experiment.ends_at)),
        ("Events counted", _period(material)),
        ("Event types", foreign(", ".join(metadata.event_types)) if metadata.event_types else "all"),
        ("Computed", moment(metadata.computed_at)),
    ]
    if metadata.context:
        kept = "; ".join(f"{name} = {value}" for name, value in metadata.context.items())
        asked.append(("Users with", foreign(kept)))
    if metadata.include_overrides:
        asked.append(("Overrides", "users with a forced variant are included"))
    described = experiment.description
    return tag(
        "header",
        tag("h1", foreign(experiment.name)),
        tag("p", "Report on an experiment", class_="soft"),
        tag("p", foreign(described)) if described else None,
        facts(asked, "What this report is about"),
    )


def _period(material: Material) -> str:
    metadata = material.results.metadata
    if metadata.start_date is None and metadata.end_date is None:
        return "all since each user's exposure"
    start = "the beginning" if metadata.start_date is None else moment(metadata.start_date)
    end = "now" if metadata.end_date is None else f"before {moment(metadata.end_date)}"
    return f"from {start} to {end}"


def decision(material: Material) -> Html:
    """Say what to do and why, in words first."""
    summary = material.results.summary
    found = summary.decision
    class_, words = _VERDICTS[found.verdict]
    variant: Child = None
    if found.variant is not None:
        name = material.variant_name(found.variant)
        role = "The variant to keep: " if found.verdict is DecisionVerdict.DO_NOT_SHIP else "The variant: "
        variant = tag("p", role, tag("code", found.variant), " ", foreign(name))
    rule = found.rule
    planned = NOTHING if rule.planned_sample is None else f"{plain(rule.planned_sample)} users"
    said = [
        f"Decided {_RULES.get(rule.stopping_rule, rule.stopping_rule)}, by ",
        tag("code", rule.metric),
        f", two-sided level {rule.alpha:.4g}, planned sample {planned}",
    ]
    if rule.information is not None:
        said.append(f", of which {100 * min(rule.information, 9.99):.3g} % are there")
    if rule.bound is not None:
        said.append(f"; look {rule.look} of {rule.looks}, bound of the z statistic {rule.bound:.4g}")
    return tag(
        "section",
        tag("h2", words),
        variant,
        tag("ul", [tag("li", foreign(reason.text), " ", tag("code", reason.code.value)) for reason in found.reasons]),
        tag("p", said, ".", class_="soft"),
        tag("p", _outlook(material), class_="soft"),
        class_=f"verdict {class_}",
    )


def _outlook(material: Material) -> str:
    summary = material.results.summary
    said = []
    if summary.minimum_detectable_effect is not None:
        said.append(
            f"With as many users as there are, a lift of {100 * summary.minimum_detectable_effect:.3g} % in"
            f" {summary.metric} would be found four times out of five."
        )
    if summary.users_per_day is not None:
        said.append(f"{plain(round(summary.users_per_day, 1))} users enter a day.")
    if summary.remaining_days:
        days = summary.remaining_days
        said.append(f"At that rate {'less than a day remains' if days < 1 else f'{days:,.1f} days remain'}.")
    return " ".join(said)


def plan(material: Material) -> Html:
    """Show what was promised, and whether the promise was kept."""
    experiment, account = material.experiment, material.account
    own = experiment.plan
    promised: list[tuple[Child, Child]] = [
        ("Hypothesis", foreign(own.hypothesis) if own.hypothesis else NOTHING),
        ("Planned sample", NOTHING if own.sample_size is None else f"{plain(own.sample_size)} users of all variants"),
        ("When to decide", _when_to_decide(material)),
    ]
    if own.looks is not None:
        promised.append(("Looks", f"{own.looks}, spending {own.spending.value if own.spending else NOTHING}"))
    promised.append(("Seal", _seal(material)))
    if account is not None and account.seal is not None:
        promised.append(("SHA-256 of the plan", tag("code", account.seal.hash)))
    return tag(
        "section", tag("h2", "Plan"), facts(promised, "What was promised before the start"), _metrics_of(material)
    )


def _when_to_decide(material: Material) -> str:
    """Say by which rule is decided: without a planned sample not by the plan's own, which needs one."""
    own, applied = material.experiment.plan, material.results.summary.decision.rule
    if own.sample_size is not None:
        return _RULES.get(own.stopping_rule.value, own.stopping_rule.value)
    words = _RULES.get(applied.stopping_rule, applied.stopping_rule)
    if applied.planned_sample is not None:
        return f"{words}, for which this report was asked with a sample of {plain(applied.planned_sample)} users"
    return words if applied.stopping_rule == own.stopping_rule.value else f"{words}, as no sample was planned"


def _seal(material: Material) -> Child:
    account = material.account
    if account is None:
        return "Cannot be looked at now: the database is not available. Make the report again later."
    if account.verdict is None:
        return "Not sealed. A plan is sealed at the start."
    sealed = "" if account.seal is None else f"Sealed {moment(account.seal.sealed_at)}. "
    if account.verdict.problems:
        return [sealed, tag("strong", "BROKEN: "), foreign("; ".join(account.verdict.problems))]
    changed = account.verdict.changed_since
    later = f" Lawfully changed since: {', '.join(changed)}." if changed else ""
    return f"{sealed}Verified: the plan is as it was sealed.{later}"


def _metrics_of(material: Material) -> Html:
    attached = material.experiment.metrics
    if not attached:
        return tag("p", "No metric is attached to the experiment; the report shows those that were asked for.")
    rows: list[list[Child]] = [
        [
            [tag("code", item.metric.key), " ", foreign(item.metric.name)],
            str(item.metric.version),
            item.metric.recipe.kind.value,
            item.role.value,
            NOTHING if item.margin is None else f"{100 * item.margin:.4g} %",
            "less is better" if item.metric.direction.value == "down" else "more is better",
            "exploratory" if item.exploratory else "planned",
        ]
        for item in attached
    ]
    heads = ("Metric", "Version", "Kind", "Role", "Margin", "Good is", "Promised")
    return table("Metrics of the experiment", heads, rows, texts=5)


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
        outcome = (
            f"is not worse by {100 * shown.margin:.4g} % or more"
            if shown.shown
            else f"could still be worse by {100 * shown.margin:.4g} % or more"
        )
        said.append(tag("li", tag("code", found.variant), f" {outcome} (one-sided {p_in_words(shown.p_value)})"))
    return [tag("p", "Guardrail:"), tag("ul", said)] if said else None


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
        [segments_table(material, definition, found) for definition in material.results.definitions],
        tag("p", found.family.text, class_="soft"),
        tag(
            "p",
            "All users once more: the parts are compared each in itself, and weighted by their users. Parts that the"
            " variants have in different shares by chance then make no difference between them.",
        ),
        [poststratified_table(material, definition, found) for definition in material.results.definitions],
        class_="sheet",
    )


def over_time(material: Material) -> Html:
    """Show how every effect came about."""
    definitions = {definition.key: definition for definition in material.results.definitions}
    drawn: list[Html] = []
    silent: list[EffectSeries] = []
    left = 0
    for number, series in enumerate(material.results.effect_over_time):
        if not any(point.difference is not None for point in series.points):
            silent.append(series)
        elif len(drawn) >= _MOST_PICTURES:
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


def beliefs(material: Material) -> Html:
    """Show what may be believed about every difference."""
    figures = list(_posteriors(material))
    return tag(
        "section",
        tag("h2", "What to believe after the data"),
        tag(
            "p",
            "Each curve is the posterior density of a difference: where it is high, the true difference is likely to"
            " be.",
        ),
        [tag("p", said, class_="soft") for said in _priors(material)],
        figures[:_MOST_PICTURES] or tag("p", "There is no comparison to draw.", class_="note"),
        class_="sheet",
    )


def _priors(material: Material) -> list[str]:
    said: dict[str, None] = {}
    for found in material.results.comparisons:
        prior = found.bayes.prior
        if prior.kind == "beta":
            said[f"Prior of shares: Beta({prior.alpha:g}, {prior.beta:g})."] = None
        elif prior.kind == "normal":
            said[f"Prior of other lifts: normal, mean {prior.lift_mean:g}, standard deviation {prior.lift_std:g}."] = (
                None
            )
        else:
            said["Prior of other differences: flat."] = None
    return list(said)


def _posteriors(material: Material) -> Iterator[Html]:
    results = material.results
    arms = {variant.key: variant for variant in results.variants}
    number = 0
    for definition in results.definitions:
        for found in material.comparisons(definition.key):
            lower, upper = found.bayes.credible_lower, found.bayes.credible_upper
            if lower is None or upper is None:
                continue
            density = _density(found, arms, results.metadata.confidence_level / 100)
            if density is None:
                continue
            title = tag("h3", tag("code", definition.key), ": ", tag("code", label_of(found)))
            chart = posterior_chart(
                f"posterior-{number}",
                Posterior(
                    title=f"Posterior of the difference: {definition.key}, {label_of(found)}",
                    density=density,
                    credible_lower=lower,
                    credible_upper=upper,
                    credibility_percent=results.metadata.confidence_level,
                    prob_better=found.bayes.prob_better,
                    less_is_better=is_less_better(definition),
                ),
                material.measure(definition).for_pictures(),
            )
            yield tag("div", title, tag("figure", chart))
            number += 1


def _density(found: ComparisonResult, arms: dict[str, VariantResult], credibility: float) -> Density | None:
    prior, lower, upper = found.bayes.prior, found.bayes.credible_lower, found.bayes.credible_upper
    if prior.alpha is None or prior.beta is None:
        return None if lower is None or upper is None else density_of_normal(lower, upper, credibility)
    control, treatment = arms[found.control].metrics[found.metric], arms[found.variant].metrics[found.metric]
    beliefs_of = [_belief(arm, prior.alpha, prior.beta) for arm in (control, treatment)]
    known = [belief for belief in beliefs_of if belief is not None]
    return density_of_rates(known[0], known[1]) if len(known) == len(beliefs_of) else None


def _belief(arm: MetricResult, alpha: float, beta: float) -> Beta | None:
    if arm.value is None:
        return None
    successes = round(arm.value * arm.sample_size)
    return Beta(alpha=alpha + successes, beta=beta + arm.sample_size - successes)


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
