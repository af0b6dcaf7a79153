"""Reading a run directory while it may still be written: records without transcripts, then these.

A conversation is tens of kilobytes and a sweep has thousands, so a record keeps only where its
line stands in the file; `analysis.transcript.conversation` reads the lines again, one at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from emobench.core.outcomes import Observation, Outcome
from emobench.core.plan import Plan, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.scheduler.cost import Conversation, Cost
from emobench.store.lines import Kept, count_lines
from emobench.store.summaries import CellSummary, read_summary

CellState = Literal["done", "running", "partial", "failed", "missing"]


@dataclass(frozen=True)
class EpisodeRecord:
    """One line of episodes.jsonl without its transcript."""

    episode: str
    task_id: int
    outcome: str
    reward: float | None
    """None: missing, which is not 0."""
    attempt: int
    steps: int
    wall_s: float
    started: str
    error: str
    """'Type: message', or empty."""
    identity: tuple[str, str, str, str, int]
    """(assistant, env, agent strategy, variant, trial), as Cell.key."""
    variant_sha256: str
    benchmark: str
    """'package version'."""
    emobench: str
    incarnations: tuple[tuple[str, str], ...]
    """(role, incarnation) of the servers that answered."""
    offset: int
    """Where the line begins in the file, in bytes."""
    length: int


@dataclass(frozen=True)
class EpisodeFile:
    """What one episodes.jsonl says, one record a task, by task; and what was left out."""

    path: Path
    episodes: tuple[EpisodeRecord, ...] = ()
    replaced: int = 0
    """Infrastructure errors that a later line of the same task replaced."""
    duplicates: int = 0
    """Later lines of a task that had a result already."""
    damaged: int = 0
    """Whole lines that are no episode."""
    torn: int = 0
    """1 where the last line has no end: a write that was cut off or is going on."""


@dataclass(frozen=True)
class CellResult:
    cell: Cell
    file: EpisodeFile
    summary: CellSummary | None
    """variant_summary.json, or None where there is none."""
    foreign: int = 0
    """Episodes left out because they belong to another cell or task set."""

    @property
    def expected(self) -> int:
        return len(self.cell.tasks)

    @property
    def scored(self) -> int:
        return sum(record.reward is not None for record in self.file.episodes)

    @property
    def infra_errors(self) -> int:
        return sum(record.outcome == Outcome.INFRA_ERROR for record in self.file.episodes)

    @property
    def state(self) -> CellState:
        """As the files say it; a cell that was killed still says 'running' in its summary."""
        if self.scored >= self.expected:
            return "done"
        status = self.summary.status if self.summary else None
        if status == "running" or status == "failed":
            return status
        return "partial" if self.file.episodes else "missing"


@dataclass(frozen=True)
class Collected:
    run_dir: RunDir
    plan: Plan
    cells: tuple[CellResult, ...]

    @cached_property
    def cost(self) -> Cost:
        """Accelerator-hours by job and by cell; asks the queue and accounting the first time."""
        from emobench.core.times import seconds
        from emobench.scheduler.interface import Accounts
        from emobench.scheduler.schedulers import SCHEDULERS
        from emobench.scheduler.usage import ask_accounts, servers_used, usage
        from emobench.store.jobs import read_jobs

        jobs = read_jobs(self.run_dir)
        conversations = []
        for result in self.cells:
            servers = servers_used(self.plan, result.cell.assistant)
            for record in result.file.episodes:
                start = seconds(record.started)
                if start is not None and servers:
                    end = start + record.wall_s
                    conversations.append(Conversation(result.cell.number, start, end, servers))
        summaries = {result.cell.number: result.summary for result in self.cells}
        return usage(
            self.plan,
            self.run_dir,
            jobs,
            SCHEDULERS.states(jobs),
            ask_accounts(self.run_dir, jobs) if jobs else Accounts(),
            summary_of=summaries.get,
            conversations=conversations,
        )

    def observations(self) -> list[Observation]:
        """Every episode as the statistics see it."""
        return [
            Observation(
                assistant=result.cell.assistant,
                env=result.cell.env,
                agent_strategy=result.cell.agent_strategy,
                variant=result.cell.variant,
                trial=result.cell.trial,
                task_id=record.task_id,
                outcome=record.outcome,
                reward=record.reward,
            )
            for result in self.cells
            for record in result.file.episodes
        ]


def read_episodes(path: Path) -> EpisodeFile:
    """The records of an episodes.jsonl; an absent file has none. Raises OSError on a bad disk."""
    kept: dict[int, Kept] = {}
    counts = count_lines(path, _record, kept)
    return EpisodeFile(
        path,
        tuple(kept[task].made for task in sorted(kept)),
        counts.replaced,
        counts.duplicates,
        counts.damaged,
        counts.torn,
    )


def collect(run_dir: RunDir) -> Collected:
    """The plan with every cell's episodes and summary. Raises InvalidInput without a plan."""
    plan = load_plan(run_dir)
    return Collected(run_dir, plan, tuple(_cell_result(run_dir, cell) for cell in plan.cells))


def _cell_result(run_dir: RunDir, cell: Cell) -> CellResult:
    paths = run_dir.cell(cell.number)
    file = read_episodes(paths.episodes)
    tasks = set(cell.tasks)
    own = tuple(r for r in file.episodes if r.task_id in tasks and r.identity == cell.key)
    foreign = len(file.episodes) - len(own)
    if foreign:
        file = EpisodeFile(file.path, own, file.replaced, file.duplicates, file.damaged, file.torn)
    return CellResult(cell, file, read_summary(run_dir, cell.number), foreign)


def _record(data: dict[str, Any], offset: int, length: int) -> EpisodeRecord:
    outcome = data["outcome"]
    error = data.get("error")
    benchmark = data.get("benchmark")
    calls = data.get("calls")
    names = [data.get(key) for key in ("assistant", "env", "agent_strategy", "variant")]
    return EpisodeRecord(
        episode=str(data.get("episode") or ""),
        task_id=data["task_id"],
        outcome=outcome,
        reward=None if outcome == Outcome.INFRA_ERROR else _number(data.get("reward")),
        attempt=int(_number(data.get("attempt")) or 1),
        steps=int(_number(data.get("steps")) or 0),
        wall_s=_number(data.get("wall_s")) or 0.0,
        started=str(data.get("started") or ""),
        error=f"{error.get('type')}: {error.get('message')}" if isinstance(error, dict) else "",
        identity=(str(names[0]), str(names[1]), str(names[2]), str(names[3]), data["trial"]),
        variant_sha256=str(data.get("variant_sha256") or ""),
        benchmark=f"{benchmark.get('package')} {benchmark.get('version')}"
        if isinstance(benchmark, dict)
        else "",
        emobench=str(data.get("emobench") or ""),
        incarnations=_incarnations(calls if isinstance(calls, list) else []),
        offset=offset,
        length=length,
    )


def _incarnations(calls: list[Any]) -> tuple[tuple[str, str], ...]:
    pairs = {
        (str(call.get("role")), str(call.get("incarnation")))
        for call in calls
        if isinstance(call, dict) and call.get("incarnation")
    }
    return tuple(sorted(pairs))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
