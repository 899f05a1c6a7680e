"""Every public function of the engine says where it comes from."""

import ast
from collections.abc import Iterator
from pathlib import Path

import app.stats

_FOLDER = Path(app.stats.__file__).parent
# Refusals of arguments, and exact arithmetic: nothing that anybody has published.
_OWN = frozenset({"checks.py", "exact.py", "intervals.py", "reasons.py"})
# Values made from values, without statistics.
_VALUES = frozenset({"rounded_up", "from_sums", "of", "estimate", "n", "tail", "mirrored", "mean", "sd", "cuts"})
_STEPS = frozenset(
    {"check_power", "sizes", "detectable", "over_square_of", "squared_deviations", "co_deviations"}
    | {"residual_deviations"}
)


def _public(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the module's functions, and the methods of its classes, that have no leading underscore."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for found in node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]:
            if isinstance(found, ast.FunctionDef) and not found.name.startswith("_"):
                yield found


def test_public_functions__of_statistics__name_their_source() -> None:
    without = [
        f"{path.name}: {function.name}"
        for path in sorted(_FOLDER.glob("*.py"))
        if path.name not in _OWN
        for function in _public(path)
        if function.name not in _VALUES | _STEPS and "Source:" not in (ast.get_docstring(function) or "")
    ]

    assert without == []
