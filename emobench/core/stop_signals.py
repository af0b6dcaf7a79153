"""The signals that ask a job to end in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WARNING = "SIGUSR1"
"""Slurm's early warning: there is time left."""
STEP_WARNING = "SIGURG"
"""The same in a heterogeneous job, where Slurm signals all processes of a server at once: it ends
none of those that do not know it."""
URGENT = ("SIGTERM", "SIGINT")
"""SIGKILL follows within seconds."""


def handle_stop_signals(handler: Callable[[str], object]) -> Callable[[], None]:
    """Have `handler` called with the name of each of these signals, in the main thread; with
    WARNING for either warning.

    Returns what brings back the handlers of before. Raises ValueError in another thread.
    """
    names = {signal.Signals[name]: name for name in (*URGENT, WARNING)}
    names[signal.Signals[STEP_WARNING]] = WARNING
    before = {
        number: signal.signal(number, lambda received, _: handler(names[signal.Signals(received)]))
        for number in names
    }

    def restore() -> None:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)

    return restore


class Stopped(BaseException):
    """Work is being ended, and what this thread had under way with it; nothing is kept of that.

    No `Exception`, since it is nobody's failure: no handler of failures may take it for one.
    """


class StopRequest(threading.Event):
    """Set when work should end early."""

    received = ""
    """Name of the signal that asked for it; empty: the work itself did, or nobody."""

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let signals set it meanwhile; in a thread that gets none, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        restore = handle_stop_signals(self._ask)
        try:
            yield
        finally:
            restore()

    def _ask(self, received: str) -> None:
        # A warning that comes after a cancellation does not make it a time limit's.
        if self.received not in URGENT:
            self.received = received
        self.set()
