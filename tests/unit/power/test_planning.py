"""Planning completes any two of sample size, power and effect."""

import math

import pytest

from app.power.planning import Kind, Plan, complete
from app.stats.planning import Design


def make_plan(**overrides: float | None) -> Plan:
    values: dict[str, float | None] = {
        "baseline": 0.2,
        "std": None,
        "n_control": None,
        "power": 0.8,
        "effect": 0.02,
        **overrides,
    }
    kind = Kind.PROPORTION if values["std"] is None else Kind.MEAN
    return Plan(
        kind=kind,
        baseline=values["baseline"],
        std=values["std"],
        n_control=values["n_control"],
        power=values["power"],
        effect=values["effect"],
        design=Design(),
    )


def test_complete__rates_without_size__agrees_with_the_reference_case() -> None:
    answer = complete(make_plan())
    assert (answer.n_control, answer.n_treatment) == (6510, 6510)
    assert answer.effect_relative == pytest.approx(0.1)


def test_complete__means_without_power__agrees_with_the_reference_case() -> None:
    answer = complete(make_plan(std=10.0, effect=1.0, n_control=1500, power=None))
    assert answer.power == pytest.approx(0.7816494283065847, rel=1e-6)


@pytest.mark.parametrize("std", [None, 3.0])
def test_complete__each_of_the_three_left_out__leads_back_to_the_same_plan(std: float | None) -> None:
    size = complete(make_plan(std=std))
    assert size.n_control is not None
    effect = complete(make_plan(std=std, n_control=size.n_control, effect=None)).effect
    power = complete(make_plan(std=std, n_control=size.n_control, power=None)).power
    assert effect is not None
    assert power is not None
    assert math.isclose(effect, 0.02, rel_tol=1e-3)
    assert math.isclose(power, 0.8, rel_tol=1e-3)
