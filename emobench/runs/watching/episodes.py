"""Reading episodes as they are written: each file from where the last look stopped.

A conversation is tens of kilobytes and a sweep has thousands, so nothing is read twice, and one
look takes a bounded time: what it did not get to is read by the next ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from emobench.core.outcomes import SUCCESS, Outcome
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import to_seconds
from emobench.store.episodes import EpisodeRecord, make_cell_filter, read_lines

RECENT_S = 600.0
"""How long ends of episodes are kept for the rate."""
WORDS = {
    Outcome.INFRA_ERROR: "a conversation lost a server",
    Outcome.AGENT_ERROR: "the assistant's reply could not be used",
    Outcome.USER_ERROR: "the simulated user gave nothing usable",
    Outcome.CONTEXT_OVERFLOW: "a conversation outgrew the model's context",
}


@dataclass(frozen=True)
class Trouble:
    """An error in plain words."""

    time: float
    """Seconds since the epoch."""
    where: str
    """'cell 4', 'server user'."""
    text: str


@dataclass
class Tally:
    """The rewards of one variant, so far: enough for the mean and its interval."""

    sums: dict[tuple[str, int], tuple[int, int, float]] = field(default_factory=dict)
    """(scored episodes, successes, sum of rewards) by (environment, task)."""
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, env: str, task: int, outcome: str, reward: float | None) -> None:
        self.outcomes[outcome] += 1
        if reward is not None:
            n, successes, total = self.sums.get((env, task), (0, 0, 0.0))
            self.sums[env, task] = (n + 1, successes + (reward >= SUCCESS), total + reward)


@dataclass
class _File:
    offset: int = 0
    behind: int = 0
    """Bytes that were there and are not read yet."""
    inode: int = 0
    missing: dict[int, Outcome | None] = field(default_factory=dict)
    """Tasks met; the outcome of those without a result, which a later line replaces."""


class EpisodeScan:
    """The episodes of a run, read piece by piece."""

    def __init__(self, plan: Plan, run_dir: RunDir) -> None:
        self._plan, self._run_dir = plan, run_dir
        self._forget()

    def _forget(self) -> None:
        self.variants: dict[str, Tally] = {name: Tally() for name in self._plan.sweep.variants}
        self.recent: list[tuple[float, float]] = []
        """(start, end) of episodes that ended lately."""
        self.newest_error: Trouble | None = None
        self._files: dict[int, _File] = {}
        self._settled: set[int] = set()

    @property
    def behind(self) -> int:
        """Bytes that are there and not read yet."""
        return sum(file.behind for file in self._files.values())

    def read(self, settled: Mapping[int, bool], budget_s: float | None, now: float) -> None:
        """Read what was added to the cells of `settled`; True: the cell is done, and nobody writes
        to it any more. Stops after `budget_s` seconds (None: reads everything)."""
        deadline = None if budget_s is None else time.monotonic() + budget_s
        self.recent = [pair for pair in self.recent if pair[1] > now - RECENT_S]
        for number, done in settled.items():
            if number in self._settled or number >= len(self._plan.cells):
                continue
            file = self._files.setdefault(number, _File())
            if not self._look(number, file):
                self._forget()
                return self.read(settled, budget_s, now)
            if file.behind and (deadline is None or time.monotonic() < deadline):
                self._read(self._plan.cells[number], file, deadline, now)
            if done and not file.behind:
                self._settled.add(number)
                file.missing.clear()
        return None

    def _look(self, number: int, file: _File) -> bool:
        """Note how much there is to read; return False where lines have left the file since."""
        try:
            found = self._run_dir.cell(number).episodes.stat()
            length, inode = found.st_size, found.st_ino
        except FileNotFoundError:
            length = inode = 0
        except OSError:
            return True  # the file system is away
        file.behind = max(0, length - file.offset)
        same = file.inode in (0, inode)
        file.inode = inode
        return same and length >= file.offset

    def _read(self, cell: Cell, file: _File, deadline: float | None, now: float) -> None:
        of_cell = make_cell_filter(cell)
        try:
            for line in read_lines(self._run_dir.cell(cell.number).episodes, file.offset):
                if line.state == "torn":
                    break  # it is being written, and is read once it is whole
                file.behind = max(0, file.behind - (line.end - file.offset))
                file.offset = line.end
                if line.record is not None and of_cell(line.record):
                    self._count(cell, file, line.record, now)
                if deadline is not None and time.monotonic() > deadline:
                    return
        except OSError:
            return
        file.behind = 0

    def _count(self, cell: Cell, file: _File, record: EpisodeRecord, now: float) -> None:
        began = to_seconds(record.started)
        end = (began or 0.0) + (record.wall_s or 0.0)
        self._note_error(cell, record, end)
        tally = self.variants[cell.variant]
        if record.task_id in file.missing:
            replaced = file.missing[record.task_id]
            if replaced is None:
                return
            tally.outcomes[replaced] -= 1
        file.missing[record.task_id] = None if record.is_final else record.outcome
        tally.add(cell.env, record.task_id, record.outcome, record.reward)
        if record.is_final and end > now - RECENT_S:
            self.recent.append((end if began is None else began, end))

    def _note_error(self, cell: Cell, record: EpisodeRecord, end: float) -> None:
        if record.error is None:
            return
        if self.newest_error is not None and self.newest_error.time > end:
            return
        said = " ".join((record.error.message or record.error.type).split())
        words = WORDS.get(record.outcome, str(record.outcome))
        where = f"cell {cell.number} task {record.task_id}"
        self.newest_error = Trouble(end, where, f"{words}: {said}" if said else words)
