"""Properties of events in ClickHouse: filters, and numbers out of them.

A number is compared as a double. What lies outside 1e-300 to 1e300, and is not 0, is no number here, in either store.
The same words for PostgreSQL are in `hot_filters`.
"""

from collections.abc import Mapping
from typing import Any

from app.metrics.values import Operator, PropertyFilter

# ClickHouse takes a whole number beyond 64 bits for a string. With a fraction after it, it is a number again.
PROPERTIES = (
    r"""if(match(properties, '[0-9]{19}'), arrayStringConcat(arrayMap("""
    r"""token -> if(match(token, '^-?[0-9]{19,}$'), concat(token, '.0'), token),"""
    r""" extractAll(properties, '"(?:[^"\\\\]|\\\\.)*"|-?[0-9][0-9.eE+-]*|[^"0-9-]+|-'))), properties)"""
)
_TYPE = "JSONType(properties, {{{name}:String}})"
_TEXT = (
    "(JSONType(properties, {{{name}:String}}) = 'String' AND JSONExtractString(properties, {{{name}:String}}) {test})"
)
_TRUTH = "(JSONType(properties, {{{name}:String}}) = 'Bool' AND JSONExtractBool(properties, {{{name}:String}}) {test})"
_IS_NUMBER = (
    "(JSONType(properties, {{{name}:String}}) IN ('Int64', 'UInt64', 'Double')"
    " AND (JSONExtractFloat(properties, {{{name}:String}}) = 0"
    " OR abs(JSONExtractFloat(properties, {{{name}:String}})) BETWEEN 1e-300 AND 1e300)"
)
_NUMBER = _IS_NUMBER + " AND JSONExtractFloat(properties, {{{name}:String}}) {test})"
_NUMBER_OR_NULL = "if(" + _IS_NUMBER + "), JSONExtractFloat(properties, {{{name}:String}}), NULL)"
_COMPARISONS = {
    Operator.EQ: "=",
    Operator.NE: "!=",
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
        comparison = "!=" if wanted.operator is Operator.EXISTS else "="
        return f"({_TYPE.format(name=name)} {comparison} 'Null')", parameters
    values = wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)
    tests = []
    for index, value in enumerate(values):
        parameter = f"{name}_{index}"
        pattern, type_, bound = _compared(value)
        tests.append(pattern.format(name=name, test=f"{_COMPARISONS[wanted.operator]} {{{parameter}:{type_}}}"))
        parameters[parameter] = bound
    return f"({' OR '.join(tests)})", parameters


def _compared(value: str | float | None) -> tuple[str, str, str | float]:
    if value is None:
        raise ValueError("filters: a filter that compares needs a value")
    if isinstance(value, str):
        return _TEXT, "String", value
    return (_TRUTH, "UInt8", int(value)) if isinstance(value, bool) else (_NUMBER, "Float64", float(value))
