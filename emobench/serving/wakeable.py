"""Sleeping that a signal ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType


class Wakeable:
    """Sleeps that end early with a signal; remembers which one asked to stop."""

    def __init__(self) -> None:
        self.stop = ""
        self._read, self._write = os.pipe()
        for descriptor in (self._read, self._write):
            os.set_blocking(descriptor, False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def sleep(self, seconds: float) -> None:
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 4096)

    def wake(self) -> None:
        """End the sleep now; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = signal.Signals(number).name
