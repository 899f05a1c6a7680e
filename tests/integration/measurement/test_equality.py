"""PostgreSQL, ClickHouse and both together measure the same, to the last bit, and what a plain loop says."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.measurement.precision import Lost, are_lost_on_a_day, lost_of
from app.measurement.values import ArmMeasured, Asked, Days, Measured, Sums
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource
from tests.integration.measurement import reference
from tests.integration.measurement.stored import Bench, Happened
from tests.integration.results.world import Assigned

_START = datetime(2026, 3, 1, tzinfo=UTC)
_DAY_S = 86_400

# Few moments, so that events fall on exposures, on bounds, on midnight and on the split; a microsecond beside, too.
_moments = st.builds(
    lambda steps, us: _START + timedelta(hours=6 * steps, microseconds=us),
    st.integers(-6, 16),
    st.sampled_from([-1, 0, 0, 0, 1]),
)
_later = st.builds(lambda steps: _START + timedelta(hours=6 * steps), st.integers(0, 12))


def _mostly(usual: st.SearchStrategy[Any], seldom: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the usual three times out of four; `one_of` alone would prefer what shrinks best."""
    return st.sampled_from([usual, usual, usual, seldom]).flatmap(lambda chosen: chosen)


_early = st.builds(lambda steps: _START + timedelta(hours=6 * steps), st.integers(-1, 3))
_users = st.sampled_from(["a", "b", "c", "d", "é ü", "user,\"'\\"])
_types = st.sampled_from(["buy", "view"])
# Numbers of all kinds of writing; text that looks like them; what is no single value.
_properties = st.none() | st.sampled_from(
    [
        "{}",
        '{"n": 1}',
        '{"n": 1.0, "s": "x"}',
        '{"n": 2.5}',
        '{"n": -0.0}',
        '{"n": 1e2}',
        '{"n": 12345678901234567890123, "s": "12345678901234567890123"}',
        '{"n": "12345678901234567890123", "s": "é\\" \\\\ 1"}',
        '{"n": 9007199254740993}',
        '{"n": 18446744073709551615}',
        '{"n": 1e-7, "b": true}',
        '{"n": 1e301, "s": "true"}',
        '{"n": "1", "b": false}',
        '{"n": null, "b": "true", "s": null}',
        '{"n": {"n": 1}, "s": ["x"], "b": 1}',
        '{"n": true, "s": ""}',
    ]
)
# As above, without numbers so far apart that sums are rounded.
_plain_properties = st.none() | st.sampled_from(
    [
        "{}",
        '{"n": 1}',
        '{"n": 1.0, "s": "x"}',
        '{"n": 2.5}',
        '{"n": -0.0, "b": true}',
        '{"n": "1", "b": false}',
        '{"n": null, "s": null}',
        '{"n": {"n": 1}, "s": ["x"], "b": 1}',
        '{"n": -64, "s": ""}',
    ]
)
_filters = st.sampled_from(
    [
        *[PropertyFilter("n", Operator.EQ, value) for value in (1.0, 0.0, 100.0, 12345678901234567890123.0, "1", True)],
        *[PropertyFilter("n", operator, 1.0) for operator in (Operator.NE, Operator.GT, Operator.GTE)],
        *[PropertyFilter("n", operator, 2.5) for operator in (Operator.LT, Operator.LTE)],
        PropertyFilter("n", Operator.EQ, 9007199254740992.0),
        PropertyFilter("n", Operator.EQ, "12345678901234567890123"),
        PropertyFilter("n", Operator.IN, (1.0, "1", 0.0)),
        PropertyFilter("n", Operator.EXISTS),
        PropertyFilter("n", Operator.NOT_EXISTS),
        *[PropertyFilter("s", operator, "x") for operator in (Operator.EQ, Operator.NE)],
        PropertyFilter("s", Operator.IN, ("", 'é" \\ 1')),
        *[PropertyFilter("b", operator, True) for operator in (Operator.EQ, Operator.NE)],
        PropertyFilter("b", Operator.EQ, 1.0),
        PropertyFilter("missing", Operator.NOT_EXISTS),
    ]
)
_selections = st.builds(
    Selection,
    st.sampled_from([("buy",), ("buy",), ("view",), ("buy", "view"), ()]),
    st.sampled_from([0, 0, 0, 1, 2]).flatmap(lambda n: st.lists(_filters, min_size=n, max_size=n).map(tuple)),
    st.just(ValueSource.VALUE),
)


