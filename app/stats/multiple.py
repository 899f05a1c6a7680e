"""p-values of several tests read together."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.stats.checks import check_open_unit

# A product or quotient that equals alpha on paper may miss it by rounding; the rules reject at equality.
_ROUNDING = 1e-12


class Correction(StrEnum):
    """What is kept below alpha: the chance of any false rejection (Holm), or their expected share (B-H)."""

    HOLM = "holm"
    BENJAMINI_HOCHBERG = "benjamini_hochberg"


@dataclass(frozen=True, slots=True)
class AdjustedTests:
    """Adjusted p-values and decisions, (m,), in input order; None and False where a test was undefined."""

    adjusted: tuple[float | None, ...]
    rejected: tuple[bool, ...]


def adjust_p_values(
    p_values: Sequence[float | None], *, method: Correction = Correction.HOLM, alpha: float = 0.05
) -> AdjustedTests:
    """Adjust the p-values, (m,), of tests read together; an undefined test is None and does not count.

    Raises:
        ValueError: a p-value is outside [0, 1], or alpha is outside (0, 1).

    Source: Holm, "A simple sequentially rejective multiple test procedure" (Scand. J. Statist. 6, 1979);
    Benjamini, Hochberg, "Controlling the false discovery rate" (JRSS B 57, 1995).
    """
    check_open_unit("alpha", alpha)
    ranked = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    if any(not 0.0 <= p <= 1.0 for p, _ in ranked):
        raise ValueError("p-values lie in [0, 1]")
    match method:
        case Correction.HOLM:
            in_order = _holm([p for p, _ in ranked])
        case Correction.BENJAMINI_HOCHBERG:
            in_order = _benjamini_hochberg([p for p, _ in ranked])
    adjusted: list[float | None] = [None] * len(p_values)
    for (_, position), value in zip(ranked, in_order, strict=True):
        adjusted[position] = value
    limit = alpha * (1.0 + _ROUNDING)
    return AdjustedTests(tuple(adjusted), tuple(p is not None and p <= limit for p in adjusted))


def _holm(ascending: list[float]) -> list[float]:
    adjusted, largest = [], 0.0
    for rank, p in enumerate(ascending):
        largest = max(largest, min(1.0, p * (len(ascending) - rank)))
        adjusted.append(largest)
    return adjusted


def _benjamini_hochberg(ascending: list[float]) -> list[float]:
    adjusted, smallest, count = [], 1.0, len(ascending)
    for rank in range(count, 0, -1):
        smallest = min(smallest, ascending[rank - 1] * (count / rank))
        adjusted.append(smallest)
    return adjusted[::-1]
