"""Three users each, and the mistakes that other systems are known for."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction

import pytest

from app.measurement.precision import Lost, lost_of
from app.measurement.values import ArmMeasured, Asked, Days, Sums
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource
from tests.integration.measurement.stored import HOUR, Bench, Happened
from tests.integration.results.world import Assigned

_AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
_THREE = [Assigned(user, 0, _AT, _AT) for user in ("a", "b", "c")]
_ALWAYS = Asked(project_id=0, experiment_id=0)
_BUY = Selection(("buy",))
_CONVERSION = Recipe(kind=Kind.CONVERSION, selections=(_BUY,))
_REVENUE = Recipe(kind=Kind.SUM, selections=(_BUY,))


def _buy(user: str, hours: float, value: float | None = None, properties: str | None = None) -> Happened:
    return Happened(user, "buy", _AT + hours * HOUR, _AT + 2 * HOUR, value, properties)


def _fractions(pair: tuple[int, int]) -> tuple[Fraction, Fraction]:
    return Fraction(pair[0]), Fraction(pair[1])


async def test_conversion__event_before_the_exposure__does_not_count(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", -1), _buy("b", 0), _buy("c", 1)])

    seen = await bench.measure(stored, {"conversion": _CONVERSION}, _ALWAYS, _AT + HOUR)

    arm = seen.of("conversion", stored.experiment.variants[0].id)
    assert (arm.sums.n, arm.sums.users, arm.events) == (3, 2, 2)
    assert arm.sums.numerator == 2


async def test_sum__several_exposure_events__do_not_multiply_it(bench: Bench) -> None:
    seen_often = [Happened("a", "exposure", _AT + hours * HOUR, _AT + 5 * HOUR) for hours in range(4)]
    stored = await bench.store(_THREE, [*seen_often, _buy("a", 1, 10.0), _buy("a", 2, 5.0)])

    seen = await bench.measure(stored, {"revenue": _REVENUE}, _ALWAYS, _AT + 3 * HOUR)

    sums = seen.of("revenue", stored.experiment.variants[0].id).sums
    assert sums.numerator == 15
    assert sums.numerator_squares == 225


async def test_sum__users_without_an_event__are_in_its_mean(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1, 30.0)])

    seen = await bench.measure(stored, {"revenue": _REVENUE}, _ALWAYS)

    sums = seen.of("revenue", stored.experiment.variants[0].id).sums
    assert sums.numerator / sums.n == 10


async def test_count__event_delivered_twice__counts_once(bench: Bench) -> None:
    once = [_buy("a", 1, 10.0), _buy("b", 1, 1.0)]
    stored = await bench.store(_THREE, once, delivered=[*once, once[0], once[0]])

    recipes = {"count": Recipe(kind=Kind.COUNT, selections=(_BUY,)), "revenue": _REVENUE}
    seen = await bench.measure(stored, recipes, _ALWAYS)

    variant_id = stored.experiment.variants[0].id
    assert seen.of("count", variant_id).sums.numerator == 2
    assert seen.of("revenue", variant_id).sums.numerator == 11


async def test_nobody_exposed__any_recipe__has_no_arms(bench: Bench) -> None:
    stored = await bench.store([], [_buy("a", 1, 10.0)])
    recipes = {
        "revenue": Recipe(kind=Kind.SUM, selections=(_BUY,), winsorize=0.9),
        "median": Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.5),
    }

    seen = await bench.measure(stored, recipes, _ALWAYS, _AT)

    assert seen.metrics == {"revenue": {}, "median": {}}


async def test_window__events_at_its_bounds__first_counts_and_last_does_not(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1), _buy("b", 3), _buy("c", 3 - 1 / 3600)])
    windowed = Recipe(kind=Kind.CONVERSION, selections=(_BUY,), window_from_s=3600, window_s=3 * 3600)

    seen = await bench.measure(stored, {"conversion": windowed}, _ALWAYS)

    assert seen.of("conversion", stored.experiment.variants[0].id).sums.numerator == 2


async def test_funnel__steps_out_of_order__count_as_far_as_they_are_in_order(bench: Bench) -> None:
    view = [Happened(user, "view", _AT + 2 * HOUR, _AT + 2 * HOUR) for user in ("a", "b", "c")]
    stored = await bench.store(_THREE, [*view, _buy("a", 1), _buy("b", 2), _buy("c", 1), _buy("c", 5)])
    funnel = Recipe(kind=Kind.FUNNEL, selections=(Selection(("view",)), _BUY))

    seen = await bench.measure(stored, {"funnel": funnel}, _ALWAYS, _AT + 2 * HOUR)

    arm = seen.of("funnel", stored.experiment.variants[0].id)
    assert arm.reached == (3, 2)
    assert arm.sums.numerator == 2


async def test_retention__days_of_24_hours_after_the_exposure__are_those_that_count(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 23.5), _buy("b", 24), _buy("c", 48)])
    retention = Recipe(kind=Kind.RETENTION, selections=(_BUY,), first_day=1, last_day=1)

    seen = await bench.measure(stored, {"retention": retention}, _ALWAYS)

    assert seen.of("retention", stored.experiment.variants[0].id).sums.numerator == 1


async def test_time_to_first__users_who_have_an_event__are_its_denominator(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1), _buy("a", 2), _buy("b", 0.5)])
    recipe = Recipe(kind=Kind.TIME_TO_FIRST, selections=(_BUY,))

    seen = await bench.measure(stored, {"time": recipe}, _ALWAYS)

    sums = seen.of("time", stored.experiment.variants[0].id).sums
    assert sums.n == 3
    assert sums.numerator == 5400
    assert sums.denominator == 2


@pytest.mark.parametrize(("cap", "expected"), [(None, 40), (25, 35), (10.5, Fraction(41, 2))])
async def test_cap__totals_above_it__count_as_much(bench: Bench, cap: float | None, expected: Fraction) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1, 20.0), _buy("a", 2, 10.0), _buy("b", 1, 5.0), _buy("c", 1, 5.0)])
    recipe = Recipe(kind=Kind.SUM, selections=(_BUY,), cap=cap)

    seen = await bench.measure(stored, {"revenue": recipe}, _ALWAYS)

    sums = seen.of("revenue", stored.experiment.variants[0].id).sums
    assert sums.numerator == expected
    assert sums.numerator_squares == (expected - 10) ** 2 + 5**2 + 5**2


async def test_winsorize__quantile_of_all_arms_and_users__is_where_totals_are_cut(bench: Bench) -> None:
    users = [*_THREE, Assigned("d", 1, _AT, _AT)]
    stored = await bench.store(users, [_buy("a", 1, 100.0), _buy("b", 1, 7.0), _buy("d", 1, 8.0)])
    recipe = Recipe(kind=Kind.SUM, selections=(_BUY,), winsorize=0.75)

    seen = await bench.measure(stored, {"revenue": recipe}, _ALWAYS, _AT)

    # Totals are 0, 7, 8 and 100; three quarters of them are not above 8.
    assert seen.of("revenue", stored.experiment.variants[0].id).sums.numerator == 15
    assert seen.of("revenue", stored.experiment.variants[1].id).sums.numerator == 8


@pytest.mark.parametrize(
    ("absurd", "finer"),
    [(1.7e18, 60), (1e21, 60), (-1e21, 60), (3.4028234663852886e38, 120), (1e40, 120)],
)
async def test_cap__absurd_value__counts_as_the_cap_and_costs_the_others_nothing(
    bench: Bench, absurd: float, finer: int
) -> None:
    # One user's absurd value is taken back, so that what is left of it is that user's total.
    taken_back = [_buy("b", 1, absurd), _buy("b", 2, 0.3), _buy("b", 3, -absurd)]
    stored = await bench.store(_THREE, [_buy("a", 1, absurd), _buy("a", -2, 2.5), *taken_back, _buy("c", 1, 0.1)])
    recipes = {
        "capped": Recipe(kind=Kind.SUM, selections=(_BUY,), cap=12.75, covariate_days=1),
        "per event": Recipe(kind=Kind.MEAN, selections=(_BUY,), cap=12.75),
        "all": _REVENUE,
    }

    seen = await bench.measure(stored, recipes, _ALWAYS, _AT + HOUR)

    variant_id = stored.experiment.variants[0].id
    cap = Fraction(51, 4) if absurd > 0 else Fraction(-51, 4)
    for key in ("capped", "per event"):
        arm = seen.of(key, variant_id)
        assert abs(arm.sums.numerator - cap - Fraction(0.3) - Fraction(0.1)) < Fraction(1, 10**9)
        assert abs(arm.sums.numerator_squares - cap**2 - Fraction(1, 10)) < Fraction(1, 10**9)
        assert (arm.finer, arm.covariate_finer) == (finer, 0)
    assert seen.of("capped", variant_id).sums.covariate == Fraction(5, 2)
    assert abs(seen.of("capped", variant_id).sums.covariate_products - cap * Fraction(5, 2)) < Fraction(1, 10**9)
    assert seen.of("per event", variant_id).sums.denominator == 5
    assert seen.of("all", variant_id).finer == 0


@pytest.mark.parametrize("absurd", [1.7e18, 1e21, -1e21, 3.4028234663852886e38, 1e100])
async def test_sum__absurd_values_in_one_arm__cost_the_other_arms_nothing(bench: Bench, absurd: float) -> None:
    users = [*_THREE, Assigned("d", 1, _AT, _AT), Assigned("e", 2, _AT, _AT)]
    views = [replace(_buy("b", 1, 0.1), event_type="view"), replace(_buy("d", 1, absurd), event_type="view")]
    # Half of a user's is taken back before the exposure; nobody in the third arm has any number.
    before = [_buy("b", -1, 2.5), _buy("d", -1, absurd), _buy("d", -2, -absurd / 2)]
    stored = await bench.store(users, [_buy("b", 1, 0.3), _buy("c", 1, 7.25), _buy("d", 2, absurd), *views, *before])
    recipes = {
        "sum": replace(_REVENUE, covariate_days=1),
        "mean": replace(_REVENUE, kind=Kind.MEAN),
        "ratio": replace(_REVENUE, kind=Kind.RATIO, denominator=Selection(("view",))),
        "bought": Recipe(kind=Kind.COUNT, selections=(_BUY,)),
    }

    seen = await bench.measure(stored, recipes, replace(_ALWAYS, days=Days(date(2026, 3, 1), 2)), _AT + HOUR)

    small, large, nobody = (variant.id for variant in stored.experiment.variants)
    for key in ("sum", "mean", "ratio"):
        arm = seen.of(key, small)
        assert lost_of(arm) == Lost(numbers=False, covariate=False)
        assert abs(arm.sums.numerator - Fraction(0.3) - Fraction(7.25)) < Fraction(1, 10**15)
        assert arm.daily[-1].sums == arm.sums
        assert (small in arm.among, large in arm.among) == (True, False)
        assert seen.of(key, large).sums.numerator == Fraction(absurd)
        assert seen.of(key, large).among == ()
        assert seen.of(key, nobody).sums == Sums(n=1)
    assert seen.of("sum", small).sums.covariate == Fraction(5, 2)
    assert abs(seen.of("sum", small).sums.covariate_products - Fraction(3, 4)) < Fraction(1, 10**15)
    assert abs(seen.of("ratio", small).sums.denominator - Fraction(0.1)) < Fraction(1, 10**15)
    assert seen.of("ratio", large).sums.products == Fraction(absurd) ** 2
    assert seen.of("bought", small).among == ()


async def test_sum__absurd_value_that_is_taken_back__costs_its_arm_nothing_either(bench: Bench) -> None:
    users = [*_THREE, Assigned("d", 1, _AT, _AT)]
    stored = await bench.store(
        users, [_buy("b", 1, 1e21), _buy("b", 2, -1e21), _buy("b", 3, 0.3), _buy("c", 1, 7.25), _buy("d", 1, 1e40)]
    )

    seen = await bench.measure(stored, {"revenue": _REVENUE}, _ALWAYS, _AT + 2 * HOUR)

    arm = seen.of("revenue", stored.experiment.variants[0].id)
    assert abs(arm.sums.numerator - Fraction(0.3) - Fraction(7.25)) < Fraction(1, 10**15)
    assert (len(arm.among), arm.finer) == (1, 60)


async def test_winsorize__absurd_values_before_and_after_the_exposure__cost_the_others_nothing(bench: Bench) -> None:
    users = [*_THREE, Assigned("d", 1, _AT, _AT)]
    after = [_buy("a", 1, 1e21), _buy("b", 1, 7.25), _buy("d", 1, 8.5)]
    before = [_buy("a", -1, 3.5), _buy("b", -1, 1e30), _buy("d", -1, 0.25)]
    stored = await bench.store(users, [*after, *before])
    recipe = Recipe(kind=Kind.SUM, selections=(_BUY,), winsorize=0.75, covariate_days=1)

    seen = await bench.measure(stored, {"revenue": recipe}, replace(_ALWAYS, days=Days(date(2026, 3, 1), 2)), _AT)

    # Totals are 0, 7.25, 8.5 and 1e21 after the exposure; 0, 0.25, 3.5 and 1e30 before it.
    first, second = (seen.of("revenue", variant.id) for variant in stored.experiment.variants[:2])
    assert _fractions_of(first) == (Fraction("15.75"), Fraction("124.8125"), 7, Fraction("24.5"), Fraction("55.125"))
    assert _fractions_of(second) == (
        Fraction("8.5"),
        Fraction("72.25"),
        Fraction(1, 4),
        Fraction(1, 16),
        Fraction("2.125"),
    )
    assert first.daily[-1].sums == first.sums
    assert (first.finer, first.covariate_finer) == (60, 120)


def _fractions_of(arm: ArmMeasured) -> tuple[Fraction | int, ...]:
    sums = arm.sums
    return (
        *(sums.numerator, sums.numerator_squares),
        *(sums.covariate, sums.covariate_squares, sums.covariate_products),
    )


async def test_cap__value_beyond_the_finest_unit__leaves_units_that_say_so(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1, 1e100), _buy("b", 1, 7.25)])
    recipe = Recipe(kind=Kind.SUM, selections=(_BUY,), cap=10.0)

    seen = await bench.measure(stored, {"revenue": recipe}, _ALWAYS, _AT)

    arm = seen.of("revenue", stored.experiment.variants[0].id)
    assert arm.finer == 120
    assert arm.unit is not None
    assert arm.unit > 10**30
    assert lost_of(arm).numbers


async def test_covariate__events_before_the_exposure_and_the_question__are_it(bench: Bench) -> None:
    stored = await bench.store(
        _THREE, [_buy("a", -1, 3.0), _buy("a", -30, 50.0), _buy("a", 1, 4.0), _buy("b", -2, 1.0)]
    )
    recipe = Recipe(kind=Kind.SUM, selections=(_BUY,), covariate_days=1)
    asked = Asked(project_id=0, experiment_id=0, start=_AT, end=_AT + 5 * HOUR)

    seen = await bench.measure(stored, {"revenue": recipe}, asked, _AT)

    sums = seen.of("revenue", stored.experiment.variants[0].id).sums
    assert sums.covariate == 4
    assert sums.covariate_squares == 10
    assert sums.covariate_products == 12


async def test_daily__users_and_totals_grow_by_utc_day__and_end_at_the_whole(bench: Bench) -> None:
    users = [Assigned("a", 0, _AT, _AT), Assigned("b", 0, _AT + 24 * HOUR, _AT), Assigned("c", 0, _AT, _AT)]
    events = [_buy("a", 11, 1.0), _buy("a", 12, 2.0), _buy("a", 40, 4.0), _buy("b", 25, 8.0)]
    stored = await bench.store(users, events)
    asked = Asked(project_id=0, experiment_id=0, days=Days(date(2026, 3, 1), 3))

    seen = await bench.measure(stored, {"revenue": _REVENUE}, asked, _AT + HOUR)

    arm = seen.of("revenue", stored.experiment.variants[0].id)
    assert [(daily.day.day, daily.sums.n) for daily in arm.daily] == [(1, 2), (2, 3), (3, 3)]
    found = [(daily.sums.numerator, daily.sums.numerator_squares) for daily in arm.daily]
    assert found == list(map(_fractions, [(1, 1), (11, 9 + 64), (15, 49 + 64)]))
    assert arm.daily[-1].sums == arm.sums


async def test_quantile__many_values_of_few_users__has_a_wider_interval_than_independent_ones(bench: Bench) -> None:
    users = [Assigned(f"user-{number}", 0, _AT, _AT) for number in range(30)]
    alike = [_buy(user.user_id, 1, float(number)) for number, user in enumerate(users) for _ in range(4)]
    apart = [
        _buy(user.user_id, 2, 1000.0 + 4 * number + index) for number, user in enumerate(users) for index in range(4)
    ]
    stored = await bench.store(users, [*alike, *apart])
    recipe = Recipe(kind=Kind.QUANTILE, selections=(_BUY,), quantile=0.5, window_s=2 * 3600)

    seen = await bench.measure(stored, {"median": recipe}, _ALWAYS, _AT + 2 * HOUR)

    quantile = seen.of("median", stored.experiment.variants[0].id).quantile
    assert quantile is not None
    assert quantile.value == Fraction(29, 2)
    assert quantile.lower is not None
    assert quantile.upper is not None
    # Of 120 independent values the ranks would be 50 and 71, which is 12 to 17.
    assert quantile.lower < 12
    assert quantile.upper > 17


@pytest.mark.parametrize(
    ("operator", "value", "users"),
    [
        (Operator.EQ, 1.0, "ab"),
        (Operator.EQ, "1", "c"),
        (Operator.EQ, True, "d"),
        (Operator.NE, 2.0, "abf"),
        (Operator.GTE, 2.0**64, "f"),
        (Operator.EQ, "36893488147419103232", "g"),
        (Operator.IN, (1.0, "1"), "abc"),
        (Operator.EXISTS, None, "abcdfgh"),
        (Operator.NOT_EXISTS, None, "ei"),
    ],
)
async def test_filter__values_of_all_types__compare_with_their_own(
    bench: Bench, operator: Operator, value: str | float | tuple[str | float, ...] | None, users: str
) -> None:
    written = {
        "a": '{"p": 1}',
        "b": '{"p": 1.0}',
        "c": '{"p": "1"}',
        "d": '{"p": true}',
        "e": '{"p": null}',
        "f": '{"p": 36893488147419103232}',
        "g": '{"p": "36893488147419103232"}',
        "h": '{"p": {"p": 1}}',
        "i": None,
    }
    assigned = [Assigned(user, 0, _AT, _AT) for user in written]
    stored = await bench.store(assigned, [_buy(user, 1, None, text) for user, text in written.items()])
    recipe = Recipe(kind=Kind.COUNT, selections=(Selection((), (PropertyFilter("p", operator, value),)),))

    seen = await bench.measure(stored, {"count": recipe}, _ALWAYS, _AT + timedelta(hours=3))

    assert seen.of("count", stored.experiment.variants[0].id).sums.numerator == len(users)


async def test_property_value__largest_double__is_no_number(bench: Bench) -> None:
    stored = await bench.store(_THREE, [_buy("a", 1, None, '{"p": 1.7e308}'), _buy("b", 1, None, '{"p": 0.125}')])
    amount = Selection(("buy",), (), ValueSource.PROPERTY, "p")
    recipe = Recipe(kind=Kind.MEAN, selections=(amount,))

    seen = await bench.measure(stored, {"mean": recipe}, _ALWAYS, _AT)

    sums = seen.of("mean", stored.experiment.variants[0].id).sums
    assert sums.numerator == Fraction(1, 8)
    assert sums.denominator == 1
