"""What ClickHouse's statement does once for all metrics."""

from datetime import date

from app.measurement.cold_statement import measuring
from app.measurement.plan import compiled
from app.measurement.values import Asked, Days, Exposed
from app.metrics.values import Kind, Recipe, Selection, ValueSource

_BUY, _VIEW = Selection(("buy",)), Selection(("view",))
_ONES = {name: Selection((name,), source=ValueSource.ONE) for name in ("buy", "view")}
_ASKED = Asked(project_id=1, experiment_id=1, days=Days(date(2026, 3, 1), 7))
_EXPOSED = Exposed("WITH exposed AS (SELECT 1)", {})


def _statement(recipes: dict[str, Recipe]) -> str:
    return measuring(compiled(recipes), _ASKED, _EXPOSED, with_tail=False)[0]


def test_measuring__several_lists_of_the_same_events__gathers_them_once() -> None:
    one = _statement({"bought": Recipe(kind=Kind.COUNT, selections=(_BUY,), covariate_days=7)})
    windows = {
        f"in {days} days": Recipe(kind=Kind.COUNT, selections=(_BUY,), window_s=86_400 * days) for days in (1, 2)
    }
    several = _statement({"bought": Recipe(kind=Kind.COUNT, selections=(_BUY,), covariate_days=7), **windows})

    assert one.count("groupArrayIf(") == several.count("groupArrayIf(") == 1


def test_measuring__types_that_exclude_each_other__shares_an_array_of_keys() -> None:
    both = {name: Recipe(kind=Kind.COUNT, selections=(selection,)) for name, selection in _ONES.items()}
    every = Recipe(kind=Kind.COUNT, selections=(Selection(()),))

    assert _statement(both).count("groupArrayIf(") == 1
    # An event of any type is another one's as well.
    assert _statement({**both, "all": every}).count("groupArrayIf(") == 2


def test_measuring__values_without_a_cut__reads_events_twice() -> None:
    revenue = Recipe(kind=Kind.SUM, selections=(_BUY,), covariate_days=7)
    recipes = {"revenue": revenue, "order value": Recipe(kind=Kind.MEAN, selections=(_BUY,))}

    sql = _statement(recipes)

    # For the unit and for the sums; copies are dropped in the user's row, not by a merge of all parts.
    assert (sql.count("FROM events"), sql.count("FROM events FINAL")) == (2, 0)
    # What each event adds, and its day, are worked out once for both.
    assert (sql.count("roundBankers("), sql.count(" AS d0"), sql.count(" AS d1")) == (2, 1, 0)


def test_measuring__ratio_of_numbers_of_events__shares_the_sums_of_its_sides() -> None:
    sides = {name: Recipe(kind=Kind.COUNT, selections=(selection,)) for name, selection in _ONES.items()}
    ratio = Recipe(kind=Kind.RATIO, selections=(_ONES["buy"],), denominator=_ONES["view"])

    sql = _statement({**sides, "buys per view": ratio})

    assert "countResampleArray(0, 7, 1)(d0) AS m2_x," in sql
    assert "countResampleArray(0, 7, 1)(d1) AS m2_y," in sql
