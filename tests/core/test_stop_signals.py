"""What asks a job to end, and what is as before afterwards."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from emobench.core.stop_signals import StopRequest


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGINT, "SIGINT"),
        (signal.SIGUSR1, "SIGUSR1"),
        # How a step of a heterogeneous job gets the same warning.
        (signal.SIGURG, "SIGUSR1"),
    ],
)
def test_a_signal_asks_and_the_handlers_of_before_come_back(
    number: signal.Signals, word: str
) -> None:
    before = signal.getsignal(number)
    stop = StopRequest()
    with stop.on_signals():
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(10)
    assert stop.received == word
    assert signal.getsignal(number) is before


def test_a_warning_after_a_cancellation_changes_nothing() -> None:
    stop = StopRequest()
    with stop.on_signals():
        for number, word in (
            ("SIGUSR1", "SIGUSR1"),
            ("SIGTERM", "SIGTERM"),
            ("SIGUSR1", "SIGTERM"),
        ):
            os.kill(os.getpid(), signal.Signals[number])
            assert stop.received == word


def test_another_thread_gets_no_signals_and_works_all_the_same() -> None:
    stop, before, found = StopRequest(), signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop.on_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert found == [before]
    stop.set()
    assert stop.received == ""
