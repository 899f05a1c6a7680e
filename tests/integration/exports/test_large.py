"""Many rows in each form: exact, in bounded memory and time; and what is left when a download is broken off."""

import csv
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest
from pyarrow import compute, parquet

from tests.factories import expect_problem
from tests.integration.exports.conftest import EVENTS, USERS, Large
from tests.service_process import wait_until

_MIB = 1024 * 1024
# What the service's memory may grow by while it exports, whatever the size of the export: buffers of the two
# connections; for Parquet pyarrow itself and a row group as text, as a table and encoded.
_MOST_GROWTH = {"csv": 24 * _MIB, "json": 24 * _MIB, "parquet": 160 * _MIB}
_LONGEST_S = 30.0 * max(1.0, EVENTS / 1_000_000)
_FORMS = ("csv", "json", "parquet")
_NAMES = ("event_id", "user_id", "variant", "event_type", "timestamp", "value", "properties")
_Read = tuple[str, str, str, str, str, float, str | None]


class _Line(msgspec.Struct):
    """The part of an object of JSON that is looked at."""

    event_id: str
    user_id: str
    variant: str
    event_type: str
    timestamp: str
    value: float
    properties: dict[str, int] | None


_decode = msgspec.json.Decoder(_Line).decode

pytestmark = pytest.mark.xdist_group("large-export")


@pytest.mark.parametrize("form", _FORMS)
def test_export__of_many_events__is_exact_in_bounded_memory_and_time(large: Large, form: str, tmp_path: Path) -> None:
    service = psutil.Process(large.service.process.pid)
    file = tmp_path / f"events.{form}"
    before = most = service.memory_info().rss
    began = time.monotonic()

    with (
        large.client.stream("GET", large.path, params={"of": "events", "format": form}) as response,
        file.open("wb") as out,
    ):
        assert response.status_code == 200
        for chunk in response.iter_bytes():
            out.write(chunk)
            most = max(most, service.memory_info().rss)

    took_s = time.monotonic() - began
    assert_exact(rows_of(form, file))
    assert took_s < _LONGEST_S
    assert most - before < _MOST_GROWTH[form], f"{(most - before) / _MIB:.0f} MiB"
    print(f"{form}: {took_s:.1f} s, {file.stat().st_size / _MIB:.0f} MiB, grew by {(most - before) / _MIB:.1f} MiB")


def rows_of(form: str, file: Path) -> Iterator[_Read]:
    match form:
        case "csv":
            with file.open(encoding="utf-8", newline="") as lines:
                reader = csv.reader(lines, strict=True)
                header = next(reader)
                places = [header.index(name) for name in _NAMES]
                for row in reader:
                    event_id, user_id, variant, event_type, timestamp, value, properties = (row[p] for p in places)
                    yield event_id, user_id, variant, event_type, timestamp, float(value), properties or None
        case "json":
            with file.open("rb") as lines:
                assert lines.read(1) == b"["
                for line in lines:
                    if line != b"]\n":
                        one = _decode(line.lstrip(b","))
                        inner = one.properties
                        text = None if inner is None else f'{{"i": {inner["i"]}}}'
                        yield one.event_id, one.user_id, one.variant, one.event_type, one.timestamp, one.value, text
            assert file.read_bytes()[-4:] == b"}\n]\n"
        case _:
            opened = parquet.ParquetFile(file)
            sizes = [opened.metadata.row_group(index).num_rows for index in range(opened.num_row_groups)]
            assert max(sizes) < 100_000
            for batch in opened.iter_batches(columns=list(_NAMES)):
                moments = compute.strftime(batch.column("timestamp"), "%Y-%m-%dT%H:%M:%SZ")
                columns = [batch.column(name).to_pylist() for name in _NAMES]
                columns[_NAMES.index("timestamp")] = moments.to_pylist()
                yield from zip(*columns, strict=True)


def assert_exact(rows: Iterable[_Read]) -> None:
    seen = bytearray(EVENTS)
    for event_id, user_id, variant, event_type, timestamp, value, properties in rows:
        i = int(event_id[24:], 16)
        seen[i] += 1
        assert event_id[:24] == "00000000-0000-0000-0000-"
        assert (user_id, variant, event_type) == (f"user-{i % USERS}", f"v{i % 2}", f"type {i % 5}")
        assert (timestamp, value) == (f"2026-01-02T00:00:{i // 10**6:02d}.{i % 10**6:06d}Z", i / 7.0)
        assert properties == (None if i % 3 else f'{{"i": {i}}}')
    assert seen == b"\x01" * EVENTS


def test_export__client_gone__frees_the_connection_and_its_turn_at_once(large: Large) -> None:
    for _ in range(3):
        with large.client.stream("GET", large.path, params={"of": "events", "format": "csv"}) as response:
            chunks = response.iter_bytes()
            next(chunks)
            assert len(large.exporting()) == 1
        wait_until(lambda: large.exporting() == [], "nothing is exported any more", within_s=5)
    assert "export.abandoned" in large.service.said()


def test_export__too_many_at_once__is_429_until_one_ends(large: Large) -> None:
    query = {"of": "events", "format": "json"}
    with large.client.stream("GET", large.path, params=query) as first:
        some_of_first = first.iter_bytes()
        next(some_of_first)
        with large.client.stream("GET", large.path, params=query) as second:
            some_of_second = second.iter_bytes()
            next(some_of_second)
            refused = large.client.get(large.path, params={"of": "assignments"})
            assert expect_problem(refused, 429)["type"].endswith(":too-many-exports")
            assert int(refused.headers["retry-after"]) > 0
            # Others go on meanwhile.
            assert large.client.get(f"/experiments/{large.experiment['id']}/assignment/somebody-new").json()["enrolled"]
        wait_until(lambda: len(large.exporting()) == 1, "one export is over", within_s=5)
        assert large.client.get(large.path, params={"of": "results"}).status_code == 200
    wait_until(lambda: large.exporting() == [], "both exports are over", within_s=5)


@pytest.mark.parametrize("form", _FORMS)
def test_export__database_gone_in_the_middle__never_looks_whole(large: Large, form: str) -> None:
    with large.client.stream("GET", large.path, params={"of": "events", "format": form}) as response:
        chunks = response.iter_raw()
        next(chunks)
        (pid,) = large.exporting()
        large.service.rows("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            for _ in chunks:
                pass
    assert "export.cut" in large.service.said()
    assert large.client.get(large.path, params={"of": "results"}).status_code == 200
