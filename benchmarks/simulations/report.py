"""The tables of a run in Markdown, and their place in the document."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.simulations.cells import Cell, Figures, Table, Verdict

BEGIN = "<!-- simulations: begin; written by `make simulations` -->"
END = "<!-- simulations: end -->"
_MARKS = {Verdict.INSIDE: "", Verdict.BELOW: " ▼", Verdict.ABOVE: " ▲"}


def table(study: Table) -> str:
    """Lay out a study: a line per setting and promise, a column per method, figures in percent."""
    methods = list(dict.fromkeys(cell.method for cell in study.cells))
    lines: dict[tuple[object, ...], dict[str, Cell]] = {}
    for cell in study.cells:
        # Methods stand side by side where they promise the same, with the same chance.
        key = cell.setting, cell.replicates, cell.promised, cell.low, cell.high
        lines.setdefault(key, {})[cell.method] = cell
    head = [*study.columns, "replicates", "promised", "99.9 % bounds", *methods]
    rows = []
    for by_method in lines.values():
        first = next(iter(by_method.values()))
        figures = [_figure(by_method.get(method)) for method in methods]
        rows.append([*first.setting, f"{first.replicates:,}", _percent(first.promised), _bounds(first), *figures])
    return "\n\n".join([f"### {study.title}", study.says, _grid(head, rows, len(study.columns))])


def figures(study: Figures) -> str:
    """Lay out figures that promise nothing."""
    return "\n\n".join([f"### {study.title}", study.says, _grid(list(study.head), [list(r) for r in study.rows], 0)])


def outside(studies: Sequence[Table]) -> str:
    """List every figure outside its bounds, under the reason that was stated before the simulation."""
    by_reason: dict[str, list[list[str]]] = {}
    for study in studies:
        for cell in study.cells:
            if cell.verdict is not Verdict.INSIDE:
                by_reason.setdefault(cell.weakness or "no reason known", []).append(_outsider(study, cell))
    head = ["study", "setting", "method", "measured", "99.9 % bounds", "exact", "no answer"]
    if not by_reason:
        return "None."
    return "\n\n".join(
        f"**{reason[0].upper()}{reason[1:]}.**\n\n{_grid(head, rows, 3)}" for reason, rows in sorted(by_reason.items())
    )


def _outsider(study: Table, cell: Cell) -> list[str]:
    return [
        study.title,
        ", ".join(cell.setting),
        cell.method,
        _figure(cell),
        _bounds(cell),
        "" if cell.exact is None else _percent(cell.exact),
        _percent(cell.unanswered) if cell.unanswered else "",
    ]


def summary(studies: Sequence[Table]) -> str:
    """Count the figures inside and outside their bounds."""
    cells = [cell for study in studies for cell in study.cells]
    out = [cell for cell in cells if cell.verdict is not Verdict.INSIDE]
    too_many = [cell for cell in out if cell.verdict is Verdict.ABOVE]
    return (
        f"{len(cells):,} figures; {len(cells) - len(out):,} inside their bounds, {len(too_many)} above (▲), "
        f"{len(out) - len(too_many)} below (▼). Chance alone puts one in a thousand outside. "
        f"{len(unexplained(studies))} of those outside have no reason that was stated beforehand."
    )


def unexplained(studies: Sequence[Table]) -> list[str]:
    """Name the figures outside their bounds for which no reason was stated, and simulations that miss the exact one."""
    return [
        f"{study.title}: {cell.method}, {', '.join(cell.setting)}: {_figure(cell)}, bounds {_bounds(cell)}"
        for study in studies
        for cell in study.cells
        if not cell.agrees_with_exact or (cell.verdict is not Verdict.INSIDE and cell.weakness is None)
    ]


def write(document: Path, text: str) -> None:
    """Put the text between the markers of the document.

    Raises:
        ValueError: the document lacks a marker.
    """
    old = document.read_text(encoding="utf-8")
    if BEGIN not in old or END not in old:
        raise ValueError(f"{document} lacks the line {BEGIN!r} or {END!r}: add both where the tables shall stand")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _figure(cell: Cell | None) -> str:
    return "" if cell is None else f"{_percent(cell.measured)}{_MARKS[cell.verdict]}"


def _bounds(cell: Cell) -> str:
    low, high = max(0.0, cell.low), cell.high
    return f"{_percent(low)} to {_percent(high)}" if high <= 10.0 else f"from {_percent(low)}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.2f}"


def _grid(head: list[str], rows: list[list[str]], texts: int) -> str:
    """Lay out rows whose first columns are texts and the others numbers."""
    rule = [":--" if column < texts else "--:" for column in range(len(head))]
    return "\n".join(_line(cells) for cells in _all(head, rule, rows))


def _all(head: list[str], rule: list[str], rows: list[list[str]]) -> Iterator[list[str]]:
    yield head
    yield rule
    yield from rows


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
