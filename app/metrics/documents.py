"""How a recipe reads as JSON, in answers and in sealed plans. No I/O."""

from typing import Any

from app.metrics.values import Kind, PropertyFilter, Recipe, Selection, ValueSource

# The kinds whose events count with a number.
VALUED_KINDS = frozenset({Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.QUANTILE})


def recipe_document(recipe: Recipe) -> dict[str, Any]:
    """Describe a recipe by the fields of `POST /metrics`; those that its kind does not use are null."""
    first = recipe.selections[0]
    is_funnel = recipe.kind is Kind.FUNNEL
    return {
        "kind": recipe.kind.value,
        "event_types": None if is_funnel else list(first.event_types),
        "filters": None if is_funnel else _filters(first),
        "value": _value(first) if recipe.kind in VALUED_KINDS else None,
        "denominator": None if recipe.denominator is None else _denominator(recipe.denominator),
        "steps": [_step(step) for step in recipe.selections] if is_funnel else None,
        "window": _window(recipe),
        "cap": recipe.cap,
        "winsorize": recipe.winsorize,
        "quantile": recipe.quantile,
        "days": None if recipe.first_day is None else {"first": recipe.first_day, "last": recipe.last_day},
        "covariate_days": recipe.covariate_days,
    }


def _denominator(selection: Selection) -> dict[str, Any]:
    return {
        "event_types": list(selection.event_types),
        "filters": _filters(selection),
        "value": _value(selection),
    }


def _step(selection: Selection) -> dict[str, Any]:
    return {"event_type": selection.event_types[0], "filters": _filters(selection)}


def _filters(selection: Selection) -> list[dict[str, Any]]:
    return [_filter(item) for item in selection.filters]


def _filter(item: PropertyFilter) -> dict[str, Any]:
    value = list(item.value) if isinstance(item.value, tuple) else item.value
    return {"property": item.name, "operator": item.operator.value, "value": value}


def _value(selection: Selection) -> str | dict[str, Any]:
    if selection.source is ValueSource.PROPERTY:
        return {"property": selection.property}
    return selection.source.value


def _window(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.window_from_s == 0 and recipe.window_s is None:
        return None
    return {"from_seconds": recipe.window_from_s, "seconds": recipe.window_s}
