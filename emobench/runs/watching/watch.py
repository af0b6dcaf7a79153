"""A run followed to its end: the looks at it, and when to stop."""

from __future__ import annotations

import time

from emobench.core.run_dir import RunDir
from emobench.runs.watching.reader import Reader
from emobench.runs.watching.state import WatchState, build_watch_state

QUIET_ANSWERS = 3
"""Answers of the queue without a live job before the sweep counts as over: files lag behind."""
BUDGET_S = 1.0
"""How long one look reads episodes; a first look at a large run takes several."""


class Watch:
    """The looks at one run, and when to stop."""

    def __init__(self, run_dir: RunDir) -> None:
        self._reader = Reader(run_dir)
        self._quiet: set[int] = set()
        self.state: WatchState | None = None

    def look(self, budget_s: float | None = BUDGET_S) -> WatchState:
        """Return the state now. Raises InvalidInput where the run directory is none."""
        first = self.state is None
        seen, metrics = self._reader.look(budget_s, first)
        self.state = build_watch_state(self.state, seen, metrics, time.time())
        # Without a job in the queue a cell runs where somebody started it by hand.
        if self.state.live or self.state.cells.running:
            self._quiet.clear()
        else:
            self._quiet.add(self._reader.queue.answers)
        return self.state

    @property
    def over(self) -> bool:
        """Whether nothing of the run is in the queue any more."""
        if self.state is None:
            return False
        if self.state.finished and all(row.state.is_over for row in self.state.servers):
            return True  # also where the queue cannot be asked
        return len(self._quiet) >= (1 if self.state.finished else QUIET_ANSWERS)
