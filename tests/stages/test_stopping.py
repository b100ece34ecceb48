"""Asked to stop by SIGTERM: saved and left in good order, or at once where there is nothing to save."""

import signal

import pytest

from afterbase.errors import Stopped
from afterbase.stages.stopping import Stopping


@pytest.fixture(autouse=True)
def listener():
    """Whoever listens for SIGTERM outside of the test."""
    before = signal.signal(signal.SIGTERM, heard := lambda number, frame: None)
    yield heard
    signal.signal(signal.SIGTERM, before)


def test_without_a_state_to_save_it_leaves_at_once(listener):
    with pytest.raises(Stopped, match="all that was finished is on the disk"), Stopping():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is listener


def test_with_one_it_remembers_and_the_second_signal_has_the_systems_effect(listener):
    with Stopping() as stopping:
        stopping.later = True
        assert not stopping.asked
        signal.raise_signal(signal.SIGTERM)
        assert stopping.asked and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is listener


def test_nothing_that_catches_errors_swallows_it():
    with pytest.raises(Stopped), Stopping():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("a reward that fails is caught like this")


def test_one_inside_another_gives_the_signal_back():
    with Stopping() as outer:
        with Stopping():
            pass
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        assert outer.asked