@st.composite
def _amounts(draw: st.DrawFn) -> Selection:
    selection = draw(_selections)
    source = draw(st.sampled_from([ValueSource.VALUE, ValueSource.VALUE, ValueSource.PROPERTY, ValueSource.ONE]))
    return replace(selection, source=source, property="n" if source is ValueSource.PROPERTY else None)


@st.composite
def _recipes(draw: st.DrawFn) -> Recipe:
    kind = draw(st.sampled_from(list(Kind)))
    selection = draw(_amounts()) if kind in {Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.QUANTILE} else draw(_selections)
    recipe = Recipe(
        kind=kind,
        selections=(selection,),
        window_from_s=draw(st.sampled_from([0, 0, _DAY_S // 4])),
        window_s=draw(st.sampled_from([None, None, _DAY_S, _DAY_S // 2])),
    )
    if kind in {Kind.COUNT, Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.TIME_TO_FIRST}:
        recipe = replace(
            recipe,
            cap=draw(st.sampled_from([None, None, 1.5, 10.0, 0.25, 1e9])),
            winsorize=draw(st.sampled_from([None, None, 0.5, 0.75, 0.9])),
        )
    if kind in {Kind.CONVERSION, Kind.COUNT, Kind.SUM}:
        recipe = replace(recipe, covariate_days=draw(st.sampled_from([None, 1, 2])))
    match kind:
        case Kind.RATIO:
            return replace(recipe, denominator=draw(_amounts()))
        case Kind.QUANTILE:
            source = ValueSource.PROPERTY if selection.source is ValueSource.PROPERTY else ValueSource.VALUE
            return replace(
                recipe,
                selections=(replace(selection, source=source),),
                quantile=draw(st.sampled_from([0.5, 0.9, 0.95, 0.05])),
            )
        case Kind.RETENTION:
            first = draw(st.integers(0, 2))
            return replace(
                recipe, window_from_s=0, window_s=None, first_day=first, last_day=first + draw(st.integers(0, 1))
            )
        case Kind.FUNNEL:
            types = draw(st.sampled_from([("view", "buy"), ("view", "buy", "view"), ("buy", "view")]))
            return replace(recipe, selections=tuple(replace(draw(_selections), event_types=(name,)) for name in types))
        case _:
            return recipe


_questions = st.builds(
    lambda start, end, days: Asked(project_id=0, experiment_id=0, start=start, end=end, days=days),
    _mostly(st.none(), _moments),
    _mostly(st.none(), _later),
    st.none() | st.builds(Days, st.sampled_from([date(2026, 3, 1), date(2026, 2, 27)]), st.integers(1, 6)),
)
_plain_values = _mostly(st.integers(-(10**6), 10**6).map(lambda cents: cents / 64), st.none())
# Sizes so far apart that the small ones are rounded away, and ties of rounding.
_any_values = _mostly(
    st.floats(allow_nan=False, allow_infinity=False) | st.builds(math.ldexp, st.integers(-9, 9), st.integers(-70, 70)),
    st.none(),
)
_assigned = st.lists(
    st.builds(Assigned, _users, st.sampled_from([0, 0, 1, 2]), _mostly(_early, _later), _moments),
    min_size=3,
    max_size=6,
    unique_by=lambda row: row.user_id,
)


def _possible(event: Happened) -> Happened:
    """Let no event lie further ahead of its ingestion than any gets into a store."""
    return replace(event, ingested_at=max(event.ingested_at, event.ts - timedelta(days=1)))


def _happened(values: Any, properties: Any) -> st.SearchStrategy[list[Happened]]:
    return st.lists(
        st.builds(
            Happened,
            _users,
            _types,
            _moments,
            _moments,
            values,
            properties,
            st.sampled_from(["none", "none", "none", "this", "another"]),
            st.uuids(version=4),
        ).map(_possible),
        min_size=12,
        max_size=40,
        unique_by=lambda row: row.event_id,
    )


_keyed = st.lists(_recipes(), min_size=2, max_size=4).map(
    lambda recipes: {f"m{index}": recipe for index, recipe in enumerate(recipes)}
)


@st.composite
def _limited_recipes(draw: st.DrawFn) -> Recipe:
    """Draw sums of values with a limit; most events count for them, so that absurd ones come to stand beside others."""
    kind = draw(st.sampled_from([Kind.SUM, Kind.SUM, Kind.MEAN, Kind.RATIO]))
    cap, winsorize = draw(
        st.sampled_from([(1.5, None), (10.0, None), (1e9, None), (None, 0.5), (None, 0.75), (None, 0.75), (10.0, 0.75)])
    )
    return Recipe(
        kind=kind,
        selections=(Selection(draw(st.sampled_from([("buy",), ("buy", "view"), ()]))),),
        denominator=Selection(("view",), source=draw(_sources)) if kind is Kind.RATIO else None,
        window_s=draw(_mostly(st.none(), st.just(_DAY_S))),
        cap=cap,
        winsorize=winsorize,
        covariate_days=draw(st.sampled_from([None, 2, 2])) if kind is Kind.SUM else None,
    )


_sources = st.sampled_from([ValueSource.ONE, ValueSource.VALUE])
_limited = st.lists(_limited_recipes(), min_size=2, max_size=4).map(
    lambda recipes: {f"m{index}": recipe for index, recipe in enumerate(recipes)}
)


@st.composite
def _unlimited_recipes(draw: st.DrawFn) -> Recipe:
    """Draw the same without a limit; ratios have large values on either side."""
    recipe = draw(_limited_recipes())
    return replace(recipe, cap=None, winsorize=None, denominator=recipe.denominator and draw(_denominators))


_denominators = st.builds(Selection, st.sampled_from([("view",), ("buy",), ()]), source=_sources)
_unlimited = st.lists(_unlimited_recipes(), min_size=2, max_size=4).map(
    lambda recipes: {f"m{index}": recipe for index, recipe in enumerate(recipes)}
)
# A moment sent as a price, the bounds of common types, and the like.
_absurd_values = st.sampled_from([1.7e18, -1.7e18, 1e21, -1e21, 2.0**63, 3.4028234663852886e38])
_seldom_absurd = st.integers(1, 10).flatmap(lambda nth: _absurd_values if nth == 10 else _plain_values)
# Sometimes anybody has one; else those whom a test makes have them.
_often_plain = st.booleans().flatmap(lambda anybody: _seldom_absurd if anybody else _plain_values)
# Every example takes many round trips, so shrinking would take minutes.
_MANY = settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@dataclass(frozen=True)
class Drawn:
    """A history, what is measured of it, the question, and the moment until which ClickHouse has it."""

    assignments: list[Assigned]
    events: list[Happened]
    recipes: dict[str, Recipe]
    asked: Asked
    split: datetime
    as_sent: bool


def _drawn(
    values: st.SearchStrategy[Any],
    properties: st.SearchStrategy[Any],
    recipes: st.SearchStrategy[dict[str, Recipe]] = _keyed,
) -> st.SearchStrategy[Drawn]:
    return st.builds(
        Drawn,
        assignments=_assigned,
        events=_happened(values, properties),
        recipes=recipes,
        asked=_questions,
        split=_moments,
        as_sent=st.booleans(),
    )


@_MANY
@given(drawn=_drawn(_plain_values, _plain_properties), data=st.data())
async def test_measuring__same_history__equal_from_every_source_and_as_counted_by_hand(
    bench: Bench, drawn: Drawn, data: Any
) -> None:
    delivered = data.draw(_redelivered(drawn.events))
    stored = await bench.store(drawn.assignments, drawn.events, delivered=delivered, as_sent=drawn.as_sent)

    seen = await bench.measure(stored, drawn.recipes, drawn.asked, drawn.split)

    assert _as_by_hand(seen) == reference.measured(stored, drawn.recipes, drawn.asked)


@_MANY
@given(drawn=_drawn(_any_values, _properties))
async def test_measuring__values_and_properties_of_any_size__equal_from_every_source(
    bench: Bench, drawn: Drawn
) -> None:
    stored = await bench.store(drawn.assignments, drawn.events, as_sent=drawn.as_sent)

    seen = await bench.measure(stored, drawn.recipes, drawn.asked, drawn.split)

    expected = reference.measured(stored, drawn.recipes, drawn.asked)
    for key, arms in expected.metrics.items():
        for variant_id, arm in arms.items():
            # Sums are rounded where values lie so far apart; what is counted is not.
            assert seen.of(key, variant_id).sums.n == arm.sums.n
            assert seen.of(key, variant_id).events == arm.events


@_MANY
@given(drawn=_drawn(_seldom_absurd, _plain_properties, _limited))
async def test_measuring__absurd_values_under_limits__equal_from_every_source_and_as_counted_by_hand(
    bench: Bench, drawn: Drawn
) -> None:
    stored = await bench.store(drawn.assignments, drawn.events, as_sent=drawn.as_sent)

    seen = await bench.measure(stored, drawn.recipes, drawn.asked, drawn.split)

    expected = reference.measured(stored, drawn.recipes, drawn.asked)
    for key, arms in expected.metrics.items():
        for variant_id, arm in arms.items():
            found = seen.of(key, variant_id)
            assert (found.sums.n, found.events) == (arm.sums.n, arm.events)
            if lost_of(found) == _NOTHING_LOST:
                _assert_close(found.sums, arm.sums)
            else:
                # A limit has left an absurd value of another arm, or a denominator, which has none, holds one: totals
                # that far apart are added up together.
                assert any(max(_squares(other.sums)) > 10**30 for other in arms.values())
            if found.unit is None or found.unit <= _LEAST:
                assert _numerators(found) == _numerators(arm)
            if found.covariate_unit is None or found.covariate_unit <= _LEAST:
                assert _covariates(found) == _covariates(arm)


def _squares(sums: Sums) -> tuple[Fraction, ...]:
    return sums.numerator_squares, sums.denominator_squares, sums.covariate_squares


_NOTHING_LOST = Lost(numbers=False, covariate=False)


@_MANY
@given(drawn=_drawn(_often_plain, _plain_properties, _unlimited), absurd=st.lists(_absurd_values, max_size=4))
async def test_measuring__absurd_values_of_some_arms__equal_from_every_source_and_every_arm_as_counted_by_hand(
    bench: Bench, drawn: Drawn, absurd: list[float]
) -> None:
    # The first user, of one arm, has some of each.
    odd = drawn.assignments[0].user_id
    own = [event for event in drawn.events if event.user_id == odd and event.value is not None]
    changed = {event.event_id: replace(event, value=value) for event, value in zip(own, absurd, strict=False)}
    events = [changed.get(event.event_id, event) for event in drawn.events]
    stored = await bench.store(drawn.assignments, events, as_sent=drawn.as_sent)

    seen = await bench.measure(stored, drawn.recipes, drawn.asked, drawn.split)

    expected = reference.measured(stored, drawn.recipes, drawn.asked)
    for key, arms in expected.metrics.items():
        for variant_id, arm in arms.items():
            found = seen.of(key, variant_id)
            assert (found.sums.n, found.events) == (arm.sums.n, arm.events)
            assert lost_of(found) == _NOTHING_LOST
            _assert_close(found.sums, arm.sums)
            for day, other in zip(found.daily, arm.daily, strict=True):
                if not are_lost_on_a_day(found, day.sums):
                    assert _is_close(day.sums.numerator, other.sums.numerator, other.sums, other.sums.numerator_squares)


def _assert_close(one: Sums, other: Sums) -> None:
    """Compare an arm's sums with what they should be."""
    xx, yy, zz = other.numerator_squares, other.denominator_squares, other.covariate_squares
    assert _is_close(one.numerator, other.numerator, other, xx)
    assert _is_close(one.denominator, other.denominator, other, yy)
    assert _is_close(one.covariate, other.covariate, other, zz)
    assert abs(one.numerator_squares - xx) <= xx / 10**9
    assert abs(one.denominator_squares - yy) <= yy / 10**9
    assert abs(one.covariate_squares - zz) <= zz / 10**9
    # No sum of products is larger than the root of those of squares.
    assert abs(one.products - other.products) ** 2 <= xx * yy / 10**18
    assert abs(one.covariate_products - other.covariate_products) ** 2 <= xx * zz / 10**18


def _is_close(found: Fraction, expected: Fraction, sums: Sums, squares: Fraction) -> bool:
    return abs(found - expected) ** 2 <= sums.n * squares / 10**18


# What all values are multiples of.
_LEAST = Fraction(1, 64)


def _numerators(arm: ArmMeasured) -> list[tuple[Fraction | int, ...]]:
    every = [arm.sums, *(daily.sums for daily in arm.daily)]
    return [(sums.n, sums.users, sums.numerator, sums.numerator_squares) for sums in every]


def _covariates(arm: ArmMeasured) -> list[tuple[Fraction, ...]]:
    every = [arm.sums, *(daily.sums for daily in arm.daily)]
    return [(sums.covariate, sums.covariate_squares) for sums in every]


def _redelivered(rows: list[Happened]) -> st.SearchStrategy[list[Happened]]:
    return st.lists(st.sampled_from(rows), max_size=6).flatmap(lambda again: st.permutations([*rows, *again]))


def _as_by_hand(seen: Measured) -> Measured:
    """Leave out what counting by hand has not got: quantiles' bounds, and units."""
    return Measured(
        {
            key: {
                variant_id: replace(
                    arm,
                    quantile=arm.quantile and replace(arm.quantile, lower=None, upper=None),
                    unit=None,
                    denominator_unit=None,
                    covariate_unit=None,
                    finer=0,
                    denominator_finer=0,
                    covariate_finer=0,
                    among=(),
                )
                for variant_id, arm in arms.items()
            }
            for key, arms in seen.metrics.items()
        }
    )
