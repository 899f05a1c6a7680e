"""Whether the metrics have data, and whether a few users decide them."""

from app.diagnosis.facts import FEWEST_FOR_TAILS, Facts, MetricFacts, Missing, Sent, Tails
from app.diagnosis.values import NOBODY, Code, Finding, Severity, Unchecked
from app.diagnosis.wording import count, percent
from app.metrics.values import Kind, Role

_MUCH_DATA = 1000
_MUCH_IN_FEW = 0.5


def empty_metric(facts: Facts) -> list[Finding] | Unchecked:
    """Name metrics without a single counted event, each with the reason."""
    if isinstance(facts.metrics, Unchecked):
        return facts.metrics
    users = facts.users
    if isinstance(users, Unchecked):
        return users
    if (exposed := sum(users)) == 0:
        return NOBODY
    return [_empty(metric, metric.sent, exposed) for metric in facts.metrics if metric.sent is not None]


def why_missing(sent: Sent, kind: Kind) -> Missing:
    """Say at which of the steps from being sent to being counted the last events were lost."""
    if sent.total == 0:
        return Missing.NEVER_SENT
    if sent.usable:
        return Missing.NOT_IN_ORDER if kind is Kind.FUNNEL else Missing.WITHOUT_NUMBER
    steps = (
        (sent.without_number, Missing.WITHOUT_NUMBER),
        (sent.filtered, Missing.FILTERED),
        (sent.outside, Missing.OUTSIDE_WINDOW),
        (sent.early, Missing.BEFORE_EXPOSURE),
    )
    return next((missing for events, missing in steps if events), Missing.OTHER_USERS)


def _empty(metric: MetricFacts, sent: Sent, exposed: int) -> Finding:
    reason = why_missing(sent, metric.kind)
    types = f"type {' or '.join(sent.event_types)}" if sent.event_types else "any type"
    saying, action = _REASONS[reason]
    return Finding(
        code=Code.EMPTY_METRIC,
        severity=Severity.CRITICAL if metric.role is Role.PRIMARY and exposed >= _MUCH_DATA else Severity.WARNING,
        title=f"The metric {metric.key} has no data",
        evidence={
            "metric": metric.key,
            "reason": reason.value,
            "event_types": list(sent.event_types),
            "events_sent": sent.total,
            "events_of_other_users": sent.of_others,
            "events_before_exposure": sent.early,
            "events_outside_window": sent.outside,
            "events_filtered": sent.filtered,
            "events_without_number": sent.without_number,
            "exposed_users": exposed,
        },
        text=f"No event counts for {metric.key}, with {count(exposed, 'exposed user')}: {saying.format(types=types)}.",
        action=action,
    )


_REASONS: dict[Missing, tuple[str, str]] = {
    Missing.NEVER_SENT: (
        "no event of {types} has come to this project since the day before its first assignment",
        "Check the spelling of the event type in the metric and in the product, and that events arrive (POST /events).",
    ),
    Missing.OTHER_USERS: (
        "events of {types} came, but none from an exposed user",
        "Check that events and assignments use the same user_id, and that events name this experiment or none.",
    ),
    Missing.BEFORE_EXPOSURE: (
        "events of {types} came only before the users' exposure",
        "Record the exposure before the variant can act, and check the clocks and time zones of events.",
    ),
    Missing.OUTSIDE_WINDOW: (
        "events of {types} lie outside the metric's window",
        "Wait until the window has passed for enough users, or make a version of the metric with another window.",
    ),
    Missing.FILTERED: (
        "the metric's filters let no event of {types} through",
        "Compare names, types and values of the filtered properties with an event as it is sent: text is no number.",
    ),
    Missing.WITHOUT_NUMBER: (
        "no event of {types} carries the number that the metric adds up",
        "Send the number as `value`, or in the property that the metric names, as a JSON number and not as text.",
    ),
    Missing.NOT_IN_ORDER: (
        "the step of {types} was never taken after the steps before it",
        "Check the order of the steps and the times of their events.",
    ),
}


def heavy_tails(facts: Facts) -> list[Finding] | Unchecked:
    """Name metrics of whose variance a few users make the most."""
    if isinstance(facts.metrics, Unchecked):
        return facts.metrics
    looked = [(metric.key, metric.tails) for metric in facts.metrics if metric.tails is not None]
    if not looked:
        return Unchecked(
            "No metric that is a sum or a count without `cap` and `winsorize` has numbers of"
            f" {FEWEST_FOR_TAILS} users or more."
        )
    return [_heavy(key, tails) for key, tails in looked if _in_few(tails) > _MUCH_IN_FEW]


def _heavy(key: str, tails: Tails) -> Finding:
    share = _in_few(tails)
    saved = 1 - tails.variance_cut / tails.variance if tails.variance else 0.0
    return Finding(
        code=Code.HEAVY_TAILS,
        severity=Severity.WARNING,
        title=f"A few users decide {key}",
        evidence={"metric": key, "users": tails.users, "share_of_squares": share, "variance_saved": saved},
        text=(
            f"What the top 1 % of the {count(tails.users, 'user')} with a number have above the others makes"
            f" {percent(share)} of the sum of squares. Cutting it off there would make the variance"
            f" {percent(saved)} smaller."
        ),
        action=(
            "Make a version of the metric with `winsorize` or `cap` before the next experiment, and look for bots and"
            " resellers among the top users. Changing it now would be choosing by the outcome."
        ),
    )


def _in_few(tails: Tails) -> float:
    return 1 - tails.squares_cut / tails.squares if tails.squares else 0.0
