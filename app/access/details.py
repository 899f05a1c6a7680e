"""What the details of an audit entry say, whoever wrote them. No I/O."""

from collections.abc import Iterable

import msgspec

# A configuration may be nested 64 levels deep, and stands some levels deep in the details of its change.
_DEEPEST = 100


def read_details(text: str) -> object:
    """Return the JSON value of an entry's details, which is an object unless somebody put something else there.

    What is nested deeper than anything that the service writes is returned as its text: no answer could hold it.
    """
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value if _is_shallow(value) else text


def _is_shallow(value: object) -> bool:
    level, depth = [value], 0
    while level and depth <= _DEEPEST:
        level, depth = [inner for one in level for inner in _inside(one)], depth + 1
    return not level


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
