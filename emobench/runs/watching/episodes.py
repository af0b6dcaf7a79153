"""Reading episodes as they are written: each file from where the last look stopped.

A conversation is tens of kilobytes and a sweep has thousands, so nothing is read twice, and one
look takes a bounded time: what it did not get to is read by the next ones.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from emobench.core.outcomes import OUTCOMES, SUCCESS, Outcome
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import seconds

RECENT_S = 600.0
"""How long ends of episodes are kept for the rate."""
WORDS = {
    Outcome.INFRA_ERROR: "a conversation lost a server",
    "agent_error": "the assistant's reply could not be used",
    "user_error": "the simulated user gave nothing usable",
    "context_overflow": "a conversation outgrew the model's context",
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
    tasks: dict[int, bool] = field(default_factory=dict)
    """Tasks met; True: an infrastructure error, which a later line replaces."""


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
                file.tasks.clear()
        return None

    def _look(self, number: int, file: _File) -> bool:
        """How much there is to read; False where the file is shorter than what was read."""
        try:
            length = self._run_dir.cell(number).episodes.stat().st_size
        except FileNotFoundError:
            length = 0
        except OSError:
            return True  # the file system is away
        file.behind = max(0, length - file.offset)
        return length >= file.offset

    def _read(self, cell: Cell, file: _File, deadline: float | None, now: float) -> None:
        try:
            with self._run_dir.cell(cell.number).episodes.open("rb") as stream:
                stream.seek(file.offset)
                for line in stream:
                    if not line.endswith(b"\n"):
                        break
                    file.offset += len(line)
                    file.behind = max(0, file.behind - len(line))
                    record = _record(line)
                    if record is not None:
                        self._take(cell, file, record, now)
                    if deadline is not None and time.monotonic() > deadline:
                        return
        except OSError:
            return
        file.behind = 0  # a torn last line is being written, and is read once it is whole

    def _take(self, cell: Cell, file: _File, record: dict[str, Any], now: float) -> None:
        task, outcome = record["task_id"], record["outcome"]
        identity = (record.get("env"), record.get("variant"), record.get("trial"))
        if identity != (cell.env, cell.variant, cell.trial) or task not in cell.tasks:
            return
        infra = outcome == Outcome.INFRA_ERROR
        end = (seconds(record.get("started")) or 0.0) + float(record.get("wall_s") or 0.0)
        self._note_error(cell, record, end)
        tally = self.variants[cell.variant]
        if task in file.tasks:
            if not file.tasks[task]:
                return
            tally.outcomes[Outcome.INFRA_ERROR] -= 1
        file.tasks[task] = infra
        reward = record.get("reward")
        tally.add(cell.env, task, outcome, None if infra or reward is None else float(reward))
        if not infra and end > now - RECENT_S:
            self.recent.append((seconds(record.get("started")) or end, end))

    def _note_error(self, cell: Cell, record: dict[str, Any], end: float) -> None:
        error = record.get("error")
        if not isinstance(error, dict):
            return
        if self.newest_error is not None and self.newest_error.time > end:
            return
        said = " ".join(str(error.get("message") or error.get("type") or "").split())
        words = WORDS.get(record["outcome"], str(record["outcome"]))
        where = f"cell {cell.number} task {record['task_id']}"
        self.newest_error = Trouble(end, where, f"{words}: {said}" if said else words)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(data, dict) or type(data.get("task_id")) is not int:
        return None
    return data if data.get("outcome") in OUTCOMES else None
