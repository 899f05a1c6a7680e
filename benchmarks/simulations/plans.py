"""Planned experiments: does the planned size find the planned effect as often as promised?"""

from collections.abc import Iterator

import numpy as np

from app.stats.distributions import Alternative
from app.stats.means import welch_t_test
from app.stats.planning import Design
from app.stats.power_means import mde_means, sample_size_means
from app.stats.power_rates import mde_proportions, sample_size_proportions
from app.stats.proportions import two_proportion_test
from app.stats.samples import Proportion
from benchmarks.simulations.cells import Cell, Table, chain, counted, percent, rejects, stream
from benchmarks.simulations.populations import normal_sample
from benchmarks.simulations.sizes import Size

_TWO_SIDED = Design()
_UNEVEN = Design(ratio_treatment_to_control=0.25)
_UPWARD = Design(alternative=Alternative.GREATER, alpha=0.025)
_NAMES = {_TWO_SIDED: "two-sided, 5 %", _UNEVEN: "two-sided, 5 %, 4 : 1", _UPWARD: "upward, 2.5 %"}
# Baseline and effect.
_RATES = ((0.001, 0.0005), (0.05, 0.01), (0.05, -0.01), (0.3, 0.06), (0.5, 0.2))
# Standard deviation and difference.
_MEANS = ((1.0, 0.05), (1.0, 0.3), (1.0, 1.0))
_POWERS = (0.8, 0.95)
_DETECTABLE_FROM = 5_000
_SMALL_OR_UNEVEN = (
    "the formula takes both counts as normal; with few users or conversions in an arm, or arms of different size, "
    "they are skewed"
)
_T_OF_WELCH = (
    "few users in the smaller arm: the formula plans Student's test, with more degrees of freedom than Welch's"
)


def studies(size: Size, seed: int) -> Iterator[Table]:
    """Simulate experiments of the planned size, and experiments with the smallest detectable effect."""
    designs = tuple(_NAMES)
    yield Table(
        title="Planned power",
        says=(
            "How often the test found the planned effect with the planned users, in percent. Sizes are rounded up, "
            "so the promise is kept from a little above."
        ),
        columns=("metric", "design", "users"),
        cells=(
            *chain(
                _planned_rates(seed, size, *rate, design, power)
                for power in _POWERS
                for rate in _RATES
                for design in designs
                if rate[1] > 0 or design is not _UPWARD
            ),
            *chain(
                _planned_means(seed, size, *mean, design, power)
                for power in _POWERS
                for mean in _MEANS
                for design in designs
            ),
        ),
    )
    yield Table(
        title="Smallest detectable effect",
        says=f"How often the test found it, with {_DETECTABLE_FROM:,} users of the control.",
        columns=("metric", "design", "users"),
        cells=chain(_detected(seed, size, design) for design in designs),
    )


def _planned_rates(
    seed: int, size: Size, baseline: float, effect: float, design: Design, power: float
) -> Iterator[Cell]:
    users = sample_size_proportions(baseline=baseline, effect=effect, power=power, design=design).rounded_up()
    if users is None:
        raise ArithmeticError("an effect that is not zero has a sample size")
    yield _rates_cell(seed, size, baseline, effect, users, design, power)


def _rates_cell(
    seed: int, size: Size, baseline: float, effect: float, users: tuple[int, int], design: Design, power: float
) -> Cell:
    rng = stream(seed, "planned rates", baseline, effect, design, power)
    drawn = np.stack(
        [rng.binomial(n, p, size.replicates) for n, p in zip(users, (baseline, baseline + effect), strict=True)]
    )
    found = [
        rejects(
            two_proportion_test(
                Proportion(c, users[0]), Proportion(t, users[1]), alternative=design.alternative
            ).p_value,
            design.alpha,
        )
        for c, t in drawn.T.tolist()
    ]
    fewest = min(users[0] * baseline, users[1] * (baseline + effect))
    weak = fewest < 100 or users[0] != users[1]
    return counted(
        "found",
        (f"rate {percent(baseline, 2)} {effect * 100:+g} points", _NAMES[design], f"{users[0]:,} + {users[1]:,}"),
        found,
        promised=power,
        weakness=_SMALL_OR_UNEVEN if weak else None,
    )


def _planned_means(
    seed: int, size: Size, std: float, difference: float, design: Design, power: float
) -> Iterator[Cell]:
    users = sample_size_means(std=std, difference=difference, power=power, design=design).rounded_up()
    if users is None:
        raise ArithmeticError("a difference that is not zero has a sample size")
    yield _means_cell(seed, size, std, difference, users, design, power)


def _means_cell(
    seed: int, size: Size, std: float, difference: float, users: tuple[int, int], design: Design, power: float
) -> Cell:
    rng = stream(seed, "planned means", std, difference, design, power)
    found = []
    for _ in range(size.replicates):
        control, treatment = normal_sample(rng, users[0], 0.0, std), normal_sample(rng, users[1], difference, std)
        test = welch_t_test(control, treatment, alternative=design.alternative)
        found.append(rejects(test.p_value, design.alpha))
    return counted(
        "found",
        (f"mean {difference / std:+.3g} deviations", _NAMES[design], f"{users[0]:,} + {users[1]:,}"),
        found,
        promised=power,
        weakness=_T_OF_WELCH if min(users) < 50 else None,
    )


def _detected(seed: int, size: Size, design: Design) -> Iterator[Cell]:
    users = _DETECTABLE_FROM, round(_DETECTABLE_FROM * design.ratio_treatment_to_control)
    rate = mde_proportions(baseline=0.1, n_control=users[0], design=design).absolute
    mean = mde_means(std=1.0, n_control=users[0], design=design).absolute
    if rate is None or mean is None:
        raise ArithmeticError("these designs can detect an effect")
    yield _rates_cell(seed, size, 0.1, rate, users, design, 0.8)
    yield _means_cell(seed, size, 1.0, mean, users, design, 0.8)
