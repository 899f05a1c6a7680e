"""Lists in pages: newest first, continued by an opaque cursor."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query

from app.core.errors import Invalid

T = TypeVar("T")
MAX_LIMIT = 200


@dataclass(frozen=True, slots=True)
class PageRequest:
    """How many items, and after which one. `after` is what `cursor_of` was given, or `None` for the first page."""

    limit: int
    after: str | None

    def after_id(self) -> int | None:
        """Return the cursor as an id.

        Raises:
            Invalid: it is not one of this list's cursors.
        """
        if self.after is None:
            return None
        if not self.after.isdecimal() or len(self.after) > 18:  # Fits a bigint.
            raise _bad_cursor()
        return int(self.after)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is `None` at its end."""

    items: Sequence[T]
    next_cursor: str | None


def page_of(rows: Sequence[T], request: PageRequest, key: Callable[[T], object]) -> Page[T]:
    """Cut `limit + 1` fetched rows into a page; the one too many tells that another page follows."""
    items = rows[: request.limit]
    more = len(rows) > request.limit
    return Page(items, cursor_of(str(key(items[-1]))) if more else None)


def cursor_of(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items per page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=2000, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    if cursor is None:
        return PageRequest(limit, None)
    try:
        position = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _bad_cursor() from error
    if "\x00" in position:
        raise _bad_cursor()
    return PageRequest(limit, position)


def _bad_cursor() -> Invalid:
    return Invalid.field("cursor", "is not a cursor of this list; use next_cursor of the page before, unchanged")


Paging = Annotated[PageRequest, Depends(_page_request)]
