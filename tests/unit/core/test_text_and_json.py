"""Which text and JSON is let in."""

import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import MalformedBody
from app.core.json_body import decode_json
from app.core.text import (
    MAX_JSON_DEPTH,
    encoded_if_storable,
    is_storable,
    refuse_blank,
    refuse_control_characters,
    refuse_control_characters_but_line_breaks,
)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)
json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=15,
)


def test_text__every_character__is_refused_exactly_when_it_is_a_control_or_a_lone_surrogate() -> None:
    for code in range(0x110000):
        character = chr(code)
        assert is_storable(character) == (unicodedata.category(character) not in {"Cc", "Cs"}), hex(code)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs"))))
def test_text__of_good_characters__passes_unchanged(text: str) -> None:
    assert refuse_control_characters(text) == refuse_control_characters_but_line_breaks(text) == text


@pytest.mark.parametrize("bad", ["\x00", "\x1f", "\x7f", "\x85", "\ud800", "\udfff"])  # noqa: PT014  # Two surrogates.
def test_text__with_a_bad_character__names_it_and_its_place(bad: str) -> None:
    for check in (refuse_control_characters, refuse_control_characters_but_line_breaks):
        with pytest.raises(ValueError, match=rf"U\+{ord(bad):04X} at position 2"):
            check(f"ab{bad}")


@pytest.mark.parametrize(
    "blank",
    [
        " ",
        "\t\n",
        "\u00a0\u3000",
        "\u200b\u200d",
        "\u2800",
        "\u3164",
        "\ufeff",
        "\u2028",
        "\ufe0f",
        "\u2065\ufff0",
        "\U000e0000\U000e0100",
    ],
)
def test_text__that_nobody_sees__is_blank(blank: str) -> None:
    with pytest.raises(ValueError, match="must not be blank; give at least one visible character"):
        refuse_blank(blank)


# The last two: an emoji of Unicode 15, which an interpreter may not know yet, and a glyph of a font's own.
@pytest.mark.parametrize(
    "text", ["a", " a ", "é", "\u0301a", "👨\u200d👩", "-", "한", "\u200fא", "❤\ufe0f", "\U0001fae8", "\ue000"]
)
def test_text__with_one_visible_character__is_not_blank(text: str) -> None:
    assert refuse_blank(text) == text


@pytest.mark.parametrize("space", ["\t", "\n", "\r"])
def test_text__line_breaks__are_for_descriptions_alone(space: str) -> None:
    assert refuse_control_characters_but_line_breaks(f"a{space}b") == f"a{space}b"
    with pytest.raises(ValueError, match="control characters"):
        refuse_control_characters(f"a{space}b")


@pytest.mark.parametrize("value", ["\x00", math.nan, math.inf, -math.inf, "\ud800"])
def test_json__bad_leaf_anywhere__is_refused(value: object) -> None:
    for outer in (value, [value], {"a": [1, {"b": value}]}):
        with pytest.raises(ValueError, match=r"control characters|finite"):
            encoded_if_storable(outer)
    if isinstance(value, str):
        with pytest.raises(ValueError, match="control characters"):
            encoded_if_storable({value: 1})


def test_json__nested_beyond_its_depth__is_refused_without_recursion() -> None:
    value: object = 1
    for _ in range(MAX_JSON_DEPTH):
        value = [value]
    encoded_if_storable(value)
    with pytest.raises(ValueError, match="nested"):
        encoded_if_storable([value])
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested"):
        encoded_if_storable(value)
    while isinstance(value, list):  # Taken apart here: the interpreter would recurse to free it.
        value = value[0]


@given(json_values)
def test_decode__whatever_python_encodes__comes_back(value: Any) -> None:
    for ensure_ascii in (True, False):
        body = json.dumps(value, ensure_ascii=ensure_ascii).encode("utf-8", "surrogatepass")
        assert decode_json(body) == value


@given(st.binary(max_size=40))
def test_decode__any_bytes__are_json_or_a_malformed_body(body: bytes) -> None:
    try:
        expected = json.loads(body.decode(), parse_constant=pytest.fail)
    except (ValueError, pytest.fail.Exception):
        with pytest.raises(MalformedBody):
            decode_json(body)
        return
    assert decode_json(body) == expected


@pytest.mark.parametrize(
    "body", [b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"\xff", b"", b"[1,]", b"'a'", b"\xef\xbb\xbf1"]
)
def test_decode__not_json__is_a_malformed_body(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode_json(body)


def test_decode__nested_too_deeply__is_a_malformed_body() -> None:
    with pytest.raises(MalformedBody, match="deep"):
        decode_json(b"[" * 1_000_000)


def test_decode__lone_surrogates_and_overflowing_numbers__are_left_to_the_rows_that_hold_them() -> None:
    assert decode_json(b'["\\ud800", 1e999, -1e999]') == ["\ud800", math.inf, -math.inf]


@pytest.mark.parametrize("digits", [20, 400, 4000, 5000, 100_000])
def test_decode__long_numbers__are_numbers(digits: int) -> None:
    decoded = decode_json(b'[{"value": ' + b"1" * digits + b'}, {"value": 1}]')
    assert decoded[1] == {"value": 1}
    assert isinstance(decoded[0]["value"], int | float)
