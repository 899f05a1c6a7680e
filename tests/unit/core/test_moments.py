"""Timestamps from outside."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.core.moments import Moment

_adapter = TypeAdapter[datetime](Moment)
_offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    st.datetimes(datetime(1901, 1, 2), datetime(2298, 12, 30), timezones=_offsets)  # noqa: DTZ001  # `timezones` adds it.
)
def test_moment__iso_with_any_offset__is_the_same_moment_in_utc(moment: datetime) -> None:
    parsed = _adapter.validate_python(moment.isoformat())
    assert parsed == moment
    assert parsed.tzinfo is UTC


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.lists(st.integers(), max_size=3)
)
def test_moment__anything_else__is_refused_or_has_an_offset(value: object) -> None:
    try:
        parsed = _adapter.validate_python(value)
    except ValidationError:
        return
    assert isinstance(value, str)
    assert parsed.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        *("1900-12-31T23:59:59Z", "2299-01-01T00:00:00Z", "1901-01-01T00:00:00", "2026-01-01", "2026-01-01T00:00"),
        *(
            "1e9",
            "1767225600",
            "2026-W01-1T00:00:00Z",
            "2026-001T00:00:00Z",
            "20260101T000000Z",
            " 2026-01-01T00:00:00Z",
        ),
    ],
)
def test_moment__out_of_range_or_in_another_form__is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        _adapter.validate_python(text)
