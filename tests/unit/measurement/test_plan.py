"""What recipes are compiled to, and what is refused."""

from datetime import date, timedelta
from fractions import Fraction

import pytest

from app.measurement.plan import Cap, compiled, look_back
from app.measurement.samples import covariate_sample_of, sample_of
from app.measurement.values import Days, Sums
from app.metrics.values import Kind, Recipe, Selection, ValueSource
from app.stats.samples import MeanSample, Proportion, RatioSample

_BUY, _VIEW = Selection(("buy",)), Selection(("view",))
_REVENUE = Recipe(kind=Kind.SUM, selections=(_BUY,))


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        (Recipe(kind=Kind.SUM, selections=()), "selections"),
        (Recipe(kind=Kind.RATIO, selections=(_BUY,)), "denominator"),
        (Recipe(kind=Kind.QUANTILE, selections=(_BUY,)), "quantile"),
        (Recipe(kind=Kind.QUANTILE, selections=(Selection((), source=ValueSource.ONE),), quantile=0.5), "value"),
        (Recipe(kind=Kind.RETENTION, selections=(_BUY,), first_day=1), "last_day"),
        (Recipe(kind=Kind.MEAN, selections=(_BUY,), covariate_days=7), "covariate_days"),
        (Recipe(kind=Kind.SUM, selections=(_BUY,), cap=-1.0), "cap"),
        (Recipe(kind=Kind.SUM, selections=(_BUY,), cap=float("nan")), "cap"),
    ],
)
def test_compiled__recipe_that_cannot_be_computed__names_the_metric_and_the_field(recipe: Recipe, field: str) -> None:
    with pytest.raises(ValueError, match=rf"revenue: .*{field}"):
        compiled({"revenue": recipe})


def test_compiled__metrics_of_the_same_events__share_their_track_and_list() -> None:
    plan = compiled(
        {
            "conversion": Recipe(kind=Kind.CONVERSION, selections=(_BUY,)),
            "count": Recipe(kind=Kind.COUNT, selections=(Selection(("buy",), source=ValueSource.ONE),)),
            "late": Recipe(kind=Kind.COUNT, selections=(_BUY,), window_from_s=60),
        }
    )

    assert len(plan.tracks) == 1
    assert len(plan.lists) == 2


def test_event_types__selections_of_some_and_of_all__are_all_types() -> None:
    some = {"a": _REVENUE, "b": Recipe(kind=Kind.COUNT, selections=(_VIEW,))}

    assert compiled(some).event_types == ("buy", "view")
    assert compiled({**some, "c": Recipe(kind=Kind.COUNT, selections=(Selection(()),))}).event_types == ()


def test_look_back__several_covariates__is_the_longest() -> None:
    recipes = {str(days): Recipe(kind=Kind.COUNT, selections=(_BUY,), covariate_days=days) for days in (None, 3, 14, 7)}

    assert look_back(recipes) == timedelta(days=14)
    assert look_back({"revenue": _REVENUE}) == timedelta(0)


@pytest.mark.parametrize(
    ("cap", "one", "units"), [(3.0, 1, 3), (2.5, 2, 5), (0.1, 2**40, 2**40 // 10), (1e300, 1, 2**100)]
)
def test_cap__of_counts__is_kept_in_units_that_hold_it(cap: float, one: int, units: int) -> None:
    (measure,) = compiled({"count": Recipe(kind=Kind.COUNT, selections=(_BUY,), cap=cap)}).measures

    assert (measure.one, measure.cap) == (one, units)


@pytest.mark.parametrize("cap", [0.0, 0.1, 50.1, 5e-324, 1.7e308])
def test_cap__of_values__is_kept_exactly(cap: float) -> None:
    (measure,) = compiled({"revenue": Recipe(kind=Kind.SUM, selections=(_BUY,), cap=cap)}).measures

    assert isinstance(measure.cap, Cap)
    assert measure.cap.mantissa * Fraction(2) ** measure.cap.exponent == Fraction(cap)


def test_quantile__level_written_in_decimals__is_that_fraction() -> None:
    recipe = Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.95)

    assert compiled({"p95": recipe}).measures[0].quantile == Fraction(19, 20)


@pytest.mark.parametrize("number", [0, 100_000])
def test_days__too_few_or_too_many__refused(number: int) -> None:
    with pytest.raises(ValueError, match="days"):
        Days(date(2026, 1, 1), number)


def test_sample_of__each_kind__is_what_it_is_compared_by() -> None:
    sums = Sums(
        n=4,
        users=2,
        numerator=Fraction(3),
        numerator_squares=Fraction(5),
        denominator=Fraction(2),
        denominator_squares=Fraction(2),
        products=Fraction(3),
    )

    assert sample_of(Recipe(kind=Kind.CONVERSION, selections=(_BUY,)), sums) == Proportion(2, 4)
    assert isinstance(sample_of(_REVENUE, sums), MeanSample)
    ratio = sample_of(Recipe(kind=Kind.MEAN, selections=(_BUY,)), sums)
    assert isinstance(ratio, RatioSample)
    assert ratio.estimate().value == Fraction(3, 2)
    assert covariate_sample_of(_REVENUE, sums) is None
    with pytest.raises(ValueError, match="quantile"):
        sample_of(Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.5), sums)
