"""How a caller wants the observations read. What is observed does not depend on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants to compare, by their keys: `variant` against `control`."""

    variant: str
    control: str

    def __str__(self) -> str:
        return f"{self.variant}:{self.control}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Priors, pairs and plans from outside. A sealed plan's own sample size goes before `planned_sample`."""

    # Pairs to compare besides every treatment against the control.
    compare: tuple[Pair, ...] = ()
    # Beta prior of every rate; 1 and 1 are flat.
    prior_alpha: float = 1.0
    prior_beta: float = 1.0
    # Normal prior of every other metric's lift; no standard deviation: flat.
    prior_lift_mean: float = 0.0
    prior_lift_std: float | None = None
    # Users of all variants together, and the relative effect that is to be detectable.
    planned_sample: int | None = None
    target_mde: float | None = None


PLAIN = Reading()
