"""What was planned, and whether its seal holds. Plain functions, no I/O."""

from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import NOTHING, moment, plain
from app.reports.tables import facts, table
from app.reports.values import Material

RULES = {
    "fixed": "once, at the planned sample size",
    "always_valid": "at any time, by always-valid intervals",
    "group_sequential": "at planned looks, by bounds that share the error among them",
}


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
        return RULES.get(own.stopping_rule.value, own.stopping_rule.value)
    words = RULES.get(applied.stopping_rule, applied.stopping_rule)
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
