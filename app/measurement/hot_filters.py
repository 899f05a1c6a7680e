"""Properties of events in PostgreSQL: filters, and numbers out of them.

A number is compared as a double. What lies outside 1e-300 to 1e300, and is not 0, is no number here, in either store:
what no double holds is left out first, because casting it would be an error. The same words for ClickHouse are in
`cold_filters`.
"""

from collections.abc import Mapping
from typing import Any

from app.metrics.values import Operator, PropertyFilter

_PROPERTY = "happened.properties -> CAST(:{name} AS text)"
_TYPE = "coalesce(jsonb_typeof(" + _PROPERTY + "), 'null')"
_TEXT = "CAST(happened.properties ->> CAST(:{name} AS text) AS {type})"
_NUMBER_OR_NULL = (
    "CASE WHEN " + _TYPE + " = 'number' THEN CASE"
    " WHEN " + _TEXT.replace("{type}", "numeric") + " = 0 THEN CAST(0 AS float8)"
    " WHEN abs(" + _TEXT.replace("{type}", "numeric") + ") BETWEEN 1e-300 AND 1e300"
    " THEN " + _TEXT.replace("{type}", "float8") + " END END"
)
_PATTERNS: Mapping[str, str] = {
    "text": "(" + _TYPE + " = 'string' AND " + _TEXT + " {comparison} CAST(:{parameter} AS text))",
    "boolean": "(" + _TYPE + " = 'boolean' AND " + _TEXT + " {comparison} CAST(:{parameter} AS boolean))",
    "float8": "coalesce(" + _NUMBER_OR_NULL + " {comparison} CAST(:{parameter} AS float8), false)",
}
_COMPARISONS = {
    Operator.EQ: "=",
    Operator.NE: "<>",
    Operator.GT: ">",
    Operator.GTE: ">=",
    Operator.LT: "<",
    Operator.LTE: "<=",
    Operator.IN: "=",
}


def number_of(name: str) -> str:
    """Return the number under the property whose name the parameter `name` holds, or NULL."""
    return _NUMBER_OR_NULL.format(name=name)


def condition(wanted: PropertyFilter, name: str) -> tuple[str, Mapping[str, Any]]:
    """Return what an event has to meet, and its parameters, whose names begin with `name`."""
    parameters: dict[str, Any] = {name: wanted.name}
    if wanted.operator in {Operator.EXISTS, Operator.NOT_EXISTS}:
        comparison = "<>" if wanted.operator is Operator.EXISTS else "="
        return f"({_TYPE.format(name=name)} {comparison} 'null')", parameters
    tests = []
    for index, value in enumerate(wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)):
        parameter, (type_, bound) = f"{name}_{index}", _compared(value)
        comparison = _COMPARISONS[wanted.operator]
        tests.append(_PATTERNS[type_].format(name=name, type=type_, comparison=comparison, parameter=parameter))
        parameters[parameter] = bound
    return f"({' OR '.join(tests)})", parameters


def _compared(value: str | float | None) -> tuple[str, str | float]:
    if value is None:
        raise ValueError("filters: a filter that compares needs a value")
    if isinstance(value, str):
        return "text", value
    return ("boolean", value) if isinstance(value, bool) else ("float8", float(value))
