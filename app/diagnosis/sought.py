"""Which events an empty metric looks for, and when. Plain values, no I/O."""

from dataclasses import dataclass
from datetime import timedelta

from app.metrics.values import Kind, Recipe, Selection


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
