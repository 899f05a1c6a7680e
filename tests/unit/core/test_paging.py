"""Pages and their cursors."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import Invalid
from app.core.paging import PageRequest, _page_request, cursor_of, page_of


@given(st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=300))
def test_cursor__of_any_position__leads_back_to_it(position: str) -> None:
    cursor = cursor_of(position)
    assert cursor.replace("-", "").replace("_", "").isalnum() or cursor == ""
    assert _page_request(limit=5, cursor=cursor) == PageRequest(5, position)


@given(st.text(max_size=30))
def test_cursor__anything_else__is_a_position_or_invalid(cursor: str) -> None:
    try:
        found = _page_request(limit=5, cursor=cursor)
    except Invalid:
        return
    assert found.after is not None
    assert "\x00" not in found.after


@given(st.integers(0, 10**18 - 1))
def test_after_id__of_an_id__is_that_id(number: int) -> None:
    assert PageRequest(1, str(number)).after_id() == number


@pytest.mark.parametrize("after", ["", "-1", "1.0", " 1", "1 ", "x", "9" * 19, "+1", "1e3", "0x1", "½", "²"])
def test_after_id__of_anything_else__is_invalid(after: str) -> None:
    with pytest.raises(Invalid):
        PageRequest(1, after).after_id()


@pytest.mark.parametrize("raw", [b"\x00", b"1\x00", b"\xff", b"\xed\xa0\x80"])
def test_cursor__of_bytes_that_are_no_text__is_invalid(raw: bytes) -> None:
    with pytest.raises(Invalid):
        _page_request(limit=5, cursor=base64.urlsafe_b64encode(raw).decode())


@given(st.integers(0, 60), st.integers(1, 20))
def test_pages__walked__show_each_row_once_in_order(number: int, limit: int) -> None:
    rows = list(range(number, 0, -1))
    seen: list[int] = []
    request = PageRequest(limit, None)
    while True:
        after = request.after_id()
        fetched = [row for row in rows if after is None or row < after][: limit + 1]
        page = page_of(fetched, request, lambda row: row)
        assert len(page.items) <= limit
        seen += page.items
        if page.next_cursor is None:
            break
        assert page.items
        request = _page_request(limit=limit, cursor=page.next_cursor)
    assert seen == rows
