"""What became of the events that a metric looks for, to say why it is empty. Plain values, no I/O.

They are counted by metrics of their own, measured in the same statement as all others: one leaves out the filters, one
the window as well, and one looks before the exposure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from app.measurement.values import Measured
from app.metrics.values import Kind, Recipe, Selection, ValueSource

# How far before the exposure is looked, in days: who logs the exposure too late does so by minutes or hours.
LOOK_BACK_DAYS = 1
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """Events of a selection's types that exposed users sent in the time asked for, each once under what is true first.

    All of them 0: never sent.
    """

    early: int  # In the day before the exposure.
    outside: int  # After it, outside the metric's window.
    filtered: int  # In the window, and a filter did not let it through.
    without_number: int  # Selected, without the number that is needed.
    counted: int


def sighting_recipes(key: str, recipe: Recipe) -> Mapping[str, Recipe]:
    """Return what to measure for the sightings of a metric, beside it or instead of it."""
    return {
        _name(key, place, what): found
        for place, selection in enumerate(_selections(recipe))
        for what, found in _recipes(recipe, selection).items()
    }


def sightings_of(key: str, recipe: Recipe, seen: Measured, variant_id: int) -> tuple[Sightings, ...]:
    """Return an arm's sightings for each selection of the metric: its steps, or its numerator and denominator."""

    def events(place: int, what: str) -> int:
        return seen.of(_name(key, place, what), variant_id).events

    return tuple(
        Sightings(
            early=int(seen.of(_name(key, place, "sent"), variant_id).sums.covariate),
            outside=events(place, "sent") - events(place, "inside"),
            filtered=events(place, "inside") - events(place, "selected"),
            without_number=events(place, "selected") - events(place, "counted"),
            counted=events(place, "counted"),
        )
        for place, _ in enumerate(_selections(recipe))
    )


def _selections(recipe: Recipe) -> tuple[Selection, ...]:
    return recipe.selections if recipe.denominator is None else (*recipe.selections, recipe.denominator)


def _recipes(recipe: Recipe, selection: Selection) -> Mapping[str, Recipe]:
    from_s, until_s = recipe.window_from_s, recipe.window_s
    if recipe.first_day is not None and recipe.last_day is not None:
        from_s, until_s = recipe.first_day * _DAY_S, (recipe.last_day + 1) * _DAY_S
    sent = Recipe(
        kind=Kind.COUNT,
        selections=(Selection(selection.event_types, source=ValueSource.ONE),),
        covariate_days=LOOK_BACK_DAYS,
    )
    inside = replace(sent, covariate_days=None, window_from_s=from_s, window_s=until_s)
    selected = replace(inside, selections=(replace(selection, source=ValueSource.ONE, property=None),))
    needs_number = recipe.kind in {Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.QUANTILE}
    counted = replace(inside, kind=Kind.SUM, selections=(selection,)) if needs_number else selected
    return {"sent": sent, "inside": inside, "selected": selected, "counted": counted}


def _name(key: str, place: int, what: str) -> str:
    # No metric's key has a blank.
    return f"{key} {place} {what}"
