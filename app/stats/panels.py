"""Gauss and Legendre's rule on panels of a line, and where the panels of an integral have to end."""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]

# On the logit scale no panel is wider: between far apart features of an integrand, rates themselves change e-fold per
# unit.
WIDEST_ON_LOGITS = 4.0
# On panels of which each is so many times as wide as the next, nearer to an end where the integrand goes as a power of
# the distance, ten nodes integrate it to nine digits.
_CROWDING = 4.0
_LEFT_OUT = 1e-12


def grid(cuts: Array, rule: tuple[Array, Array], *, widest: float = math.inf) -> tuple[Array, Array]:
    """Return nodes and weights of a rule for [-1, 1], (nodes, weights), on every panel between neighbouring cuts.

    Source: Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 25.4.30.
    """
    ends = np.unique(np.append(cuts, np.arange(np.min(cuts), np.max(cuts), widest)))
    nodes, weights = rule
    half = np.diff(ends)[:, None] / 2.0
    return (ends[:-1, None] + half * (1.0 + nodes)).ravel(), (half * weights).ravel()


def crowded(end: float, other_end: float, power: float) -> Array:
    """Return cuts from other_end towards end, where the integrand goes as the distance to the given power, above 0.

    Both are logits.

    Source: Davis, Rabinowitz, "Methods of Numerical Integration" (2nd ed., 1984), section 2.12, on grading towards a
    singularity of the integrand.
    """
    reach = min(abs(other_end - end), WIDEST_ON_LOGITS)
    # What lies nearer than the last of the cuts is such a power of their ratio.
    count = math.ceil(-math.log(_LEFT_OUT, _CROWDING) / (1.0 + power))
    distances = reach * _CROWDING ** -np.arange(count + 1.0)
    return np.append(end, end + np.copysign(distances, other_end - end))
