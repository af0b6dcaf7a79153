"""`variant_summary.json`: how a cell stands, for those who do not want to read its episodes; and
`results.json`, the same results as tau-bench writes them. Both are derived: the episodes decide."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emobench.core.files import (
    dump_json,
    is_full,
    overwrite,
    read_json,
    write_bytes_atomic,
    write_json,
)
from emobench.core.job_id import read_own_task_id
from emobench.core.plan import Plan
from emobench.core.run_dir import CellPaths, RunDir
from emobench.core.sweep import Cell
from emobench.core.times import now
from emobench.store.calls import RoleUsage
from emobench.store.episodes import (
    CellBusy,
    EpisodeRecord,
    EpisodeStore,
    TaskResult,
    make_cell_filter,
    read_results,
)

SCHEMA = 1
EPISODES_MISSING = "episodes_missing"
"""The cell was done; since then episodes were damaged, lost or set aside to be run again."""
Status = Literal["running", "done", "incomplete", "failed"]


class CellSummary(BaseModel):
    """How a cell stands. What a file does not say has its default; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    schema_version: int = Field(default=1, alias="schema")
    cell: int = -1
    title: str = ""
    variant: str = ""
    status: Status | None = None
    exit_reason: str = ""
    """completed, infra_errors, max_cost, interrupted, endpoint_unavailable, probe_failed, error,
    running, episodes_missing."""
    message: str = ""
    """For people: what went wrong."""
    expected: int = 0
    """Tasks of the cell when it was run last."""
    finished: int = 0
    """Episodes with a result that counts."""
    outcomes: dict[str, int] = Field(default_factory=dict)
    mean_reward: float | None = None
    """Of the scored episodes; None where there is none."""
    scored: int | None = None
    """Finished episodes that have a reward; None: earlier versions took every finished one."""
    reward_sum: float | None = None
    """Of the scored episodes; None: earlier versions wrote their mean only."""
    episodes_bytes: int | None = None
    """Size of episodes.jsonl when this was written; None: an earlier version wrote it."""
    results_bytes: int | None = None
    """Of results.json."""
    usage: dict[str, RoleUsage] = Field(default_factory=dict)
    """Tokens and money by role, of all conversations, those that were begun again included."""
    tokens_by_task: dict[int, int] = Field(default_factory=dict)
    """What both models wrote in each finished episode, where their servers counted it: the other
    cells' measure of how long a task takes."""
    variant_sha256: str = ""
    started: str | None = None
    """When the last run of the cell began, ISO 8601, UTC."""
    ended: str | None = None
    """None while it runs, or where it was killed."""
    job_id: str | None = None
    """As squeue or the local job list has it: 123_4 for an array's task."""
    host: str = ""
    fruitless_starts: int = 0
    """Runs of the cell in a row that Slurm's warning, or a loss of its servers, ended before one
    conversation had."""
    content: dict[str, Any] = Field(default_factory=dict)
    """What the cell's episodes depend on (`config.identity`)."""
    probe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What the run that began the cell found of its endpoints, by role."""

    def is_done(self, cell: Cell) -> bool:
        """Return whether every task has its result; a resumed sweep may have added tasks since."""
        return self.status == "done" and self.expected >= len(cell.tasks)

    @property
    def rewards(self) -> tuple[int, float]:
        """How many episodes are scored, and the sum of their rewards."""
        if self.scored is not None and self.reward_sum is not None:
            return self.scored, self.reward_sum
        return (
            (0, 0.0)
            if self.mean_reward is None
            else (
                self.finished,
                self.mean_reward * self.finished,
            )
        )

    @property
    def has_failed(self) -> bool:
        """Whether the last run of the cell ended without all results."""
        return self.status in ("failed", "incomplete")

    @property
    def is_paused(self) -> bool:
        """Whether the run's limit of money ended it: it goes on once that is raised."""
        return self.status == "incomplete" and self.exit_reason == "max_cost"


