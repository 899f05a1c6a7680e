"""The metrics that need no set-up, as recipes over events of all types. Plain values, no I/O."""

from collections.abc import Mapping
from types import MappingProxyType

from app.metrics.values import Direction, Kind, Metric, Recipe, Selection

_ALL_EVENTS = (Selection(()),)
_RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "conversion_rate": Recipe(kind=Kind.CONVERSION, selections=_ALL_EVENTS),
        "avg_value": Recipe(kind=Kind.MEAN, selections=_ALL_EVENTS),
        "value_per_user": Recipe(kind=Kind.SUM, selections=_ALL_EVENTS),
        "p95_value": Recipe(kind=Kind.QUANTILE, selections=_ALL_EVENTS, quantile=0.95),
    }
)
# Totals of an arm, which grow with its size: there is nothing to compare between arms.
_TOTALS = frozenset({"unique_users", "event_count"})
_DESCRIPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "conversion_rate": ("Conversion rate", "Exposed users with at least one counted event, of all exposed users."),
        "avg_value": ("Average value", "Sum of values by number of events that carry one."),
        "value_per_user": ("Value per user", "Sum of values by exposed users."),
        "p95_value": ("95th percentile of values", "Of the values of all counted events."),
    }
)

BUILT_IN_KEYS = frozenset(_RECIPES) | _TOTALS
# Results take it for every metric of the experiment, so no metric may have it as its key.
ATTACHED = "attached"
COMPARABLE_KEYS = tuple(sorted(_RECIPES))
# Built-in metrics are nobody's rows.
BUILT_IN_ID = 0


def built_in(key: str, project_id: int) -> Metric | None:
    """Return the metric of a project that needs no set-up and can be compared between variants, if the key is one's."""
    if (recipe := _RECIPES.get(key)) is None:
        return None
    name, description = _DESCRIPTIONS[key]
    return Metric(
        id=BUILT_IN_ID,
        project_id=project_id,
        key=key,
        version=1,
        name=name,
        description=description,
        recipe=recipe,
        direction=Direction.UP,
        unit=None,
    )


def why_not_comparable(key: str) -> str | None:
    """Say why a built-in metric cannot be judged, or return `None` if nothing is known against it."""
    if key not in _TOTALS:
        return None
    takeable = ", ".join(COMPARABLE_KEYS)
    return f"{key} is a total that grows with the variant; take one of {takeable}, or make a metric of kind count"
