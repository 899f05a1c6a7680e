"""What an event may be."""

import math
from datetime import timedelta
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.core.clock import utc_now
from app.core.rows import RowCode, valid_rows
from app.events.schemas import MAX_AHEAD, MAX_PROPERTIES_BYTES, EventIn

_texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)


def _event(**fields: object) -> EventIn:
    return EventIn.model_validate({"user_id": "u", "event_type": "x", **fields})


def _code(**fields: object) -> RowCode:
    (error,) = valid_rows(EventIn, [{"user_id": "u", "event_type": "x", **fields}])[1]
    return error.code


@given(_texts, _texts)
def test_event__any_text_within_its_length__is_taken_as_it_is(user_id: str, event_type: str) -> None:
    # A user may have a blank id; what somebody chooses from a list has to be seen.
    event = _event(user_id=user_id[:256], event_type=f"{event_type[:99]}x")
    assert (event.user_id, event.event_type) == (user_id[:256], f"{event_type[:99]}x")


@given(st.text(st.sampled_from(" \u00a0\u2003\u200b\u2028\u2800\u3164"), min_size=1, max_size=100))
def test_event_type__of_blanks_alone__is_refused_by_name(event_type: str) -> None:
    (error,) = valid_rows(EventIn, [{"user_id": "u", "event_type": event_type}])[1]
    assert (error.code, error.detail) == (
        RowCode.INVALID_FIELD,
        "event_type: must not be blank; give at least one visible character",
    )


@given(st.floats() | st.integers())
def test_value__any_number__is_taken_exactly_when_a_double_holds_it(number: float) -> None:
    try:
        fits = math.isfinite(float(number))
    except OverflowError:
        fits = False
    if fits:
        assert _event(value=number).value == float(number)
    else:
        assert _code(value=number) is RowCode.INVALID_FIELD


@given(st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))
def test_value__anything_else__is_refused(value: object) -> None:
    if value is None:
        assert _event(value=None).value is None
    else:
        assert _code(value=value) is RowCode.INVALID_FIELD


@given(st.uuids())
def test_event_id__any_uuid_as_text__is_that_uuid(event_id: UUID) -> None:
    assert _event(event_id=str(event_id)).event_id == event_id
    assert _event(event_id=str(event_id).upper()).event_id == event_id


@given(st.none() | st.integers() | st.text(max_size=40) | st.binary(min_size=16, max_size=16))
def test_event_id__anything_else__is_refused_or_a_uuid(value: object) -> None:
    try:
        event = _event(event_id=value)
    except ValidationError:
        return
    assert value is None or isinstance(value, str)
    assert event.event_id is None or isinstance(event.event_id, UUID)


def test_properties__at_their_size__are_taken_and_one_byte_more_is_too_large() -> None:
    room = MAX_PROPERTIES_BYTES - len('{"a":""}')
    assert _event(properties={"a": "x" * room}).properties is not None
    assert _code(properties={"a": "x" * (room + 1)}) is RowCode.TOO_LARGE
    assert _code(properties={"a": "é" * (room // 2 + 1)}) is RowCode.TOO_LARGE


def test_timestamp__ahead__is_forgiven_for_a_while_alone() -> None:
    assert _event(timestamp=(utc_now() + MAX_AHEAD - timedelta(seconds=5)).isoformat()).timestamp is not None
    assert _code(timestamp=(utc_now() + MAX_AHEAD + timedelta(seconds=5)).isoformat()) is RowCode.FUTURE_TIMESTAMP


@given(st.dictionaries(st.text(max_size=12), st.integers(), max_size=4))
def test_event__unknown_fields__are_refused(fields: dict[str, int]) -> None:
    unknown = {name: value for name, value in fields.items() if name not in EventIn.model_fields}
    if unknown:
        assert _code(**{"event_id": str(uuid4()), **unknown}) is RowCode.INVALID_FIELD
