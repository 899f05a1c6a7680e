"""Which text the platform stores: any Unicode scalar values but control characters, and names that can be seen."""

import math
import re
import unicodedata
from collections.abc import Iterator

import msgspec

# Category Cc is exactly U+0000-U+001F and U+007F-U+009F; lone surrogates are not text at all.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_JSON_DEPTH = 64
# What encoded JSON may show of a control character, or of infinity, which is encoded as null. Harmless text may
# look like it, too, so that a find is only a reason to look at every leaf.
_SUSPICIOUS = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\\[bfu]|null")
# Nobody sees these either, whatever their categories: what Unicode's property Default_Ignorable_Code_Point holds beside
# format characters, and the Braille cell without dots.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
# Not Co and Cn: a font may draw what is private, and an emoji may be newer than the interpreter's Unicode.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
_UNSTORABLE_IN_FREE_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Tell whether `text` holds neither control characters nor lone surrogates."""
    return _UNSTORABLE.search(text) is None


def refuse_control_characters(text: str) -> str:
    """Return `text`, for identifiers and names.

    Raises:
        ValueError: it holds a control character or a lone surrogate.
    """
    if (found := _UNSTORABLE.search(text)) is not None:
        raise ValueError(_refusal(found))
    return text


def refuse_control_characters_but_line_breaks(text: str) -> str:
    """Return `text`, for descriptions, where tabs and line breaks are welcome.

    Raises:
        ValueError: it holds another control character or a lone surrogate.
    """
    if (found := _UNSTORABLE_IN_FREE_TEXT.search(text)) is not None:
        raise ValueError(_refusal(found))
    return text


def refuse_blank(text: str) -> str:
    """Return `text`, for what somebody has to see.

    Raises:
        ValueError: it holds blanks and invisible characters alone.
    """
    if all(map(_is_invisible, text)):
        raise ValueError("must not be blank; give at least one visible character")
    return text


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES or _BLANK.match(character) is not None


def encoded_if_storable(value: object) -> bytes:
    """Check every string, key and number in a JSON value, and return it encoded.

    Raises:
        ValueError: a string holds a NUL or another control character (tabs and line breaks may stand), a number
            is not finite, or the value is nested too deeply.
    """
    try:
        encoded = msgspec.json.encode(value)
    except (UnicodeEncodeError, RecursionError):
        encoded = b""
    if not encoded or _SUSPICIOUS.search(encoded) is not None or _brackets(encoded) > MAX_JSON_DEPTH:
        _refuse_unstorable_leaves(value)
    return encoded


def _brackets(encoded: bytes) -> int:
    return encoded.count(b"{") + encoded.count(b"[")


def _refuse_unstorable_leaves(value: object) -> None:
    for item in _leaves(value):
        if isinstance(item, str):
            refuse_control_characters_but_line_breaks(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("numbers must be finite; NaN and infinity are not allowed")


def _leaves(value: object) -> Iterator[object]:
    pending = [(value, 0)]
    while pending:  # Not recursive: a deeply nested value must not exhaust the stack.
        item, depth = pending.pop()
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"must not be nested more than {MAX_JSON_DEPTH} levels deep")
        if isinstance(item, dict):
            pending.extend((inner, depth + 1) for pair in item.items() for inner in pair)
        elif isinstance(item, list):
            pending.extend((inner, depth + 1) for inner in item)
        else:
            yield item


def _refusal(found: re.Match[str]) -> str:
    code = f"U+{ord(found.group()):04X}"
    return f"must not contain control characters or lone surrogates; found {code} at position {found.start()}"