def find_current_summary(run_dir: RunDir, cell: Cell, *, check: bool = False) -> CellSummary | None:
    """Return the summary of a cell, made of its episodes where these are others than it was written
    for, and with `check` in any case. None where there is neither."""
    paths = run_dir.cell(cell.number)
    summary = read_summary_file(paths.summary)
    if summary is not None and not check and _is_current(summary, paths):
        return summary
    try:
        results = read_results(paths.episodes, cell)
    except OSError:
        return summary  # nobody may read them, or the disk is away
    if summary is None and not results:
        return None
    return _build_summary(cell, results, summary)


def renew_files(run_dir: RunDir, cell: Cell) -> None:
    """Write the summary and the results of a cell that has all its results, where these files are
    missing or stale and nobody runs the cell. Raises OSError."""
    paths = run_dir.cell(cell.number)
    summary = read_summary_file(paths.summary)
    found = find_current_summary(run_dir, cell, check=True)
    if found is None or not found.is_done(cell):
        return
    if summary is not None and summary.is_done(cell) and _is_current(summary, paths):
        size = summary.results_bytes
        # The summary is written last: results that are newer were changed by somebody.
        as_written = _is_newer(paths.results, paths.episodes) and _is_newer(
            paths.summary, paths.results
        )
        if as_written and size in (None, paths.results.stat().st_size):
            return
    with suppress(CellBusy), EpisodeStore(paths, make_cell_filter(cell)) as store:
        write_files(store, cell)


def write_files(store: EpisodeStore, cell: Cell) -> CellSummary:
    """Write the summary and the results of a cell as its episodes are. Raises OSError."""
    results = {
        task: TaskResult(record.outcome, record.reward, record.is_final)
        for task, record in store.records.items()
    }
    _write_results(store, cell)
    summary = _build_summary(cell, results, read_summary_file(store.paths.summary))
    summary = summary.model_copy(update=_describe_store(store))
    write_json(store.paths.summary, summary.model_dump(by_alias=True))
    return summary


def _build_summary(
    cell: Cell, results: Mapping[int, TaskResult], before: CellSummary | None
) -> CellSummary:
    own = {task: result for task, result in results.items() if task in cell.tasks}
    counts = _count_outcomes(own.values())
    missing = len(cell.tasks) - counts["finished"]
    if before is None:
        before = CellSummary(cell=cell.number, title=cell.title, variant=cell.variant)
    word: dict[str, Any] = {}
    if not missing:
        word = {"status": "done", "exit_reason": "completed", "message": ""}
    elif before.status in ("done", None):
        word = {
            "status": None,
            "exit_reason": EPISODES_MISSING,
            "message": f"{missing} of {len(cell.tasks)} episodes are missing (damaged, lost or set "
            "aside); submit again to run them",
        }
    return before.model_copy(update={**counts, "expected": len(cell.tasks), **word})


def _count_outcomes(results: Iterable[TaskResult | EpisodeRecord]) -> dict[str, Any]:
    """Return what a summary says of the episodes."""
    results = list(results)
    finished = [each for each in results if each.is_final]
    rewards = [each.reward for each in finished if each.reward is not None]
    return {
        "finished": len(finished),
        "outcomes": dict(Counter(each.outcome.value for each in results)),
        "mean_reward": sum(rewards) / len(rewards) if rewards else None,
        "scored": len(rewards),
        "reward_sum": sum(rewards),
    }


def _write_results(store: EpisodeStore, cell: Cell) -> None:
    """Write tau-bench's results; what is missing is left out. Raises OSError."""
    finished = [store.records[task] for task in cell.tasks if task in store.list_finished()]
    results = [record.to_stock_result() for record in finished]
    write_bytes_atomic(store.paths.results, dump_json(results))


