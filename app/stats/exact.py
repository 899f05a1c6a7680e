"""Exact arithmetic on the sums that arrive from the stores.

`sum_squares - sum**2 / n` loses every digit in doubles once the mean is large against the spread. Sums are
therefore taken over into fractions, which hold an int, a Decimal or a double without rounding, and are
rounded once, at the end.
"""

import math
from decimal import Decimal
from fractions import Fraction
from typing import TypeAlias

Number: TypeAlias = int | float | Decimal | Fraction

# A sum of squares beyond this has variances, and ratios of them, that no double can hold.
_LARGEST = 10**300
_SURELY_WITHIN = _LARGEST.bit_length() - 3
# Doubles hold every integer below this one.
_EXACT_INTEGERS = 2**53
# What rounding each term to a double can do to their difference, relative to the terms.
_ROUNDING = Fraction(2, 2**52)
# Sums accumulated in doubles over many rows may contradict each other this much, relatively; more is a wrong
# sum.
_ACCUMULATED = Fraction(1, 10**6)
# The squares of values below 1e-150 come out of doubles with few digits or none.
_UNDERFLOW = Fraction(1, 10**290)


def exact(name: str, value: Number) -> Fraction:
    """Return the fraction that equals the given number.

    Raises:
        ValueError: value is not finite, or its magnitude is above 1e300.
    """
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    fraction = value if isinstance(value, Fraction) else Fraction(value)
    # The number of digits tells almost always, and much quicker, that it is not.
    if (
        fraction.numerator.bit_length() - fraction.denominator.bit_length() > _SURELY_WITHIN
        and abs(fraction) > _LARGEST
    ):
        raise ValueError(f"{name} is beyond 1e300")
    return fraction


def is_rounded(value: Number) -> bool:
    """Say whether the number may be a rounded one: a double that is not a small integer."""
    return isinstance(value, float) and not (value.is_integer() and abs(value) < _EXACT_INTEGERS)


def without_noise(name: str, value: Fraction, *, magnitude: Fraction, rounded: bool) -> Fraction:
    """Return a sum of squares that was made by subtraction, rid of rounding noise: never negative.

    `magnitude` is the size of the terms subtracted. Where they were `rounded` to doubles, a difference below
    their rounding carries no information and counts as zero.

    Raises:
        ValueError: value is further below zero than accumulated rounding explains.
    """
    # Almost every value is above 0, which its numerator tells without arithmetic.
    if value.numerator < 0 and value < -(_ACCUMULATED * magnitude + (_UNDERFLOW if rounded else 0)):
        raise ValueError(f"no real numbers have these sums: {name}")
    if not rounded:
        return value if value.numerator > 0 else Fraction(0)
    return value if value > _ROUNDING * magnitude else Fraction(0)


def to_float(value: Fraction) -> float:
    """Return the nearest double, an infinity where it is beyond their range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def rounded_sum(first: Fraction, second: Fraction) -> float:
    """Return the double nearest to the sum, as `to_float` of it, without reducing the fraction first."""
    numerator = first.numerator * second.denominator + second.numerator * first.denominator
    try:
        return numerator / (first.denominator * second.denominator)
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def rounded_quotient(first: Fraction, second: Fraction) -> float:
    """Return the double nearest to the quotient, as `to_float` of it; the divisor is above 0."""
    numerator = first.numerator * second.denominator
    try:
        return numerator / (first.denominator * second.numerator)
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def all_finite(*values: float) -> bool:
    """Say whether every value may leave the engine."""
    return all(map(math.isfinite, values))
