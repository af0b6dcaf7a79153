"""Something that is asked again and again without ever being waited for longer than wanted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from emobench.core.errors import EmobenchError

T = TypeVar("T")
PATIENCE_S = 15.0
"""An answer that takes longer is said to be missing."""


class Poller(Generic[T]):
    """Asks in a thread of its own: squeue, sacct or a server may take a minute to say nothing."""

    def __init__(self, name: str, ask: Callable[[], T], every_s: float) -> None:
        self._name, self._ask, self._every_s = name, ask, every_s
        self._begun = float("-inf")
        self._thread: threading.Thread | None = None
        self._error = ""
        self.value: T | None = None
        """The newest answer; None until the first."""
        self.answers = 0

    def poll(self, patience_s: float = 0.0) -> T | None:
        """Ask again where it is time, and return the newest answer, after at most `patience_s`."""
        asking = self._thread is not None and self._thread.is_alive()
        if not asking and time.monotonic() - self._begun >= self._every_s:
            self._begun = time.monotonic()
            # A thread that never gets an answer must not keep the command from ending.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        return self.wait(patience_s)

    def wait(self, patience_s: float) -> T | None:
        """Return the newest answer, once one that is on its way is there or has taken
        `patience_s`."""
        # The patience counts from the question: a source that hangs delays one call, not each.
        left = self._begun + patience_s - time.monotonic()
        if self._thread is not None and left > 0:
            self._thread.join(left)
        return self.value

    @property
    def problem(self) -> str:
        """Why there is no fresh answer; empty where there is one."""
        waited = time.monotonic() - self._begun
        asking = self._thread is not None and self._thread.is_alive()
        if asking and waited > PATIENCE_S:
            return f"{self._name} has not answered for {waited:.0f} s"
        return self._error

    def refresh_soon(self) -> None:
        """Ask at the next poll."""
        self._begun = float("-inf")

    def _run(self) -> None:
        try:
            self.value = self._ask()
            self._error = ""
        except (OSError, EmobenchError) as error:
            self._error = f"{self._name}: {error}"
        self.answers += 1
