"""Intervals and p-values of an effect that stay valid however often one looks."""

import math
from dataclasses import dataclass, replace

from app.stats.checks import check_between, check_open_unit, check_positive
from app.stats.effects import Scale, effect_of
from app.stats.exact import all_finite
from app.stats.lift import fieller_limits, over_square_of
from app.stats.reasons import NullReason
from app.stats.samples import Sample

# Units at which a decision can be expected; with fewer or more, the reach at some look has no double.
_TUNING_SIZES = (1e-3, 1e18)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlwaysValidInterval:
    """An effect with the confidence sequence's interval and p-value at this look.

    `rho_squared` is the tuning parameter that makes the interval tightest at the tuning sample size. The
    interval is valid at every look at once; so is the smallest p-value over the looks. What is undefined is
    None, with the reason.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    rho_squared: float
    null_reason: NullReason | None = None


def always_valid_interval(
    control: Sample,
    treatment: Sample,
    *,
    alpha: float = 0.05,
    tuning_sample_size: float = 5000,
    scale: Scale = Scale.ABSOLUTE,
) -> AlwaysValidInterval:
    """Return the effect of the treatment with its asymptotic confidence sequence at level 1 - alpha.

    A lift's variance is here that of the delta method, which few conversions and heavy tails make too small; see
    always_valid_lift for one that holds.

    tuning_sample_size: total units of both arms at which a decision is expected.

    Raises:
        ValueError: alpha is outside (0, 1), or tuning_sample_size is outside [0.001, 1e18].

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences" (Ann. Statist. 52, 2024; arXiv 2103.06476v7): width eq. 9, p-value eq. 155, tuning eq. 161.
    """
    check_open_unit("alpha", alpha)
    rho_squared = _tuned(alpha, tuning_sample_size)
    effect = effect_of(control, treatment, scale)
    if effect.estimate is None or effect.variance is None:
        return _incomplete(effect.estimate, rho_squared, effect.null_reason)
    units = control.estimate().n + treatment.estimate().n
    half_width = always_valid_reach(units, alpha=alpha, tuning_sample_size=tuning_sample_size) * math.sqrt(
        effect.variance
    )
    lower, upper = effect.estimate - half_width, effect.estimate + half_width
    if not all_finite(lower, upper):
        return _incomplete(effect.estimate, rho_squared, NullReason.OUT_OF_RANGE)
    # `information` is N rho**2, in which N counts the units of both arms.
    information = units * rho_squared
    exponent = (
        0.5 * math.log1p(information) - information / (2.0 * (information + 1.0)) * effect.estimate**2 / effect.variance
    )
    return AlwaysValidInterval(
        estimate=effect.estimate,
        lower=lower,
        upper=upper,
        p_value=math.exp(min(0.0, exponent)),
        rho_squared=rho_squared,
    )


def always_valid_lift(
    control: Sample, treatment: Sample, *, alpha: float = 0.05, tuning_sample_size: float = 5000
) -> AlwaysValidInterval:
    """Return the lift of the treatment with the lifts that no look so far need have left out, and the difference's p.

    A lift L is left out where the confidence sequence of treatment - (1 + L) control leaves out 0. So no quotient is
    taken whose error would have to be small, and the interval agrees with that of the difference: where it is bounded,
    it leaves out 0 exactly if that one does. UNBOUNDED, with the p-value, where the control's own sequence has 0 in it.

    Raises:
        ValueError: alpha is outside (0, 1), or tuning_sample_size is outside [0.001, 1e18].

    Source: always_valid_interval, for each of the contrasts; Fieller, "Some problems in interval estimation" (JRSS B
    16, 1954), for the lifts whose contrast is not rejected.
    """
    of_difference = always_valid_interval(control, treatment, alpha=alpha, tuning_sample_size=tuning_sample_size)
    c, t = control.estimate(), treatment.estimate()
    effect = effect_of(c, t, Scale.RELATIVE)
    found = AlwaysValidInterval(
        estimate=effect.estimate,
        lower=None,
        upper=None,
        p_value=of_difference.p_value,
        rho_squared=of_difference.rho_squared,
        null_reason=effect.null_reason,
    )
    if effect.estimate is None or effect.variance is None:
        return found
    reach = always_valid_reach(c.n + t.n, alpha=alpha, tuning_sample_size=tuning_sample_size)
    limits = fieller_limits(effect.estimate, over_square_of(c, c), over_square_of(t, c), reach)
    if limits is None:
        return replace(found, null_reason=NullReason.UNBOUNDED)
    if not all_finite(*limits):
        return replace(found, null_reason=NullReason.OUT_OF_RANGE)
    return replace(found, lower=limits[0], upper=limits[1])


def always_valid_reach(units: int, *, alpha: float = 0.05, tuning_sample_size: float = 5000) -> float:
    """Return the half-width of the always-valid interval in standard errors of the effect, at so many units.

    Raises:
        ValueError: alpha is outside (0, 1), units is not positive, or tuning_sample_size is outside [0.001, 1e18].

    Source: see always_valid_interval, eq. 9.
    """
    check_open_unit("alpha", alpha)
    check_positive("units", units)
    information = units * _tuned(alpha, tuning_sample_size)
    log_odds = 0.5 * math.log1p(information)
    return math.sqrt(2.0 * (information + 1.0) / information * (log_odds - math.log(alpha)))


def _tuned(alpha: float, tuning_sample_size: float) -> float:
    check_between("tuning_sample_size", tuning_sample_size, *_TUNING_SIZES)
    return (-2.0 * math.log(alpha) + math.log(1.0 - 2.0 * math.log(alpha))) / tuning_sample_size


def _incomplete(estimate: float | None, rho_squared: float, reason: NullReason | None) -> AlwaysValidInterval:
    return AlwaysValidInterval(
        estimate=estimate,
        lower=None,
        upper=None,
        p_value=None,
        rho_squared=rho_squared,
        null_reason=reason,
    )
