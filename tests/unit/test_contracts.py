"""What modules say of themselves is what the import contracts hold them to."""

import ast
import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def _say_that_they_do_no_io() -> set[str]:
    found = set()
    for path in (_ROOT / "app").rglob("*.py"):
        words = ast.get_docstring(ast.parse(path.read_text())) or ""
        if "no i/o" in words.partition("\n")[0].lower():
            found.add(".".join(path.relative_to(_ROOT).with_suffix("").parts))
    return found


def test_modules__that_say_they_do_no_io__are_held_to_it() -> None:
    contracts = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = {
        module
        for contract in contracts
        if contract["type"] == "forbidden"
        and {"sqlalchemy", "clickhouse_connect"} <= set(contract["forbidden_modules"])
        for module in contract["source_modules"]
    }

    said = _say_that_they_do_no_io()
    assert len(said) > 50
    assert {module for module in said if not any(f"{module}.".startswith(f"{one}.") for one in held)} == set()
