"""Who counts in an experiment's results, and from when. Plain values, no I/O."""

from dataclasses import dataclass
from enum import StrEnum

EXPOSURE_EVENT_TYPE = "exposure"
# The property of an exposure event that names the variant which the user really saw.
VARIANT_PROPERTY = "variant"


class ExposureRule(StrEnum):
    """What exposes an assigned user."""

    ASSIGNMENT = "assignment"  # The assignment itself.
    EVENT = "event"  # The first exposure event at or after the assignment; who has none does not count.


@dataclass(frozen=True, slots=True)
class ContextValue:
    """A name and value in a user's stored context, compared as `context.<name>=<value>` of results compares them."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Population:
    """Who is left out of results, and what exposes the others.

    Users with an exposure event that names another variant of the experiment than theirs were in two variants: they
    are left out as well, and counted.
    """

    exposure: ExposureRule = ExposureRule.ASSIGNMENT
    exposure_event_type: str = EXPOSURE_EVENT_TYPE
    # Internal users, testers, bots: by id, or by what their context says.
    exclude_users: tuple[str, ...] = ()
    exclude_context: tuple[ContextValue, ...] = ()


EVERYBODY = Population()
