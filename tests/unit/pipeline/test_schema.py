"""Splitting DDL files into statements."""

import pytest

from app.pipeline.schema import DDL_FOLDER, statements

_REPEATABLE = (" IF NOT EXISTS ", " IF EXISTS ", " MODIFY SETTING ")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1;;\n;", ["SELECT 1"]),
        ("", []),
        ("-- only; a comment", []),
        ("SELECT 1 -- one; not two\n+ 1;", ["SELECT 1  \n+ 1"]),
        ("SELECT /* a; b */ 1;", ["SELECT   1"]),
        ("SELECT ';', \"a;b\", `c;d`;", ["SELECT ';', \"a;b\", `c;d`"]),
        (r"SELECT 'it''s; \' here;';", [r"SELECT 'it''s; \' here;'"]),
        ("SELECT $tag$ a; 'b $tag$; SELECT 2", ["SELECT $tag$ a; 'b $tag$", "SELECT 2"]),
        ("SELECT '-- no comment'; SELECT 2", ["SELECT '-- no comment'", "SELECT 2"]),
    ],
)
def test_statements__semicolons_anywhere__splits_at_the_real_ones(sql: str, expected: list[str]) -> None:
    assert list(statements(sql)) == expected


def test_statements__our_files__are_safe_to_repeat() -> None:
    for file in DDL_FOLDER.glob("*.sql"):
        for statement in statements(file.read_text()):
            assert any(words in statement for words in _REPEATABLE), (file.name, statement)
