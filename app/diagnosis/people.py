"""Who came in, as either store counts it. Plain values, no I/O."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

MOST_NAMES, MOST_VALUES = 10, 20


@dataclass(frozen=True, slots=True)
class Attribute:
    """Users of a variant whose context has a value."""

    name: str
    value: str
    variant_id: int
    users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Users who count, by variant id: by day, by the stretch between two moments, and by the values of their context.

    Stretch 0 ends with the first moment, stretch 1 with the second. in_two_variants: the users who are left out because
    they were shown another variant than their own.
    """

    by_day: Mapping[date, Mapping[int, int]] = field(default_factory=dict)
    by_stretch: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    in_two_variants: int = 0
    attributes: tuple[Attribute, ...] = ()


def people_of(
    users: Iterable[Mapping[str, Any]], in_two_variants: int, attributes: Iterable[Mapping[str, Any]]
) -> People:
    """Add up rows of `variant_id`, `day`, `stretch` and `users`, and put the others beside them."""
    by_day: dict[date, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    by_stretch: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for row in users:
        by_day[row["day"]][row["variant_id"]] += row["users"]
        by_stretch[row["stretch"]][row["variant_id"]] += row["users"]
    return People(
        by_day=by_day,
        by_stretch=by_stretch,
        in_two_variants=in_two_variants,
        attributes=tuple(Attribute(**row) for row in attributes),
    )
