"""Where a Beta distribution has a given tail, on the logit scale, where rates near 0 and near 1 are alike exact."""

import numpy as np
import numpy.typing as npt
from scipy import special

_Array = npt.NDArray[np.float64]

# Below this rate, and so close to 1, lies less than 1e-15 of any posterior.
SMALLEST_RATE = 1e-300
_FARTHEST = float(-special.logit(SMALLEST_RATE))
# scipy's inverse is right to the last digits almost everywhere, and far off for some parameters, such as exactly 1000.
# An error of this share of the tail moves a quantile by less than a ten-millionth of a standard deviation.
_TRUSTED = 1e-7
# Halving so often leaves nothing of the interval but rounding.
_HALVINGS = 64


def below(a: float, b: float, logits: _Array) -> _Array:
    """P(X < rate) of X ~ Beta(a, b), at the rates of these logits.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.5.1 and 26.5.2.
    """
    small, large = special.expit(logits), special.expit(-logits)
    # Each end of [0, 1] is reached from its own side, where a double still has all its digits.
    return np.where(logits <= 0.0, special.betainc(a, b, small), special.betaincc(b, a, large))


def lower_logits(a: float, b: float, tails: _Array) -> _Array:
    """Return the logits of the rates below which X ~ Beta(a, b) is with these probabilities.

    The library's inverse is used where it agrees with the function that it inverts; elsewhere that function itself is
    inverted, by halving. Rates below 1e-300 count as that one.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.5.1.
    """
    rates, rests = special.betaincinv(a, b, tails), special.betainccinv(b, a, tails)
    logits = np.where(
        rates <= 0.5,
        special.logit(np.clip(rates, SMALLEST_RATE, 0.5)),
        -special.logit(np.clip(rests, SMALLEST_RATE, 0.5)),
    )
    found = below(a, b, logits)
    unsure = ~(np.abs(found - tails) <= _TRUSTED * tails)
    if np.any(unsure):
        logits[unsure] = _halved(a, b, tails[unsure])
    return logits


def _halved(a: float, b: float, tails: _Array) -> _Array:
    low, high = np.full(tails.shape, -_FARTHEST), np.full(tails.shape, _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        is_short = below(a, b, middle) < tails
        low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
    return np.asarray((low + high) / 2.0)
