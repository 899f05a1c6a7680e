"""Refusals of arguments outside their range, each named in the message."""

import math


def check_open_unit(name: str, value: float) -> None:
    """Refuse a level that is not strictly between 0 and 1.

    Raises:
        ValueError: value is outside (0, 1), or NaN.
    """
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value!r}")


def check_rate(name: str, value: float) -> None:
    """Refuse what cannot be a rate.

    Raises:
        ValueError: value is outside [0, 1], or NaN.
    """
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")


def check_between(name: str, value: float, lowest: float, highest: float) -> None:
    """Refuse what is outside a range, ends included.

    Raises:
        ValueError: value is outside [lowest, highest], or NaN.
    """
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must lie between {lowest!r} and {highest!r}, got {value!r}")


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a positive finite number.

    Raises:
        ValueError: value is zero, negative, infinite or NaN.
    """
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_finite(name: str, value: float) -> None:
    """Refuse infinities and NaN.

    Raises:
        ValueError: value is not finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
