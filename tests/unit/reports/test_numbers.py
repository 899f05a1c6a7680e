"""How numbers are written, and where axes have their ticks."""

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.reports.drawing import spread
from app.reports.markup import Html, foreign, joined, tag
from app.reports.numbers import (
    NOTHING,
    Measure,
    chance,
    day,
    moment,
    p_in_words,
    p_value,
    percent,
    percents,
    plain,
    short_percents,
    tick_labels,
    ticks,
)

_NUMBERS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12)


def _said(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((0, "0"), (-0.0, "0"), (1234567, "1,234,567"), (0.123456, "0.1235"), (12.3456, "12.35"), (1234.56, "1,235")),
        *((100.0, "100"), (0.1, "0.1"), (-3.5, "-3.5"), (0.00012345, "0.0001234"), (1e-9, "1.000e-09")),
        *((1e15, "1.000e+15"), (99999.9, "100,000"), (1.0004, "1")),
    ],
)
def test_plain__any_size__has_four_digits(value: float, written: str) -> None:
    assert _said(plain(value)) == written


@given(_NUMBERS)
def test_plain__any_number__is_near_what_it_says(value: float) -> None:
    read = float(_said(plain(value)).replace(",", ""))
    assert read == pytest.approx(value, rel=5.1e-4)


def test_measure__shares__are_percent_and_their_differences_points() -> None:
    share = Measure(is_share=True)
    assert _said(share.value(0.1234)) == "12.34 %"
    assert _said(share.difference(-0.01)) == "-1 pp"
    assert _said(share.values(0.1, 0.2)) == "10 to 20 %"
    assert _said(share.differences(-0.1, None)) == "-10 to no limit pp"
    assert share.axis("Difference") == "Difference, percentage points"


def test_measure__unit__stands_behind() -> None:
    euro = Measure(unit="EUR")
    assert _said(euro.value(3)) == "3 EUR"
    assert _said(euro.difference(3)) == "+3 EUR"
    assert Measure().value(3) == "3"
    assert Measure(unit="a" * 20).for_pictures().unit == "a" * 11 + "\N{HORIZONTAL ELLIPSIS}"
    assert euro.for_pictures() == euro


def test_numbers__nothing__is_a_dash() -> None:
    for written in (
        *(Measure().value(None), Measure().values(None, None), Measure().difference(None), percent(None)),
        *(Measure().differences(None, None), percents(None, None), chance(None), p_value(None), moment(None)),
    ):
        assert written == NOTHING


def test_numbers__chances_and_p_values__are_never_quite_certain() -> None:
    assert [_said(chance(value)) for value in (0, 1e-9, 0.5, 0.98765, 1)] == [
        *("< 0.01 %", "< 0.01 %", "50 %", "98.77 %", "> 99.99 %")
    ]
    assert [_said(p_value(value)) for value in (0, 1e-5, 0.0001, 0.05, 1)] == [
        *("< 0.0001", "< 0.0001", "0.0001", "0.0500", "1.0000")
    ]
    assert (_said(p_in_words(0.5)), _said(p_in_words(0))) == ("p = 0.5000", "p < 0.0001")


def test_short_percents__any_reach__is_short() -> None:
    assert _said(short_percents(0.123456, 0.01, 0.3)) == "+12.3 % (+1.00 to +30.0)"
    assert _said(short_percents(-1, None, 2.5)) == "-100 % (no limit to +250)"
    assert _said(short_percents(0.5, None, None)) == "+50.0 %"
    assert len(short_percents(12345.678, -98765.4, 1e300)) < 34


def test_moments__any_zone__are_in_utc() -> None:
    assert moment(datetime.fromisoformat("2026-03-01T01:30:00+02:00")) == "2026-02-28 23:30:00 UTC"
    assert day(datetime(2026, 12, 9, tzinfo=UTC)) == "9 Dec"


@given(_NUMBERS, st.floats(min_value=1e-6, max_value=1e9), st.integers(min_value=2, max_value=12))
def test_ticks__any_range__are_few_round_and_inside(low: float, width: float, most: int) -> None:
    high = low + width
    if not high - low > 1e-9 * max(abs(low), 1):
        return  # Nothing that a double tells apart.
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most + 1
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert found == sorted(found)


def test_tick_labels__steps__have_the_same_decimals() -> None:
    assert [_said(label) for label in tick_labels([-0.5, 0, 0.5], sign=True)] == ["-0.5", "0", "+0.5"]
    assert tick_labels([0, 1000, 2000]) == ["0", "1,000", "2,000"]
    assert tick_labels([0.0, 0.05, 0.1]) == ["0", "0.05", "0.10"]
    assert tick_labels([7]) == ["7"]
    assert tick_labels([]) == []


@given(st.lists(st.floats(min_value=0, max_value=300), min_size=1, max_size=8))
def test_spread__any_places__leaves_room_and_keeps_the_order(places: list[float]) -> None:
    moved = spread(places, 15)
    order = sorted(range(len(places)), key=lambda index: places[index])
    apart = [moved[after] - moved[before] for before, after in pairwise(order)]
    assert all(gap >= 15 - 1e-9 for gap in apart)
    if all(gap >= 15 for gap in (places[b] - places[a] for a, b in pairwise(order))):
        assert moved == pytest.approx(places)


@given(st.text())
def test_markup__any_text__stays_a_text(text: str) -> None:
    made = tag("p", text, foreign(text), title=text)
    assert made.count("<") == 4  # Two elements, opened and closed.
    assert made.count(">") == 4
    assert made.count('"') == 2
    assert isinstance(made, Html)
    assert joined([made, None, [made]]) == made + made


def test_markup__attributes__are_written_as_html_has_them() -> None:
    assert (
        tag("a", class_="b", stroke_width=1.5, x=2.0, y=None, n=3) == '<a class="b" stroke-width="1.5" x="2" n="3"></a>'
    )
    assert tag("br") == "<br>"
    assert math.isclose(float(str(tag("a", x=1 / 3)).split('"')[1]), 0.33)
