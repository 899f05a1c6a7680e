"""Where a function of one variable crosses zero."""

from collections.abc import Callable

from scipy import optimize


def crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a monotone function crosses zero between low and high.

    Where its sign is the same at both ends, the end whose value is nearer to zero: low if the function leads
    away from zero, high if it leads towards it.

    Source: Brent, "Algorithms for Minimization without Derivatives" (1973), chapter 4.
    """
    at_low, at_high = function(low), function(high)
    if at_low == 0.0 or low >= high:
        return low
    if at_high == 0.0 or (at_low > 0.0) == (at_high > 0.0):
        return high if abs(at_high) < abs(at_low) else low
    # Roots are asked for with relative precision, however near to zero; that may take many bisections.
    return float(optimize.brentq(function, low, high, xtol=1e-300, rtol=1e-13, maxiter=5000))
