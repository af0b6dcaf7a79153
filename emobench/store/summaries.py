"""`variant_summary.json`: how a cell stands, for those who do not want to read its episodes."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emobench.core.files import read_json, write_json
from emobench.core.job_id import own_task_id
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import now
from emobench.store.episodes import EpisodeStore

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
    """completed, infra_errors, interrupted, endpoint_unavailable, probe_failed, error, running."""
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
    variant_sha256: str = ""
    started: str | None = None
    """When the last run of the cell began, ISO 8601, UTC."""
    ended: str | None = None
    """None while it runs, or where it was killed."""
    job_id: str | None = None
    """As squeue or the local job list has it: 123_4 for an array's task."""
    host: str = ""
    content: dict[str, Any] = Field(default_factory=dict)
    """What the cell's episodes depend on (`config.identity`)."""
    probe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """What the run that began the cell found of its endpoints, by role."""

    def is_done(self, cell: Cell) -> bool:
        """Whether every task has its result; a resumed sweep may have added tasks since."""
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


def read_summary(run_dir: RunDir, number: int) -> CellSummary | None:
    """The summary of cell `number`, or None where there is none that can be read."""
    return summary_in(run_dir.cell(number).summary)


def summary_in(file: Path) -> CellSummary | None:
    """The summary that a file holds, or None where there is none that can be read."""
    try:
        return CellSummary.model_validate(read_json(file))
    except ValidationError:
        return None


class SummaryWriter:
    """Rewrites a cell's summary as the cell goes on."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, cell: Cell, content: Mapping[str, object]
    ) -> None:
        self._written = 0.0
        self._path = run_dir.cell(cell.number).summary
        self._tasks = frozenset(cell.tasks)
        before = summary_in(self._path)
        self.summary = CellSummary(
            cell=cell.number,
            title=cell.title,
            variant=cell.variant,
            status="running",
            exit_reason="running",
            expected=len(cell.tasks),
            variant_sha256=plan.sweep.variants[cell.variant].sha256,
            started=now(),
            job_id=own_task_id(),
            host=socket.gethostname(),
            content=dict(content),
            # Only the run that begins a cell probes; those that complete it keep what it found.
            probe=before.probe if before else {},
        )

    def note_probe(self, roles: dict[str, dict[str, Any]]) -> None:
        """Keep what was found of the cell's endpoints."""
        self.summary = self.summary.model_copy(update={"probe": roles})

    def write(self, store: EpisodeStore, **changed: Any) -> None:
        """Write the summary with what the store holds now, and `changed` fields."""
        records = [record for task, record in store.records.items() if task in self._tasks]
        finished = [each for each in records if each.is_final]
        rewards = [each.reward for each in finished if each.reward is not None]
        self.summary = self.summary.model_copy(
            update={
                "finished": len(finished),
                "outcomes": dict(Counter(each.outcome.value for each in records)),
                "mean_reward": sum(rewards) / len(rewards) if rewards else None,
                "scored": len(rewards),
                "reward_sum": sum(rewards),
                **changed,
            }
        )
        write_json(self._path, self.summary.model_dump(by_alias=True))
        self._written = time.monotonic()

    def write_now_and_then(self, store: EpisodeStore) -> None:
        """At most once a second: its cost must not grow with the speed of the run."""
        if time.monotonic() - self._written > 1.0:
            self.write(store)

    def end(self, store: EpisodeStore, status: Status, reason: str, message: str = "") -> None:
        """The last word on this run of the cell."""
        self.write(store, status=status, exit_reason=reason, message=message, ended=now())
