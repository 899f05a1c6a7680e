"""What an answer says about where it comes from."""

from dataclasses import replace
from datetime import timedelta

import pytest

from app.results.analysis import answer
from app.results.provenance import EVENTS_DROPPED, NOT_COUNTED, STORE_UNAVAILABLE, Duplicates, Provenance
from app.results.values import Question, Source
from tests.unit.results.arms import STARTED, arm, experiment, observed

_HERE = Provenance(Source.HOT, STARTED, STARTED + timedelta(seconds=2))


@pytest.mark.parametrize(
    ("duplicates", "reason"),
    [
        (Duplicates(0, None), None),
        (Duplicates(17, None), None),
        (Duplicates(None, EVENTS_DROPPED), "EVENTS_DROPPED"),
        (Duplicates(None, STORE_UNAVAILABLE), "STORE_UNAVAILABLE"),
        (Duplicates(None, NOT_COUNTED), "NOT_COUNTED"),
    ],
)
def test_provenance__duplicates__are_a_number_or_null_with_the_reason(
    duplicates: Duplicates, reason: str | None
) -> None:
    seen = observed(arm(10), arm(10))

    found = answer(experiment(), Question(), seen, replace(_HERE, duplicates=duplicates)).provenance

    assert found.duplicates_dropped == duplicates.dropped
    assert found.null_reasons.get("duplicates_dropped") == reason