def _describe_store(store: EpisodeStore) -> dict[str, Any]:
    """Return what a summary says of the cell's files and of all conversations in them."""
    return {
        **_read_sizes(store.paths),
        "usage": store.usage,
        "tokens_by_task": store.count_tokens(),
    }


def _read_sizes(paths: CellPaths) -> dict[str, int | None]:
    return {
        "episodes_bytes": _read_size(paths.episodes),
        "results_bytes": _read_size(paths.results),
    }


def _read_size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _is_current(summary: CellSummary, paths: CellPaths) -> bool:
    """Return whether the episodes are those that the summary was written for."""
    size = _read_size(paths.episodes)
    if size is None:
        return summary.status != "done"
    return summary.episodes_bytes in (None, size) and _is_newer(paths.summary, paths.episodes)


def _is_newer(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_mtime_ns >= other.stat().st_mtime_ns
    except OSError:
        return False


def read_summary(run_dir: RunDir, number: int) -> CellSummary | None:
    """Return the summary of cell `number` as it was written, or None where there is none that can
    be read; whether a cell is done says `find_current_summary`."""
    return read_summary_file(run_dir.cell(number).summary)


def read_summary_file(file: Path) -> CellSummary | None:
    """Return the summary that a file holds, or None where there is none that can be read."""
    try:
        summary = CellSummary.model_validate(read_json(file))
    except ValidationError:
        return None
    return summary if summary.schema_version <= SCHEMA else None


class SummaryWriter:
    """Rewrites a cell's summary as the cell goes on."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, cell: Cell, content: Mapping[str, object]
    ) -> None:
        self._written = 0.0
        self._path = run_dir.cell(cell.number).summary
        self._cell = cell
        before = read_summary_file(self._path)
        self.summary = CellSummary(
            cell=cell.number,
            title=cell.title,
            variant=cell.variant,
            status="running",
            exit_reason="running",
            expected=len(cell.tasks),
            variant_sha256=plan.sweep.variants[cell.variant].sha256,
            started=now(),
            job_id=read_own_task_id(),
            host=socket.gethostname(),
            content=dict(content),
            # Only the run that begins a cell probes; those that complete it keep what it found.
            probe=before.probe if before else {},
            fruitless_starts=before.fruitless_starts if before else 0,
        )

    def note_probe(self, roles: dict[str, dict[str, Any]]) -> None:
        """Keep what was found of the cell's endpoints."""
        self.summary = self.summary.model_copy(update={"probe": roles})

    def note_fruit(self, ended: bool) -> None:
        """Count a run that Slurm's warning or a loss of its servers ended; `ended`: whether a
        conversation got its result, which sets the count back."""
        starts = 0 if ended else self.summary.fruitless_starts + 1
        self.summary = self.summary.model_copy(update={"fruitless_starts": starts})

    def write(self, store: EpisodeStore, **changed: Any) -> None:
        """Write the summary with what the store holds now, and `changed` fields."""
        records = [store.records[task] for task in self._cell.tasks if task in store.records]
        found = {**_count_outcomes(records), **_describe_store(store)}
        self.summary = self.summary.model_copy(update={**found, **changed})
        write_json(self._path, self.summary.model_dump(by_alias=True))
        self._written = time.monotonic()

    def write_now_and_then(self, store: EpisodeStore) -> None:
        """Write the summary, at most once a second: its cost must not grow with the speed of the
        run."""
        if time.monotonic() - self._written > 1.0:
            self.write(store)

    def end(self, store: EpisodeStore, status: Status, reason: str, message: str = "") -> None:
        """Write the last word on this run of the cell, and its results. Raises OSError."""
        try:
            _write_results(store, self._cell)
        finally:
            try:
                self.write(store, status=status, exit_reason=reason, message=message, ended=now())
            except OSError as error:
                if not is_full(error):
                    raise
                # There is no room for a second file, and those who wait must be told.
                overwrite(self._path, dump_json(self.summary.model_dump(by_alias=True)))
