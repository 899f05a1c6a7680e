"""Planning every kind of metric, and what a request for it has to say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from statsmodels.stats.power import NormalIndPower

from app.core.errors import Invalid
from app.power.planning import Answer, Kind, complete
from app.power.schemas import PowerIn, PowerOut


def _complete(**fields: Any) -> Answer:
    return complete(PowerIn(**fields).plan())


_RATIO: dict[str, Any] = {
    "kind": "ratio",
    "baseline": 0.25,
    "numerator_std": 3.0,
    "denominator_mean": 8.0,
    "denominator_std": 9.0,
    "correlation": 0.7,
}
_QUANTILE: dict[str, Any] = {"kind": "quantile", "baseline": 120.0, "quantile": 0.95, "density": 0.002}
_FALLING: dict[str, Any] = {"kind": "mean", "baseline": -10.0, "std": 3.0, "mde_relative": 0.1, "n_control": None}


@pytest.mark.parametrize("kind", ["retention", "funnel"])
def test_complete__retention_and_funnel__are_rates(kind: str) -> None:
    asked = {"baseline": 0.2, "mde_absolute": 0.02, "power": 0.8}

    assert _complete(kind=kind, **asked) == _complete(**asked)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 3.0])
@pytest.mark.parametrize(
    ("fields", "variance"),
    [
        # (sd_n**2 - 2 R cov + R**2 sd_d**2) / mean_d**2
        (_RATIO, (9 - 2 * 0.25 * 0.7 * 27 + 0.0625 * 81) / 64),
        (_QUANTILE, 0.95 * 0.05 / 0.002**2),
        ({**_QUANTILE, "values_per_user": 4, "design_effect": 1.5}, 0.95 * 0.05 / 0.002**2 * 1.5 / 4),
        ({"kind": "quantile", "std": 7.0}, 49.0),
        ({"kind": "ratio", "std": 0.5}, 0.25),
    ],
)
def test_complete__ratios_and_quantiles__agree_with_the_z_test_of_their_deviation(
    fields: dict[str, Any], variance: float, ratio: float
) -> None:
    effect = 0.02 * variance**0.5

    found = _complete(**fields, mde_absolute=effect, power=0.8, ratio_treatment_to_control=ratio)

    want = NormalIndPower().solve_power(effect_size=0.02, power=0.8, alpha=0.05, ratio=ratio)
    assert found.n_control == pytest.approx(want, abs=1)
    assert found.n_treatment == pytest.approx(want * ratio, abs=1)


@pytest.mark.parametrize(
    "fields",
    [
        {"baseline": 0.2, "mde_absolute": 0.02},
        {"kind": "mean", "std": 10.0, "mde_absolute": 0.5},
        {**_RATIO, "mde_relative": 0.02},
        {**_QUANTILE, "mde_absolute": 3.0},
    ],
)
def test_complete__covariate__takes_the_square_of_the_correlation_off_the_size(fields: dict[str, Any]) -> None:
    plain = _complete(**fields, power=0.8).n_control
    adjusted = _complete(**fields, power=0.8, covariate_correlation=0.6).n_control

    assert plain is not None
    assert adjusted is not None
    assert adjusted == pytest.approx(0.64 * plain, rel=2e-3)


@pytest.mark.parametrize(("alternative", "share"), [("greater", -0.1), ("less", 0.1)])
def test_complete__baseline_below_zero__a_relative_effect_is_found_on_the_side_where_it_lies(
    alternative: str, share: float
) -> None:
    fields = {**_FALLING, "mde_relative": share, "alternative": alternative, "power": 0.8}

    found = _complete(**fields)

    assert found.effect == -10.0 * share
    assert found.n_control == _complete(**{**fields, "mde_relative": None, "mde_absolute": -10.0 * share}).n_control
    power = _complete(**{**fields, "power": None, "n_control": found.n_control}).power
    assert power is not None
    assert 0.8 <= power < 0.81


@given(
    st.sampled_from([{"baseline": 0.2}, {"kind": "mean", "std": 2.0}, _RATIO, _QUANTILE]),
    st.floats(-0.95, 0.95),
    st.floats(0.05, 20),
    st.integers(200, 10**7),
)
def test_complete__effect_then_power__leads_back(
    fields: dict[str, Any], correlation: float, ratio: float, n_control: int
) -> None:
    design = {"covariate_correlation": correlation, "ratio_treatment_to_control": ratio}

    effect = _complete(**fields, **design, n_control=n_control, power=0.8).effect

    if effect is not None:
        power = _complete(**fields, **design, n_control=n_control, mde_absolute=effect).power
        assert power == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"kind": "mean", "baseline": 5.0}, "std", "must be given when kind is mean"),
        ({"kind": "ratio", "std": 1.0, "numerator_std": 2.0}, "std", "give std, or all of"),
        ({**_RATIO, "correlation": None}, "std", "give std, or all of"),
        ({**_RATIO, "std": 1.0}, "std", "give std, or all of"),
        ({**_RATIO, "baseline": None}, "baseline", "must be given when kind is ratio"),
        ({"kind": "quantile", "quantile": 0.9}, "std", "give std, or all of"),
        ({"kind": "quantile"}, "std", "give std, or all of"),
        ({"kind": "mean", "std": 1.0, "density": 0.1}, "density", "belongs to kind quantile alone"),
        ({"baseline": 0.1, "correlation": 0.1}, "correlation", "belongs to kind ratio alone"),
        ({"baseline": 0.1, "std": 0.3}, "std", "leave it out"),
        ({"kind": "retention", "baseline": 1.5}, "baseline", "rate"),
        ({"kind": "retention"}, "baseline", "rate"),
        ({"kind": "mean", "std": 1.0, "mde_relative": 0.1, "power": None}, "baseline", "or give mde_absolute"),
        ({"baseline": 0.1, "mde_relative": 0.1}, "power", "exactly two"),
        ({"baseline": 0.1, "power": None}, "mde_absolute", "exactly two"),
        ({"baseline": 0.1, "power": None, "mde_relative": 0.1, "mde_absolute": 0.1}, "mde_relative", "not both"),
        ({"baseline": 0.1, "power": None, "mde_relative": 0.0}, "mde_relative", "must not be 0"),
        ({"baseline": 0.1, "power": None, "mde_absolute": -0.1, "alternative": "greater"}, "mde_absolute", "sign"),
        (
            {**_FALLING, "alternative": "greater"},
            "mde_relative",
            "an effect of -1, which this share of the baseline is",
        ),
        ({**_FALLING, "mde_relative": -0.1, "alternative": "less"}, "mde_relative", "an effect of 1, which this share"),
        ({**_FALLING, "baseline": 1e-200, "mde_relative": 1e-200}, "mde_relative", "must not be 0"),
        ({"baseline": 0.1, "power": None, "mde_absolute": 0.95}, "mde_absolute", "between 0 and 1"),
        ({"baseline": 0.1, "power": 0.05}, "power", "more than alpha, which is 0.05"),
    ],
)
def test_power_in__what_does_not_fit__is_refused_by_field_in_words(
    fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(Invalid) as refused:
        PowerIn(**{"n_control": 1000, "power": 0.8, **fields}).plan()

    errors: Any = refused.value.extensions["errors"]
    assert field in {error["field"] for error in errors}
    assert words in next(error["detail"] for error in errors if error["field"] == field)


@pytest.mark.parametrize("fields", [{"covariate_correlation": 1.0}, {"n_control": 100.5}])
def test_power_in__value_that_cannot_be__is_refused_by_its_shape(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        PowerIn(**{"n_control": 1000, "power": 0.8, "kind": Kind.MEAN, "std": 1.0, **fields})


def test_power_out__ratio__shows_the_deviation_that_was_planned_with() -> None:
    asked = PowerIn(**_RATIO, n_control=1000, power=0.8, covariate_correlation=0.5)
    plan = asked.plan()

    shown = PowerOut.of(asked, plan, complete(plan))

    assert shown.std is not None
    assert shown.std == pytest.approx(((9 - 9.45 + 5.0625) / 64) ** 0.5)
    assert shown.covariate_correlation == 0.5
    assert shown.mde_absolute == pytest.approx((1.959964 + 0.841621) * shown.std * (0.75 * 2 / 1000) ** 0.5, rel=1e-5)
