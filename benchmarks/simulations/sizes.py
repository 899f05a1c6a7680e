"""How much is simulated: everything for the document, a short form for every change."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The grid of a run, and its replicates per setting.

    `draws` bounds the random values of one setting of means, whose replicates are cut down to it; `costly`
    are the replicates of methods that integrate, `outcomes` the conversions up to which each count is integrated
    once, `stopped` the replicates of experiments of many looks, at these `alphas`.
    """

    units: tuple[int, ...]
    rates: tuple[float, ...]
    replicates: int
    costly: int
    outcomes: int
    stopped: int
    draws: int
    correlations: tuple[float, ...]
    alphas: tuple[float, ...]


FULL = Size(
    units=(50, 200, 1_000, 10_000, 100_000),
    rates=(0.001, 0.01, 0.05, 0.2, 0.5),
    replicates=4_000,
    costly=1_000,
    outcomes=50,
    stopped=2_000,
    draws=200_000_000,
    correlations=(0.0, 0.3, 0.5, 0.7, 0.9),
    alphas=(0.01, 0.05, 0.1),
)
SHORT = Size(
    units=(50, 1_000),
    rates=(0.01, 0.2),
    replicates=300,
    costly=16,
    outcomes=2,
    stopped=40,
    draws=4_000_000,
    correlations=(0.0, 0.9),
    alphas=(0.05,),
)
