"""What is believed after the data. Plain functions, no I/O."""

from collections.abc import Iterable, Iterator
from itertools import islice

from app.reports.markup import Html, tag
from app.reports.posterior import Beta, Density, Posterior, density_of_normal, density_of_rates, posterior_chart
from app.reports.sections.over_time import MOST_PICTURES
from app.reports.values import Material, is_less_better, label_of
from app.results.answer import DefinitionResult
from app.results.comparison_values import ComparisonResult
from app.results.variant_values import MetricResult, VariantResult


def beliefs(material: Material) -> Html:
    """Show what may be believed about every difference."""
    wanted = _with_interval(material)
    # A picture is worked out by integration, so no more are than are shown.
    figures = list(islice(_posteriors(material, wanted), MOST_PICTURES))
    left = len(wanted) - MOST_PICTURES
    return tag(
        "section",
        tag("h2", "What to believe after the data"),
        tag(
            "p",
            "Each curve is the posterior density of a difference: where it is high, the true difference is likely to"
            " be.",
        ),
        [tag("p", said, class_="soft") for said in _priors(material)],
        figures or tag("p", "There is no comparison to draw.", class_="note"),
        tag("p", f"{left} more pictures are left out; ask for fewer metrics.", class_="note") if left > 0 else None,
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


def _with_interval(material: Material) -> list[tuple[DefinitionResult, ComparisonResult]]:
    return [
        (definition, found)
        for definition in material.results.definitions
        for found in material.comparisons(definition.key)
        if found.bayes.credible_lower is not None
    ]


def _posteriors(material: Material, wanted: Iterable[tuple[DefinitionResult, ComparisonResult]]) -> Iterator[Html]:
    results = material.results
    arms = {variant.key: variant for variant in results.variants}
    for number, (definition, found) in enumerate(wanted):
        lower, upper = found.bayes.credible_lower, found.bayes.credible_upper
        density = _density(found, arms, results.metadata.confidence_level / 100)
        if lower is None or upper is None or density is None:
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
