"""Which events an empty metric looks for, and when. Plain values, and text that both stores have alike; no I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from app.metrics.values import Kind, PropertyFilter, Recipe, Selection, ValueSource


@dataclass(frozen=True, slots=True)
class Sought:
    """The events of a selection from the exposure plus `since` until before it plus `until`; `None`: for ever."""

    selection: Selection
    since: timedelta
    until: timedelta | None


def sought(recipe: Recipe, selection: Selection) -> Sought:
    """Return what a recipe looks for with one of its selections."""
    if recipe.kind is Kind.RETENTION and recipe.first_day is not None and recipe.last_day is not None:
        return Sought(selection, timedelta(days=recipe.first_day), timedelta(days=recipe.last_day + 1))
    until = None if recipe.window_s is None else timedelta(seconds=recipe.window_s)
    return Sought(selection, timedelta(seconds=recipe.window_from_s), until)


def kept(
    selection: Selection, condition: Callable[[PropertyFilter, str], tuple[str, Mapping[str, Any]]]
) -> tuple[str, dict[str, Any]]:
    """Return what an event has to meet to be let through by the filters, each written by `condition`."""
    conditions, parameters = [], dict[str, Any]()
    for place, wanted in enumerate(selection.filters):
        written, own = condition(wanted, f"filter_{place}")
        conditions.append(written)
        parameters |= own
    return f"({' AND '.join(conditions)})" if conditions else "true", parameters


def has_number(selection: Selection, value: str, number_of: Callable[[str], str]) -> tuple[str, dict[str, Any]]:
    """Return what an event with a number meets: in its value, or in the property whose name is a parameter."""
    match selection.source:
        case ValueSource.ONE:
            return "true", {}
        case ValueSource.VALUE:
            return f"({value} IS NOT NULL)", {}
        case ValueSource.PROPERTY:
            return f"(({number_of('number')}) IS NOT NULL)", {"number": selection.property}
