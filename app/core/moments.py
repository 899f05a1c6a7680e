"""Timestamps from outside: ISO 8601 with an offset, in the range that both stores can hold."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

# ClickHouse's DateTime64 holds these years; an event's time may lie anywhere in them.
FIRST_YEAR, LAST_YEAR = 1900, 2299
_ISO = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _iso_text(value: object) -> object:
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or _ISO.match(value) is None:
        raise ValueError("must be ISO 8601 text with an offset, as in 2026-01-31T12:00:00Z")
    return value


def _in_range(moment: datetime) -> datetime:
    if not FIRST_YEAR < moment.year < LAST_YEAR:  # The outer years would leave the range in another zone.
        raise ValueError(f"must lie after the year {FIRST_YEAR} and before {LAST_YEAR}")
    return moment.astimezone(UTC)


# In UTC from here on.
Moment = Annotated[AwareDatetime, BeforeValidator(_iso_text), AfterValidator(_in_range)]
