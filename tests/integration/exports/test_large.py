"""Many rows in each form: exact, in bounded memory and time; and what is left when a download is broken off."""

from pathlib import Path

import httpx
import pytest

from tests.factories import expect_problem
from tests.integration.exports.many_events import EVENTS, FORMS, MIB, Large, check_export
from tests.service_process import wait_until

# What the service's memory may grow by while it exports, whatever the size of the export: buffers of the two
# connections; for Parquet pyarrow itself and a row group as text, as a table and encoded.
_MOST_GROWTH = {"csv": 24 * MIB, "json": 24 * MIB, "parquet": 160 * MIB}
_LONGEST_S = 30.0 * max(1.0, EVENTS / 1_000_000)

pytestmark = pytest.mark.xdist_group("large-export")


@pytest.mark.parametrize("form", FORMS)
def test_export__of_many_events__is_exact_in_bounded_memory_and_time(large: Large, form: str, tmp_path: Path) -> None:
    check_export(large, form, tmp_path, most_growth=_MOST_GROWTH[form], longest_s=_LONGEST_S)


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


@pytest.mark.parametrize("form", FORMS)
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
