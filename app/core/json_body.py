"""Decoding request bodies: strict JSON, fast where it can be."""

import json
from typing import Any, NoReturn

import msgspec

from app.core.errors import MalformedBody

_MOST_DIGITS = 400  # The largest double has 309.
_decode = msgspec.json.Decoder().decode


def decode_json(body: bytes) -> Any:  # noqa: ANN401  # A JSON value has no narrower type.
    """Decode a body.

    A number too large for a float becomes infinity, and a lone surrogate stays in its string, so that the
    row that holds it can be refused by name without losing the good rows beside it.

    Raises:
        MalformedBody: not JSON (NaN and Infinity are not JSON either), or not UTF-8.
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(body)


def _decode_leniently(body: bytes) -> Any:  # noqa: ANN401
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_int=_parse_int)
    except RecursionError as error:
        raise MalformedBody("The body is nested too deeply.") from error
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not UTF-8: byte {error.start} cannot be decoded.") from error
    except ValueError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}.") from error


def _parse_int(digits: str) -> int | float:
    """Parse an integer; one beyond any double becomes infinity (Python itself refuses thousands of digits)."""
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
