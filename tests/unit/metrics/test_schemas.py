"""Recipes between JSON and values, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from pydantic import ValidationError

from app.core.errors import Invalid, field_problem
from app.metrics.builtin import BUILT_IN_KEYS, COMPARABLE_KEYS, built_in
from app.metrics.documents import recipe_document
from app.metrics.examples import EXAMPLES
from app.metrics.schemas import MetricChange, MetricIn, RecipeOut
from app.metrics.values import (
    Direction,
    Kind,
    Metric,
    MetricSpec,
    Operator,
    PropertyFilter,
    Recipe,
    Selection,
    ValueSource,
)
from tests.unit.metrics.recipes import recipes


def _spec(**fields: Any) -> MetricSpec:
    return MetricIn.model_validate({"key": "m", **fields}).spec()


def _problems(**fields: Any) -> dict[str, str]:
    """Return what is refused, by field."""
    try:
        _spec(**fields)
    except ValidationError as error:
        found = [field_problem(item) for item in error.errors()]
    except Invalid as error:
        listed: Any = error.extensions["errors"]
        found = listed
    else:
        return {}
    return {problem["field"]: problem["detail"] for problem in found}


@given(recipes())
def test_recipe__as_json_and_back__is_the_same(recipe: Recipe) -> None:
    document = json.loads(json.dumps(recipe_document(recipe)))

    assert _exactly(_spec(**document).recipe) == _exactly(recipe)
    assert recipe_document(_spec(**document).recipe) == document
    shown = RecipeOut(**document).model_dump(mode="json")
    assert _exactly(_spec(**shown).recipe) == _exactly(recipe)


@given(recipes())
def test_recipe__as_stored_and_back__is_the_same(recipe: Recipe) -> None:
    stored = json.loads(json.dumps(msgspec.to_builtins(recipe)))

    assert _exactly(msgspec.convert(stored, Recipe)) == _exactly(recipe)


def _exactly(recipe: Recipe) -> bytes:
    """Tell true from 1, which are equal in Python."""
    return msgspec.json.encode(recipe)


def test_examples__one_for_each_kind__are_valid() -> None:
    specs = [MetricIn.model_validate(example).spec() for example in EXAMPLES]

    assert [spec.recipe.kind for spec in specs] == list(Kind)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("90s", 90), (60, 60)]
)
def test_window__in_friendly_units__is_seconds(text: str | int, seconds: int) -> None:
    for window in (text, {"seconds": text}):
        recipe = _spec(kind="conversion", window=window).recipe
        assert (recipe.window_from_s, recipe.window_s) == (0, seconds)
    later = _spec(kind="conversion", window={"from_seconds": text}).recipe
    assert (later.window_from_s, later.window_s) == (seconds, None)


def test_defaults__nothing_said__are_the_documented_ones() -> None:
    spec = _spec(kind="sum")
    assert (spec.name, spec.description, spec.direction, spec.unit) == ("m", None, Direction.UP, None)
    assert spec.recipe == Recipe(kind=Kind.SUM, selections=spec.recipe.selections)
    assert spec.recipe.selections[0].event_types == ()
    assert _spec(kind="time_to_first").direction is Direction.DOWN
    ratio = _spec(kind="ratio", denominator={}).recipe
    assert ratio.denominator is not None
    assert (ratio.selections[0].source, ratio.denominator.source) == ("value", "one")


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize(
    ("field", "value", "kinds"),
    [
        ("event_type", "a", set(Kind) - {Kind.FUNNEL}),
        ("event_types", ["a"], set(Kind) - {Kind.FUNNEL}),
        ("filters", [{"property": "p", "operator": "exists"}], set(Kind) - {Kind.FUNNEL}),
        ("value", {"property": "p"}, {Kind.SUM, Kind.MEAN, Kind.RATIO, Kind.QUANTILE}),
        ("denominator", {}, {Kind.RATIO}),
        ("steps", [{"event_type": "a"}, {"event_type": "b"}], {Kind.FUNNEL}),
        ("window", "7d", set(Kind) - {Kind.RETENTION}),
        ("cap", 5, {Kind.COUNT, Kind.SUM, Kind.MEAN, Kind.RATIO}),
        ("winsorize", 0.9, {Kind.COUNT, Kind.SUM, Kind.MEAN, Kind.RATIO}),
        ("quantile", 0.5, {Kind.QUANTILE}),
        ("days", {"first": 0, "last": 6}, {Kind.RETENTION}),
        ("covariate_days", 7, {Kind.CONVERSION, Kind.COUNT, Kind.SUM}),
    ],
)
def test_field__of_a_kind__is_taken_where_it_is_used_and_refused_elsewhere(
    kind: Kind, field: str, value: object, kinds: set[Kind]
) -> None:
    problems = _problems(kind=kind.value, **{field: value})

    assert (field in problems) == (kind not in kinds)
    assert all("kind" in detail for detail in problems.values())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "ratio"}, "denominator"),
        ({"kind": "quantile"}, "quantile"),
        ({"kind": "retention"}, "days"),
        ({"kind": "funnel"}, "steps"),
        ({"kind": "median"}, "kind"),
        ({"kind": None}, "kind"),
        ({"key": "event_count"}, "key"),
        ({"key": "A"}, "key"),
        ({"name": " "}, "name"),
        ({"description": "\x00"}, "description"),
        ({"unit": ""}, "unit"),
        ({"unit": "x" * 21}, "unit"),
        ({"direction": "left"}, "direction"),
        ({"event_type": "a", "event_types": ["b"]}, "event_type"),
        ({"event_type": ""}, "event_type"),
        ({"event_types": ["x" * 101]}, "event_types.0"),
        ({"event_types": ["\n"]}, "event_types.0"),
        ({"event_types": [str(number) for number in range(51)]}, "event_types"),
        ({"window": "7y"}, "window.seconds"),
        ({"window": "-1d"}, "window.seconds"),
        ({"window": 0}, "window.seconds"),
        ({"window": "999999999w"}, "window.seconds"),
        ({"window": True}, "window"),
        ({"window": 1.5}, "window"),
        ({"window": {"seconds": 1.5}}, "window.seconds"),
        ({"window": {"from_seconds": "1d", "seconds": "1d"}}, "window.seconds"),
        ({"window": {"to": 1}}, "window.to"),
        ({"cap": 0}, "cap"),
        ({"cap": True}, "cap"),
        ({"cap": "5"}, "cap"),
        ({"cap": 10**400}, "cap"),
        ({"cap": float("inf")}, "cap"),
        ({"winsorize": 0.49}, "winsorize"),
        ({"winsorize": 1}, "winsorize"),
        ({"cap": 1, "winsorize": 0.9}, "winsorize"),
        ({"kind": "quantile", "quantile": 1}, "quantile"),
        ({"kind": "quantile", "quantile": 0}, "quantile"),
        ({"kind": "retention", "days": {"first": 2, "last": 1}}, "days.last"),
        ({"kind": "retention", "days": {"first": -1, "last": 1}}, "days.first"),
        ({"kind": "retention", "days": {"first": 0.5, "last": 1}}, "days.first"),
        ({"covariate_days": 0}, "covariate_days"),
        ({"covariate_days": 366}, "covariate_days"),
        ({"value": "one"}, "value"),
        ({"value": 5}, "value"),
        ({"value": {"property": ""}}, "value"),
        ({"value": {"property": "p", "x": 1}}, "value"),
        ({"kind": "ratio", "denominator": {"event_type": 7}}, "denominator.event_type"),
        ({"kind": "ratio", "denominator": {"cap": 7}}, "denominator.cap"),
        ({"kind": "funnel", "steps": [{"event_type": "a"}]}, "steps"),
        ({"kind": "funnel", "steps": [{"event_type": "a"}] * 2}, "steps"),
        ({"kind": "funnel", "steps": [{"event_type": str(number)} for number in range(11)]}, "steps"),
        ({"kind": "funnel", "steps": [{"event_type": "a"}, {}]}, "steps.1.event_type"),
        ({"filters": [{"property": "p", "operator": "exists"}] * 11}, "filters"),
        ({"role": "primary"}, "role"),
    ],
)
def test_metric__wrong_field__is_named(fields: dict[str, Any], field: str) -> None:
    assert field in _problems(**{"kind": "sum", **fields})


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        *(("eq", None), ("eq", ["a"]), ("eq", {}), ("ne", None), ("eq", "\x00"), ("eq", "x" * 1001), ("eq", 10**400)),
        *(("in", "a"), ("in", []), ("in", ["a"] * 21), ("in", [True]), ("in", [None]), ("in", None), ("in", [[1]])),
        *(("gt", "5"), ("gte", True), ("lt", None), ("lte", [1]), ("gt", float("nan")), ("gt", float("-inf"))),
        *(("exists", "a"), ("exists", False), ("not_exists", 0)),
    ],
)
def test_filter__value_that_does_not_fit_its_operator__is_named(operator: str, value: object) -> None:
    problems = _problems(kind="sum", filters=[{"property": "p", "operator": operator, "value": value}])

    assert list(problems) == ["filters.0.value"]


def test_filter__values__keep_their_type() -> None:
    values: list[object] = [True, 1, 1.0, "1", "true", -0.0]
    sent = [{"property": "p", "operator": "eq", "value": value} for value in values]

    kept = _spec(kind="sum", filters=sent).recipe.selections[0].filters

    assert [repr(item.value) for item in kept] == ["True", "1.0", "1.0", "'1'", "'true'", "0.0"]
    assert kept[0] == PropertyFilter("p", Operator.EQ, True)


def _stored(**fields: Any) -> Metric:
    spec = _spec(**fields)
    return Metric(
        id=1,
        project_id=1,
        key=spec.key,
        version=1,
        name=spec.name,
        description=spec.description,
        recipe=spec.recipe,
        direction=spec.direction,
        unit=spec.unit,
    )


@given(recipes())
def test_change__nothing_sent__is_the_metric_as_it_was(recipe: Recipe) -> None:
    metric = _stored(**recipe_document(recipe), description="text", unit="EUR", direction="down")

    spec = MetricChange().applied_to(metric)

    assert (spec.recipe, spec.name, spec.description, spec.unit) == (recipe, "m", "text", "EUR")
    assert spec.direction is Direction.DOWN


@given(recipes())
def test_change__all_of_it_sent__is_the_metric_as_it_was(recipe: Recipe) -> None:
    document = recipe_document(recipe)
    sent = {name: value for name, value in document.items() if name != "kind"}

    assert MetricChange.model_validate(sent).applied_to(_stored(**document)).recipe == recipe


def test_change__one_field__leaves_the_others() -> None:
    metric = _stored(kind="sum", event_type="a", window="7d", cap=5)

    spec = MetricChange.model_validate({"event_type": "b", "cap": None, "winsorize": 0.9}).applied_to(metric)

    assert spec.recipe == _spec(kind="sum", event_type="b", window="7d", winsorize=0.9).recipe


def test_change__that_makes_no_metric__is_refused_by_field() -> None:
    metric = _stored(kind="sum", cap=5)
    for sent, field in (
        ({"winsorize": 0.9}, "winsorize"),
        ({"days": {"first": 0, "last": 1}}, "days"),
        ({"event_type": "a", "event_types": ["a", "b"]}, "event_type"),
    ):
        with pytest.raises(Invalid) as refused:
            MetricChange.model_validate(sent).applied_to(metric)
        problems: Any = refused.value.extensions["errors"]
        assert [problem["field"] for problem in problems] == [field]


# What nobody could send any more.
_BLANK = Selection((" ",), (PropertyFilter("\n", Operator.IN, ()),), ValueSource.PROPERTY, "")
_ODD = (
    Recipe(kind=Kind.CONVERSION, selections=(Selection(("", "\u200b")),), window_s=0, covariate_days=9999),
    Recipe(kind=Kind.SUM, selections=(_BLANK,), window_from_s=5, window_s=2, cap=-1.0),
    Recipe(kind=Kind.RATIO, selections=(_BLANK,), denominator=_BLANK),
    Recipe(kind=Kind.FUNNEL, selections=(Selection((" ",)), Selection((" ",)))),
    Recipe(kind=Kind.RETENTION, selections=(Selection((" ",)),), first_day=9, last_day=5),
    Recipe(kind=Kind.QUANTILE, selections=(_BLANK,), quantile=1.0),
)


@pytest.mark.parametrize("recipe", _ODD, ids=lambda recipe: recipe.kind)
def test_change__recipe_stored_before_a_rule_was_made__stays_as_it_is(recipe: Recipe) -> None:
    metric = replace(_stored(kind="sum"), key="conversion_rate", name=" ", unit="", recipe=recipe)

    spec = MetricChange.model_validate({"description": "Another one."}).applied_to(metric)

    assert (spec.recipe, spec.key, spec.name, spec.unit) == (recipe, "conversion_rate", " ", "")
    assert spec.description == "Another one."


def test_change__recipe_stored_before_a_rule_was_made__is_mended_by_what_is_sent_and_keeps_the_rest() -> None:
    metric = replace(_stored(kind="sum"), recipe=_ODD[1])

    mended = MetricChange.model_validate({"event_type": "buy", "filters": None, "cap": 7}).applied_to(metric).recipe

    (selection,) = mended.selections
    assert selection == Selection(("buy",), (), ValueSource.PROPERTY, "")
    assert (mended.cap, mended.window_from_s, mended.window_s) == (7.0, 5, 2)
    with pytest.raises(Invalid) as refused:
        MetricChange.model_validate({"winsorize": 0.9}).applied_to(metric)
    assert "not both" in refused.value.detail


def test_change__of_key_or_kind__is_refused() -> None:
    for sent in ({"key": "other"}, {"kind": "count"}, {"window": "x"}, {"value": "two"}, {"archived": None}):
        with pytest.raises(ValidationError):
            MetricChange.model_validate(sent)


def test_built_ins__those_that_compare__are_recipes_like_any_other() -> None:
    for key in BUILT_IN_KEYS:
        metric = built_in(key, 7)
        assert (metric is not None) == (key in COMPARABLE_KEYS)
        if metric is not None:
            assert (metric.key, metric.project_id, metric.version) == (key, 7, 1)
            assert _spec(**recipe_document(metric.recipe)).recipe == metric.recipe
