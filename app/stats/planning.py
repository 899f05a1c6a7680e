"""Plans of a test of two arms: its design, and what a search for a size or an effect gives."""

import math
from dataclasses import dataclass

from app.stats.checks import check_between, check_open_unit
from app.stats.distributions import Alternative, normal_isf, normal_sf
from app.stats.reasons import NullReason

# Closer to 1, the rounding of the tail areas decides what is found.
_HIGHEST_POWER = 1.0 - 1e-9
# Arms more unlike than these have variances that no double holds.
_RATIOS = (1e-100, 1e100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Level and direction of the planned test, and the treatment's units per unit of control.

    Raises:
        ValueError: alpha is outside (0, 1), or the ratio outside [1e-100, 1e100].
    """

    alpha: float = 0.05
    alternative: Alternative = Alternative.TWO_SIDED
    ratio_treatment_to_control: float = 1.0

    def __post_init__(self) -> None:
        check_open_unit("alpha", self.alpha)
        check_between("ratio_treatment_to_control", self.ratio_treatment_to_control, *_RATIOS)

    @property
    def tail(self) -> float:
        """Return the level of each tail in which the test rejects."""
        # Half of the smallest double is 0, a level at which nothing can be found.
        return max(self.alpha / 2.0, math.ulp(0.0)) if self.alternative is Alternative.TWO_SIDED else self.alpha


DEFAULT_DESIGN = Design()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Units needed per arm, not rounded; None, with the reason, where no size is enough."""

    n_control: float | None
    n_treatment: float | None
    null_reason: NullReason | None = None

    def rounded_up(self) -> tuple[int, int] | None:
        """Return whole units for control and treatment, None where no size is enough."""
        if self.n_control is None or self.n_treatment is None:
            return None
        return math.ceil(self.n_control), math.ceil(self.n_treatment)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectableEffect:
    """The smallest effect with the asked power: upward, but downward (negative) for LESS.

    `relative` is the effect over the baseline, None without a baseline above 0.
    """

    absolute: float | None
    relative: float | None
    null_reason: NullReason | None = None


def check_power(power: float, design: Design) -> None:
    """Refuse a power that no search can start from.

    Raises:
        ValueError: power is not above alpha, which no effect at all has, or not below 1 - 1e-9.
    """
    if not design.alpha < power < _HIGHEST_POWER:
        raise ValueError(f"power must lie between alpha and 1, got {power!r}")


def rejection_chance(upper: float, lower: float, design: Design) -> float:
    """Return the power from the chances of ending beyond the upper and beyond the lower critical value.

    Source: the definition of power; the two ends exclude each other.
    """
    match design.alternative:
        case Alternative.TWO_SIDED:
            return min(1.0, upper + lower)
        case Alternative.GREATER:
            return upper
        case Alternative.LESS:
            return lower


def normal_power(effect: float, error_null: float, error: float, design: Design) -> float:
    """Return the power of a z test whose estimate has the given standard errors, under null and truth.

    Source: Fleiss, Levin, Paik, "Statistical Methods for Rates and Proportions" (3rd ed., 2003), chapter 4.
    """
    reach = normal_isf(design.tail) * error_null

    def beyond(distance: float) -> float:
        if error == 0.0:
            return 1.0 if distance < 0.0 else 0.0
        return normal_sf(distance / error)

    return rejection_chance(beyond(reach - effect), beyond(reach + effect), design)


def sizes(n_control: float, design: Design) -> SampleSize:
    """Return both arms' sizes from the control's."""
    return SampleSize(n_control=n_control, n_treatment=n_control * design.ratio_treatment_to_control)


def detectable(absolute: float, baseline: float | None) -> DetectableEffect:
    """Return the effect, with its share of the baseline where there is one."""
    relative = absolute / baseline if baseline is not None and baseline > 0.0 else math.inf
    return DetectableEffect(absolute=absolute, relative=relative if math.isfinite(relative) else None)
