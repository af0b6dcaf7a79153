"""Reading a run directory while it may still be written.

A conversation is tens of kilobytes and a sweep has thousands, so what is kept of a record is where
its line stands in the file. Who needs the transcripts, too, takes them in as the files are read
(`collect`), or reads the lines of some again (`analysis.transcript.conversation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from emobench.config.current_plan import load_current_plan
from emobench.core.errors import InvalidInput
from emobench.core.outcomes import Group, Observation, Outcome
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.scheduler.cost import Conversation, Cost
from emobench.store.episodes import (
    EpisodeRecord,
    Kept,
    LineCounts,
    count_lines,
    make_cell_filter,
)
from emobench.store.jobs import JobRecord, read_jobs
from emobench.store.summaries import CellSummary, read_summary

CellState = Literal["done", "running", "partial", "failed", "missing"]


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """One line of episodes.jsonl without its transcript."""

    episode: str
    task_id: int
    outcome: Outcome
    reward: float | None
    """None: missing, which is not 0."""
    attempt: int
    steps: int
    wall_s: float
    started: str
    error: str
    """'Type: message', or empty."""
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
    episodes: tuple[EpisodeSummary, ...]
    left_out: LineCounts


@dataclass(frozen=True)
class CellResult:
    cell: Cell
    file: EpisodeFile
    summary: CellSummary | None
    """variant_summary.json, or None where there is none."""

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
    def lost_attempts(self) -> int:
        """Conversations whose first attempt gave no result that counts."""
        return sum(each.attempt > 1 or each.reward is None for each in self.file.episodes)

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

    @property
    def is_complete(self) -> bool:
        """Whether every planned conversation has a result."""
        return all(result.state == "done" for result in self.cells)

    @cached_property
    def jobs(self) -> tuple[list[JobRecord], str]:
        """The run's job records, and why there are none where they cannot be read: what they cost
        is then unknown, and its conversations are not."""
        try:
            return read_jobs(self.run_dir), ""
        except InvalidInput as error:
            return [], str(error)

    @cached_property
    def cost(self) -> Cost:
        """Accelerator-hours by job and by cell; asks the queue and accounting the first time."""
        from emobench.core.times import to_seconds
        from emobench.scheduler.interface import Accounts
        from emobench.scheduler.schedulers import SCHEDULERS
        from emobench.scheduler.usage import ask_accounts, compute_run_cost, list_servers_used

        jobs, problem = self.jobs
        conversations = []
        for result in self.cells:
            servers = list_servers_used(self.plan, result.cell.assistant)
            for record in result.file.episodes:
                start = to_seconds(record.started)
                if start is not None and servers:
                    end = start + record.wall_s
                    conversations.append(Conversation(result.cell.number, start, end, servers))
        summaries = {result.cell.number: result.summary for result in self.cells}
        return compute_run_cost(
            self.plan,
            self.run_dir,
            jobs,
            SCHEDULERS.ask_states(jobs),
            ask_accounts(self.plan, self.run_dir, jobs) if jobs else Accounts(problem=problem),
            summary_of=summaries.get,
            conversations=conversations,
        )

    def list_observations(self) -> list[Observation]:
        """Return every episode as the statistics see it."""
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
                attempt=record.attempt,
            )
            for result in self.cells
            for record in result.file.episodes
        ]


class CellRead(NamedTuple):
    """A cell as it is read."""

    result: CellResult
    records: Sequence[EpisodeRecord]
    """Those of `result.file.episodes`, in that order, with their transcripts."""


def collect(
    run_dir: RunDir,
    plan: Plan | None = None,
    take: Callable[[Sequence[CellRead]], None] = lambda block: None,
) -> Collected:
    """Read the plan, unless it is given, and every cell's episodes and summary.

    `take` gets the cells that are read beside each other (all variants of a setting and trial),
    each once; their transcripts are not kept. Raises InvalidInput without a plan, OSError on a bad
    disk.
    """
    plan = plan or load_current_plan(run_dir)
    results: dict[int, CellResult] = {}
    order: dict[tuple[Group, int], int] = {}
    place = {
        cell.number: order.setdefault((cell.group, cell.trial), len(order)) for cell in plan.cells
    }
    for _, cells in groupby(
        sorted(plan.cells, key=lambda cell: place[cell.number]), lambda cell: place[cell.number]
    ):
        block = [_read_cell(run_dir, cell) for cell in cells]
        results.update((each.result.cell.number, each.result) for each in block)
        take(block)
    return Collected(run_dir, plan, tuple(results[cell.number] for cell in plan.cells))


def read_cell(run_dir: RunDir, cell: Cell) -> CellResult:
    """Read the cell's episodes and summary as they stand now. An absent file has no episodes.
    Raises OSError on a bad disk."""
    return _read_cell(run_dir, cell).result


def _read_cell(run_dir: RunDir, cell: Cell) -> CellRead:
    path = run_dir.cell(cell.number).episodes
    kept: dict[int, Kept[tuple[EpisodeSummary, EpisodeRecord]]] = {}
    counts = count_lines(path, _add_summary, kept, make_cell_filter(cell))
    lines = [kept[task].made for task in sorted(kept)]
    file = EpisodeFile(path, tuple(summary for summary, _ in lines), counts)
    result = CellResult(cell, file, read_summary(run_dir, cell.number))
    return CellRead(result, [record for _, record in lines])


def _add_summary(
    record: EpisodeRecord, offset: int, length: int
) -> tuple[EpisodeSummary, EpisodeRecord]:
    summary = EpisodeSummary(
        episode=record.episode,
        task_id=record.task_id,
        outcome=record.outcome,
        reward=record.reward,
        attempt=record.attempt,
        steps=record.steps,
        wall_s=record.wall_s or 0.0,
        started=record.started or "",
        error=str(record.error) if record.error else "",
        variant_sha256=record.variant_sha256 or "",
        benchmark=record.benchmark.label if record.benchmark else "",
        emobench=record.emobench or "",
        incarnations=tuple(
            sorted(
                {
                    (str(call.get("role")), str(call["incarnation"]))
                    for call in record.calls
                    if call.get("incarnation")
                }
            )
        ),
        offset=offset,
        length=length,
    )
    return summary, record
