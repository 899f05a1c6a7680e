"""Which store answers."""

from datetime import UTC, datetime

import pytest

from app.results.errors import HistoryDropped, NoSourceAvailable, StoreDropped
from app.results.routing import Conditions, Decision, Reason, choose
from app.results.values import Source, SourceChoice

_W = datetime(2026, 3, 1, tzinfo=UTC)
_ALL_WELL = Conditions(history_up=True, watermark=_W)
_HISTORY_AWAY = Conditions(history_up=False, watermark=None)
_NOTHING_PROVEN = Conditions(history_up=True, watermark=None)
_DROPPED = Conditions(history_up=True, watermark=_W, history_reaches=False)
_EVENTS_DROPPED = Conditions(history_up=True, watermark=_W, store_reaches=False)
_STORE_AWAY = Conditions(store_up=False, history_up=True, watermark=_W)


@pytest.mark.parametrize(
    ("wanted", "conditions", "decision"),
    [
        (SourceChoice.AUTO, _ALL_WELL, Decision(Source.BOTH, Reason.SPLIT_AT_WATERMARK)),
        (SourceChoice.AUTO, _HISTORY_AWAY, Decision(Source.HOT, Reason.HISTORY_AWAY)),
        (SourceChoice.AUTO, _NOTHING_PROVEN, Decision(Source.HOT, Reason.NO_WATERMARK)),
        (
            SourceChoice.AUTO,
            Conditions(history_up=True, watermark=_W, tail_fits=False),
            Decision(Source.HOT, Reason.TAIL_TOO_LARGE),
        ),
        (SourceChoice.AUTO, _DROPPED, Decision(Source.HOT, Reason.HISTORY_DROPPED)),
        (SourceChoice.HOT, _DROPPED, Decision(Source.HOT, Reason.ASKED_FOR)),
        (SourceChoice.AUTO, _STORE_AWAY, Decision(Source.COLD, Reason.STORE_AWAY)),
        (SourceChoice.AUTO, _EVENTS_DROPPED, Decision(Source.BOTH, Reason.SPLIT_AT_WATERMARK)),
        (SourceChoice.COLD, _EVENTS_DROPPED, Decision(Source.COLD, Reason.ASKED_FOR)),
        (
            SourceChoice.AUTO,
            Conditions(history_up=True, watermark=_W, tail_fits=False, store_reaches=False),
            Decision(Source.COLD, Reason.TAIL_TOO_LARGE),
        ),
        (SourceChoice.HOT, _ALL_WELL, Decision(Source.HOT, Reason.ASKED_FOR)),
        (SourceChoice.COLD, _ALL_WELL, Decision(Source.COLD, Reason.ASKED_FOR)),
        (SourceChoice.COLD, _STORE_AWAY, Decision(Source.COLD, Reason.ASKED_FOR)),
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
        (SourceChoice.AUTO, Conditions(history_up=False, watermark=None, store_reaches=False)),
        (SourceChoice.AUTO, Conditions(history_up=True, watermark=None, store_reaches=False)),
        (SourceChoice.AUTO, Conditions(store_up=False, history_up=True, watermark=None)),
        (SourceChoice.AUTO, Conditions(store_up=False, history_up=True, watermark=_W, history_reaches=False)),
    ],
)
def test_choose__nothing_can_answer__raises(wanted: SourceChoice, conditions: Conditions) -> None:
    with pytest.raises(NoSourceAvailable):
        choose(wanted, conditions)


def test_choose__history_alone_that_lacks_events__says_so() -> None:
    with pytest.raises(HistoryDropped):
        choose(SourceChoice.COLD, _DROPPED)


def test_choose__store_alone_that_lacks_events__says_so() -> None:
    with pytest.raises(StoreDropped):
        choose(SourceChoice.HOT, _EVENTS_DROPPED)


def test_choose__both_lack_events__says_so() -> None:
    with pytest.raises(HistoryDropped, match="Neither"):
        choose(
            SourceChoice.AUTO,
            Conditions(history_up=True, watermark=_W, history_reaches=False, store_reaches=False),
        )
