"""Where a page of the list of calibrations ends. Plain functions, no I/O."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.calibration.values import Calibration
from app.core.errors import Invalid
from app.core.paging import PageRequest


@dataclass(frozen=True, slots=True)
class Place:
    """The calibration after which a page begins; it may be gone by now."""

    created_at: datetime
    id: UUID


def place_after(calibration: Calibration) -> str:
    """Write the place as a cursor holds it."""
    return f"{calibration.created_at.isoformat()} {calibration.id}"


def place_of(request: PageRequest) -> Place | None:
    """Return the place at which the page begins, `None` for the first page.

    Raises:
        Invalid: the cursor is not one of this list.
    """
    if request.after is None:
        return None
    written, _, calibration_id = request.after.partition(" ")
    try:
        place = Place(datetime.fromisoformat(written), UUID(calibration_id))
    except ValueError as error:
        raise _bad_cursor() from error
    if place.created_at.tzinfo is None:
        raise _bad_cursor()
    return place


def _bad_cursor() -> Invalid:
    return Invalid.field("cursor", "is not a cursor of this list; use next_cursor of the page before, unchanged")
