"""The chart of what is believed about a difference after the data. Plain functions, no I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from app.reports.drawing import WIDTH, Area, Scale, horizontal_axis, picture, polygon, polyline, stroke, write
from app.reports.markup import Child, Html, tag
from app.reports.numbers import Measure, chance
from app.stats.distributions import normal_density, two_sided_quantile

_HEIGHT = 210.0
_PLACES = 161
# Beyond so many standard deviations a posterior has nothing to show.
_REACH = 4.0
# Of the control's rate, over which the density of the difference is summed.
_INNER_PLACES, _INNER_REACH = 801, 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """What is believed about a rate."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        return self.alpha / (self.alpha + self.beta)

    @property
    def std(self) -> float:
        total = self.alpha + self.beta
        return math.sqrt(self.alpha * self.beta / (total * total * (total + 1)))


@dataclass(frozen=True, slots=True)
class Density:
    """Heights over places; the places rise."""

    places: Sequence[float]
    heights: Sequence[float]


def density_of_rates(control: Beta, treatment: Beta) -> Density | None:
    """Return the density of treatment minus control: the integral of f_c(c) f_t(c + d) over c, by midpoints."""
    mean, std = treatment.mean - control.mean, math.hypot(treatment.std, control.std)
    if not std > 0:
        return None
    places = np.linspace(max(-1.0, mean - _REACH * std), min(1.0, mean + _REACH * std), _PLACES)
    low = max(0.0, control.mean - _INNER_REACH * control.std)
    high = min(1.0, control.mean + _INNER_REACH * control.std)
    # Midpoints, because a density may have no finite value at 0 and 1.
    rates = low + (np.arange(_INNER_PLACES) + 0.5) * (high - low) / _INNER_PLACES
    products = np.exp(_log_density(rates, control)[None, :] + _log_density(rates[None, :] + places[:, None], treatment))
    heights = products.sum(axis=1) * (high - low) / _INNER_PLACES
    return Density(places.tolist(), heights.tolist()) if np.isfinite(heights).all() and heights.max() > 0 else None


def density_of_normal(lower: float, upper: float, credibility: float) -> Density | None:
    """Return the normal density that has this equal-tailed interval."""
    mean, std = (lower + upper) / 2, (upper - lower) / (2 * two_sided_quantile(credibility))
    if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
        return None
    steps = [_REACH * (2 * number / (_PLACES - 1) - 1) for number in range(_PLACES)]
    return Density([mean + step * std for step in steps], [normal_density(step) / std for step in steps])


def _log_density(
    rates: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", belief: Beta
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    inside = (rates > 0) & (rates < 1)
    safe = np.where(inside, rates, 0.5)
    logs = (
        special.xlogy(belief.alpha - 1, safe)
        + special.xlog1py(belief.beta - 1, -safe)
        - special.betaln(belief.alpha, belief.beta)
    )
    return np.where(inside, logs, -np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """A density with what is said about it."""

    title: str
    density: Density
    credible_lower: float
    credible_upper: float
    credibility_percent: float
    prob_better: float | None
    less_is_better: bool


def posterior_chart(name: str, found: Posterior, measure: Measure) -> Html:
    """Draw the density; the part on the better side of 0 is filled, the other hatched."""
    factor, places, heights = measure.factor, found.density.places, found.density.heights
    area = Area(24, 28, WIDTH - 24, _HEIGHT - 74)
    across = Scale(places[0] * factor, places[-1] * factor, area.left, area.right)
    up = Scale(0, max(heights) * 1.05, area.bottom, area.top)
    curve = [(across(place * factor), up(height)) for place, height in zip(places, heights, strict=True)]
    zero = across(0.0)
    # Both parts begin at 0 itself, which is hardly ever one of the places.
    border = (zero, up(float(np.interp(0.0, places, heights))))
    left = [*(point for point in curve if point[0] < zero), border]
    right = [border, *(point for point in curve if point[0] > zero)]
    good, bad = (left, right) if found.less_is_better else (right, left)
    parts: list[Child] = [_hatching(name), horizontal_axis(across, area, measure.axis("Difference"), sign=True)]
    parts.append(_filled(good, area.bottom, "good", None))
    parts.append(_filled(bad, area.bottom, "bad", f"url(#{name}-hatch)"))
    parts.append(polyline(curve, "curve"))
    if across.low < 0 < across.high:
        parts.append(stroke(zero, area.top - 6, zero, area.bottom, "zero"))
    lower, upper = across(found.credible_lower * factor), across(found.credible_upper * factor)
    parts.append(stroke(lower, area.bottom, upper, area.bottom, "thick"))
    parts.append(_legend(found, measure))
    return picture(name, _HEIGHT, found.title, _said(found, measure), parts)


def _filled(points: Sequence[tuple[float, float]], bottom: float, class_: str, fill: str | None) -> Html:
    if len(points) < 2:
        return Html()
    return polygon([(points[0][0], bottom), *points, (points[-1][0], bottom)], class_, fill)


def _hatching(name: str) -> Html:
    lines = tag("path", d="M-1 1l2 -2M0 6l6 -6M5 7l2 -2", class_="hatch")
    return tag("defs", tag("pattern", lines, id=f"{name}-hatch", width=6, height=6, patternUnits="userSpaceOnUse"))


def _legend(found: Posterior, measure: Measure) -> Child:
    interval = measure.differences(found.credible_lower, found.credible_upper)
    return [
        write(WIDTH / 2, 14, f"Filled: the variant is better, chance {chance(found.prob_better)}", anchor="middle"),
        write(
            WIDTH / 2,
            _HEIGHT - 14,
            f"Thick line: {found.credibility_percent:g} % credible interval, {interval}",
            anchor="middle",
        ),
    ]


def _said(found: Posterior, measure: Measure) -> str:
    return (
        f"The chance to be better is {chance(found.prob_better)}. With {found.credibility_percent:g} % probability the"
        f" difference lies in {measure.differences(found.credible_lower, found.credible_upper)}."
    )
