"""The short form of `make simulations`: every method is wrong as often as it says, or for a stated reason.

Seeded, so that it gives the same figures on every run; the long form is in `docs/statistics.md`.
"""

import functools
import re
from pathlib import Path

import pytest

from benchmarks.simulations import report
from benchmarks.simulations.__main__ import SEED
from benchmarks.simulations.cells import Cell, Promise, Table, Verdict, averaged, counted
from benchmarks.simulations.sizes import SHORT
from benchmarks.simulations.stopping import ALWAYS, ALWAYS_LIFT, FIXED, FIXED_INTERVAL, price
from benchmarks.simulations.studies import STUDIES

pytestmark = pytest.mark.timeout(120)

DOCUMENT = Path(__file__).parents[3] / "docs" / "statistics.md"


@functools.cache
def simulated(name: str) -> tuple[Table, ...]:
    return tuple(STUDIES[name](SHORT, SEED))


def cells(name: str, title: str, method: str) -> list[Cell]:
    return [
        cell
        for table in simulated(name)
        if table.title.startswith(title)
        for cell in table.cells
        if cell.method == method
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_simulation__every_method__is_inside_its_bounds_or_outside_for_a_stated_reason(name: str) -> None:
    tables = simulated(name)

    assert sum(len(table.cells) for table in tables) > 0
    assert report.unexplained(tables) == []


def test_optional_stopping__always_valid__keeps_its_level_where_the_fixed_test_does_not() -> None:
    for title in ("Optional stopping, A/A", "Optional stopping, sample ratio"):
        always, fixed = cells("stopping", title, ALWAYS), cells("stopping", title, FIXED)
        assert always
        assert all(cell.measured <= cell.high for cell in always)
        # At a level of 0.1 %, so few experiments show nothing.
        assert all(cell.measured > 2.0 * cell.promised for cell in fixed if cell.promised >= 0.01)


def test_always_valid__true_effect__is_left_out_at_most_as_often_as_promised() -> None:
    for method in (ALWAYS, ALWAYS_LIFT):
        found = cells("stopping", "Always-valid intervals", method)
        assert len(found) == 6
        assert all(cell.measured <= cell.high for cell in found)
    # Read at every look, the fixed one is wrong far more often.
    fixed = cells("stopping", "Always-valid intervals", FIXED_INTERVAL)
    assert sum(cell.measured for cell in fixed) > 4.0 * sum(cell.promised for cell in fixed)


def test_group_sequential__five_looks__spends_the_error_that_five_fixed_tests_exceed() -> None:
    for method in ("O'Brien-Fleming", "Pocock"):
        planned = cells("stopping", "Group-sequential", method)
        assert planned
        assert all(cell.verdict is Verdict.INSIDE for cell in planned)
    assert all(cell.verdict is Verdict.ABOVE for cell in cells("stopping", "Group-sequential", FIXED))


def test_cuped__correlated_covariate__leaves_one_minus_rho_squared_of_the_variance() -> None:
    for method in ("over the replicates", "as reported"):
        found = cells("cuped", "CUPED: what is left", method)
        assert [cell.promised for cell in found] == pytest.approx([1.0, 0.19] * 2)
        assert all(cell.verdict is Verdict.INSIDE for cell in found)


def test_poststratification__predictive_groups__leave_what_is_within_them_of_the_variance() -> None:
    for method in ("over the replicates", "as reported"):
        found = cells("cuped", "Post-stratification: what is left", method)
        assert [cell.promised for cell in found] == pytest.approx([1.0, 0.19])
        assert all(cell.verdict is Verdict.INSIDE for cell in found)
    missed = cells("cuped", "Post-stratification with an effect", "post-stratified")
    assert len(missed) == 4
    assert all(cell.verdict is Verdict.INSIDE for cell in missed)


def test_price__at_the_tuning_size__is_lower_than_far_from_it() -> None:
    by_share = {row[0]: float(row[1]) for row in price().rows}

    assert min(by_share.values()) == by_share["1"]
    assert by_share["0.1"] > by_share["1"] > 1.0
    assert by_share["10"] > by_share["1"]


def test_counted__answers_missing__count_as_not_wrong_and_are_told() -> None:
    cell = counted("any", (), [True, None, False, None], promised=0.5, promise=Promise.AT_MOST)

    assert (cell.measured, cell.unanswered, cell.low) == (0.25, 0.5, 0.0)


def test_unexplained__figure_outside_without_a_reason__is_named() -> None:
    strange = counted("test", ("n = 5",), [True] * 100, promised=0.05)
    known = counted("test", ("n = 5",), [True] * 100, promised=0.05, weakness="it is meant to fail")
    contradicted = counted("test", ("n = 5",), [True] * 100, promised=0.05, weakness="discrete", exact=0.1)
    fine = averaged("mean", ("n = 5",), [0.9, 1.0, 1.1], promised=1.0)
    table = Table(title="a study", says="", columns=("units",), cells=(strange, known, contradicted, fine))

    assert report.unexplained([table]) == ["a study: test, n = 5: 100.00 ▲, bounds 0.00 to 13.00"] * 2


def test_write__document_with_markers__replaces_what_is_between_them(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")

    report.write(document, "new")

    assert document.read_text(encoding="utf-8") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"


def test_write__document_without_markers__is_refused(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("prose alone", encoding="utf-8")

    with pytest.raises(ValueError, match="add both"):
        report.write(document, "new")


def test_document__tables_in_it__are_those_of_the_studies() -> None:
    written = set(re.findall(r"^### (.+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE))

    titles = {table.title for name in STUDIES for table in simulated(name)} | {price().title}
    assert titles <= written
