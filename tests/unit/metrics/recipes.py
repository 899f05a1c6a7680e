"""Recipes of every kind, as they reach the rest of the platform."""

from hypothesis import strategies as st

from app.core.text import refuse_blank
from app.metrics.values import Kind, Operator, PropertyFilter, Recipe, Selection, ValueSource

_MOST_SECONDS = 3650 * 86_400


def _is_visible(text: str) -> bool:
    try:
        refuse_blank(text)
    except ValueError:
        return False
    return True


names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=20)
event_types = names.filter(_is_visible)
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)
shares = st.floats(0.001, 0.999)


@st.composite
def filters(draw: st.DrawFn) -> PropertyFilter:
    operator = draw(st.sampled_from(Operator))
    match operator:
        case Operator.EXISTS | Operator.NOT_EXISTS:
            return PropertyFilter(draw(names), operator)
        case Operator.IN:
            return PropertyFilter(draw(names), operator, tuple(draw(st.lists(texts | numbers, min_size=1, max_size=5))))
        case Operator.EQ | Operator.NE:
            return PropertyFilter(draw(names), operator, draw(texts | numbers | st.booleans()))
        case _:
            return PropertyFilter(draw(names), operator, draw(numbers))


def selections(*sources: ValueSource) -> st.SearchStrategy[Selection]:
    return st.builds(
        lambda types, kept, source, name: Selection(
            tuple(types), tuple(kept), source, name if source is ValueSource.PROPERTY else None
        ),
        st.lists(event_types, max_size=3, unique=True),
        st.lists(filters(), max_size=3),
        st.sampled_from(sources or (ValueSource.VALUE,)),
        names,
    )


@st.composite
def _steps(draw: st.DrawFn) -> tuple[Selection, ...]:
    types = draw(st.lists(event_types, min_size=2, max_size=5, unique=True))
    return tuple(Selection((type_,), tuple(draw(st.lists(filters(), max_size=2)))) for type_ in types)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    kind = draw(st.sampled_from(Kind))
    fields: dict[str, object] = {"selections": (draw(selections()),)}
    if kind is not Kind.RETENTION:
        fields["window_from_s"] = draw(st.integers(0, _MOST_SECONDS - 1))
        end = st.integers(fields["window_from_s"] + 1, _MOST_SECONDS)  # type: ignore[operator]  # An int, drawn above.
        fields["window_s"] = draw(st.none() | end)
    if kind in {Kind.SUM, Kind.MEAN, Kind.QUANTILE}:
        fields["selections"] = (draw(selections(ValueSource.VALUE, ValueSource.PROPERTY)),)
    if kind in {Kind.COUNT, Kind.SUM, Kind.MEAN, Kind.RATIO}:
        tamed = draw(st.sampled_from([None, "cap", "winsorize"]))
        fields |= {} if tamed is None else {tamed: draw(st.floats(0.5, 0.99))}
    if kind in {Kind.CONVERSION, Kind.COUNT, Kind.SUM}:
        fields["covariate_days"] = draw(st.none() | st.integers(1, 365))
    match kind:
        case Kind.RATIO:
            fields["selections"] = (draw(selections(*ValueSource)),)
            fields["denominator"] = draw(selections(*ValueSource))
        case Kind.QUANTILE:
            fields["quantile"] = draw(shares)
        case Kind.RETENTION:
            fields["first_day"], fields["last_day"] = sorted(draw(st.tuples(*[st.integers(0, 3650)] * 2)))
        case Kind.FUNNEL:
            fields["selections"] = draw(_steps())
        case _:
            pass
    return Recipe(kind=kind, **fields)  # type: ignore[arg-type]  # Each is drawn for its field.
