"""Beta distributions on the logit scale, where rates near 0 and near 1 are alike exact: areas, densities, quantiles."""

import math

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
# From this precision of the logit on, the series about the normal is right to nine digits. The library's function gets
# slow there, and far beyond is wrong: for two parameters of 5e11 in the fifth digit, for two of 5e14 in the second.
_NORMAL_FROM = 1e5
# One minus a share up to this one keeps ten digits.
_NEARLY_ALL = 1.0 - 1e-6
# From here on the Stirling series below is good to the last digit.
_STIRLING_FROM = 16.0
# Further from the mean than this on the logit scale, exponentials overflow; nothing of a posterior is left there.
_FARTHEST_SHIFT = 700.0
_LEAST = float(np.nextafter(-1.0, 0.0))


def below(a: float, b: float, logits: _Array) -> _Array:
    """P(X < rate) of X ~ Beta(a, b), at the rates of these logits, which may be infinite.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.5.1 and 26.5.2; for many units see
    _nearly_normal.
    """
    if _precision(a, b) >= _NORMAL_FROM:
        return _nearly_normal(a, b, logits)
    # Each end of [0, 1] is reached from its own side, where a double still has all its digits.
    is_small = logits <= 0.0
    if is_small.all():
        return np.asarray(special.betainc(a, b, special.expit(logits)))
    nearer = special.betainc(np.where(is_small, a, b), np.where(is_small, b, a), special.expit(-np.abs(logits)))
    areas = np.where(is_small, nearer, 1.0 - nearer)
    # The library's complement takes four times as long, and is needed where nearly nothing is left.
    lost = ~is_small & (nearer > _NEARLY_ALL)
    if np.any(lost):
        areas[lost] = special.betaincc(b, a, special.expit(-logits[lost]))
    return areas


def logit_density(a: float, b: float, logits: _Array) -> _Array:
    """Return the density of the logit of X ~ Beta(a, b), at these logits.

    Source: the Beta density times the derivative of the rate, with Stirling's series for its constant (see
    _stirling_rest).
    """
    total = a + b
    height = 0.5 * math.log(_precision(a, b) / (2.0 * math.pi))
    height += _stirling_rest(total) - _stirling_rest(a) - _stirling_rest(b)
    return np.asarray(np.exp(height + _exponent(a, b, logits)))


def lower_logits(a: float, b: float, tails: _Array) -> _Array:
    """Return the logits of the rates below which X ~ Beta(a, b) is with these probabilities.

    The library's inverse, or the series about the normal, is used where it agrees with the function that it inverts;
    elsewhere that function itself is inverted, by halving. Rates below 1e-300 count as that one.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.5.1.
    """
    logits = _inverse_nearly_normal(a, b, tails) if _precision(a, b) >= _NORMAL_FROM else _inverse(a, b, tails)
    found = below(a, b, logits)
    unsure = ~(np.abs(found - tails) <= _TRUSTED * tails)
    if np.any(unsure):
        logits[unsure] = _halved(a, b, tails[unsure])
    return logits


def _inverse(a: float, b: float, tails: _Array) -> _Array:
    rates, rests = special.betaincinv(a, b, tails), special.betainccinv(b, a, tails)
    logits = np.where(
        rates <= 0.5,
        special.logit(np.clip(rates, SMALLEST_RATE, 0.5)),
        -special.logit(np.clip(rests, SMALLEST_RATE, 0.5)),
    )
    return np.asarray(logits)


def _halved(a: float, b: float, tails: _Array) -> _Array:
    low, high = np.full(tails.shape, -_FARTHEST), np.full(tails.shape, _FARTHEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        is_short = below(a, b, middle) < tails
        low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
    return np.asarray((low + high) / 2.0)


def _precision(a: float, b: float) -> float:
    """Return what the variance of the logit is one over, nearly, for many units."""
    return a / (a + b) * b


def _exponent(a: float, b: float, logits: _Array) -> _Array:
    """Return the logarithm of the logit's density, over the density at the logit of the mean: 0 there, else below 0.

    It is a log(x/p) + b log((1-x)/(1-p)) with p the mean. Each logarithm is taken of the ratio itself: near the mean
    both are small, and however unlike a and b are, nothing large cancels.
    """
    total = a + b
    shift = np.minimum(np.maximum(logits - math.log(a / b), -_FARTHEST_SHIFT), _FARTHEST_SHIFT)
    down, up = b / total * np.expm1(-shift), a / total * np.expm1(shift)
    # Where rounding leaves 0 of a ratio, the other one is so large that no density is left.
    exponent = -a * np.log1p(np.maximum(down, _LEAST)) - b * np.log1p(np.maximum(up, _LEAST))
    return np.asarray(np.minimum(exponent, 0.0))


def _nearly_normal(a: float, b: float, logits: _Array) -> _Array:
    """P(X < rate), by the signed root of the density's exponent, which is almost a standard normal variable.

    Source: Temme, "The uniform asymptotic expansion of a class of integrals related to cumulative distribution
    functions" (SIAM J. Math. Anal. 13, 1982), with the first two terms about the mean.
    """
    root = np.copysign(np.sqrt(-2.0 * _exponent(a, b, logits)), logits - math.log(a / b))
    skew, tilt = _expansion(a, b)
    normal = np.exp(-0.5 * root * root) / math.sqrt(2.0 * math.pi)
    return np.clip(special.ndtr(root) + normal * (skew - tilt * root), 0.0, 1.0)


def _expansion(a: float, b: float) -> tuple[float, float]:
    """Return s and t of du/dr = 1 - s r + t r**2 + ..., where u is the logit in units of its deviation and r the root.

    Source: the cumulants of a Bernoulli variable, k2 = p(1-p), k3 = k2 (1-2p), k4 = k2 (1-6 k2), are the derivatives of
    the exponent, and the series r(u) that they make is reversed.
    """
    total, precision = a + b, _precision(a, b)
    third = (b - a) / total / math.sqrt(precision)
    fourth = (1.0 - 6.0 * (a / total) * (b / total)) / precision
    first, second = third / 6.0, fourth / 24.0 - third * third / 72.0
    return 2.0 * first, 3.0 * (2.0 * first * first - second)


def _inverse_nearly_normal(a: float, b: float, tails: _Array) -> _Array:
    """Return the logits with these areas below them in _nearly_normal."""
    skew, tilt = _expansion(a, b)
    scores = special.ndtri(tails)
    shifted = skew - tilt * scores
    root = scores - shifted - 0.5 * scores * shifted * shifted - tilt * shifted
    # The series above, integrated.
    in_deviations = root * (1.0 - root * (skew / 2.0 - root * tilt / 3.0))
    logits = math.log(a / b) + in_deviations / math.sqrt(_precision(a, b))
    # What the series leaves, a step of Newton's takes.
    return np.asarray(logits - (_nearly_normal(a, b, logits) - tails) / logit_density(a, b, logits))


def _stirling_rest(x: float) -> float:
    """Return log Gamma(x) - (x - 1/2) log x + x - log(2 pi)/2.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 6.1.41.
    """
    if x < _STIRLING_FROM:
        return float(special.gammaln(x)) - (x - 0.5) * math.log(x) + x - 0.5 * math.log(2.0 * math.pi)
    square = x * x
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / x
