"""Which store answers."""

from datetime import UTC, datetime

import pytest

from app.results.errors import NoSourceAvailable
from app.results.routing import Conditions, Decision, Reason, choose
from app.results.values import Source, SourceChoice

_W = datetime(2026, 3, 1, tzinfo=UTC)
_ALL_WELL = Conditions(history_up=True, watermark=_W)
_HISTORY_AWAY = Conditions(history_up=False, watermark=None)
_NOTHING_PROVEN = Conditions(history_up=True, watermark=None)
_STORE_AWAY = Conditions(store_up=False, history_up=True, watermark=_W)


@pytest.mark.parametrize(
    ("wanted", "conditions", "decision"),
    [
        (SourceChoice.AUTO, _ALL_WELL, Decision(Source.BOTH, Reason.SPLIT_AT_WATERMARK, None)),
        (SourceChoice.AUTO, _HISTORY_AWAY, Decision(Source.HOT, Reason.HISTORY_AWAY, None)),
        (SourceChoice.AUTO, _NOTHING_PROVEN, Decision(Source.HOT, Reason.NO_WATERMARK, None)),
        (
            SourceChoice.AUTO,
            Conditions(history_up=True, watermark=_W, tail_fits=False),
            Decision(Source.HOT, Reason.TAIL_TOO_LARGE, None),
        ),
        (SourceChoice.AUTO, _STORE_AWAY, Decision(Source.COLD, Reason.STORE_AWAY, _W)),
        (SourceChoice.HOT, _ALL_WELL, Decision(Source.HOT, Reason.ASKED_FOR, None)),
        (SourceChoice.COLD, _ALL_WELL, Decision(Source.COLD, Reason.ASKED_FOR, _W)),
        (SourceChoice.COLD, _STORE_AWAY, Decision(Source.COLD, Reason.ASKED_FOR, _W)),
    ],
)
def test_choose__something_can_answer__decides(
    wanted: SourceChoice, conditions: Conditions, decision: Decision
) -> None:
    assert choose(wanted, conditions) == decision


@pytest.mark.parametrize(
    ("wanted", "conditions"),
    [
        (SourceChoice.HOT, _STORE_AWAY),
        (SourceChoice.COLD, _HISTORY_AWAY),
        (SourceChoice.COLD, _NOTHING_PROVEN),
        (SourceChoice.AUTO, Conditions(store_up=False, history_up=False, watermark=None)),
        (SourceChoice.AUTO, Conditions(store_up=False, history_up=True, watermark=None)),
    ],
)
def test_choose__nothing_can_answer__raises(wanted: SourceChoice, conditions: Conditions) -> None:
    with pytest.raises(NoSourceAvailable):
        choose(wanted, conditions)
