"""What the report begins with: what it is about, and the decision. Plain functions, no I/O."""

from app.reports.markup import Child, Html, foreign, tag
from app.reports.numbers import NOTHING, moment, plain
from app.reports.sections.plan import RULES
from app.reports.tables import facts
from app.reports.values import Material
from app.results.verdicts import DecisionVerdict

_VERDICTS = {
    DecisionVerdict.SHIP: ("ship", "\N{CHECK MARK} Ship"),
    DecisionVerdict.DO_NOT_SHIP: ("stop", "\N{MULTIPLICATION SIGN} Do not ship"),
    DecisionVerdict.KEEP_RUNNING: ("wait", "\N{HORIZONTAL ELLIPSIS} Keep running"),
    DecisionVerdict.INVALID: ("stop", "! No decision can be taken from these data"),
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
        f"Decided {RULES.get(rule.stopping_rule, rule.stopping_rule)}, by ",
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


def _where(material: Material) -> str:
    """Name the treatment that the detectable effect is about, where there are several."""
    treatments = [variant for variant in material.results.variants if not variant.is_control]
    if len(treatments) < 2:
        return ""
    metric = material.results.summary.metric
    fewest = min(treatments, key=lambda variant: variant.metrics[metric].sample_size)
    return f" by {fewest.key}, the treatment with the fewest users"


def _outlook(material: Material) -> str:
    summary = material.results.summary
    said = []
    if summary.minimum_detectable_effect is not None:
        said.append(
            f"With as many users as there are, a lift of {100 * summary.minimum_detectable_effect:.3g} % in"
            f" {summary.metric} would be found four times out of five{_where(material)}."
        )
    if summary.users_per_day is not None:
        said.append(f"{plain(round(summary.users_per_day, 1))} users enter a day.")
    if summary.remaining_days:
        days = summary.remaining_days
        said.append(f"At that rate {'less than a day remains' if days < 1 else f'{days:,.1f} days remain'}.")
    return " ".join(said)
