"""Being told to stop is orderly, and told apart from Ctrl-C."""

import signal
from collections.abc import Iterator

import pytest

from app.core.termination import Terminated, obey_termination
from app.workers.command import exit_code_of


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def _told_to_stop(number: signal.Signals) -> int:
    signal.raise_signal(number)
    return 7


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_termination__while_a_command_works__ends_it_with_the_code_of_the_signal(
    number: signal.Signals, code: int
) -> None:
    obey_termination()
    assert exit_code_of(lambda: _told_to_stop(number)) == code


def test_termination__whoever_lets_ctrl_c_through__lets_it_through() -> None:
    obey_termination()
    with pytest.raises(KeyboardInterrupt) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert type(ended.value) is Terminated
