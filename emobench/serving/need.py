"""Whether a server is still needed: the answer is in the run directory and in the queue."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from emobench.files import read_json
from emobench.plan import USER_SERVER, Plan, assistant_server, load_plan
from emobench.rundir import RunDir
from emobench.slurm.jobs import read_jobs
from emobench.slurm.queue import any_live

QUEUE_CHECK_S = 30.0
SOON_S = 5.0
NO_ARRAY_S = 900.0
"""A server whose arrays were never submitted (the submission was killed) leaves after this."""


class Need:
    """Answers `why_leave` for one server of a run."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        server: str,
        job_id: str,
        started: str,
        queue_check_s: float = QUEUE_CHECK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._job_id = job_id
        self._started = datetime.fromisoformat(started)
        self._queue_check_s = queue_check_s
        self._clock = clock
        self._begun = self._checked = clock()
        self._server = server
        self._plan_stamp = self._stamp()
        self._take(plan)

    def _take(self, plan: Plan) -> None:
        blocks = [
            block
            for block in plan.blocks
            if self._server in (USER_SERVER, assistant_server(block.assistant))
        ]
        self._blocks = {block.name for block in blocks}
        self._cells = [number for block in blocks for number in block.cells]
        self._expected = {number: len(plan.cells[number].tasks) for number in self._cells}

    def why_leave(self) -> str:
        """Why nothing needs the server any more; empty while something does."""
        if (stamp := self._stamp()) != self._plan_stamp:
            # Cells were added while this server runs: their array counts on it.
            self._plan_stamp = stamp
            self._take(load_plan(self._run_dir))
        while self._cells and self._done(self._cells[-1]):
            self._cells.pop()
        if not self._cells:
            return "all cells are done"
        since = self._clock() - self._checked
        if since < min(SOON_S, self._queue_check_s):
            return ""
        # The queue is asked rarely, but soon once it looks as if nobody were left.
        if since < self._queue_check_s and not self._all_ended():
            return ""
        self._checked = self._clock()
        return self._by_queue()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._run_dir.plan.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _by_queue(self) -> str:
        jobs = read_jobs(self._run_dir)
        own = next((i for i, job in enumerate(jobs) if job["job_id"] == self._job_id), None)
        arrays = [
            (position, job)
            for position, job in enumerate(jobs)
            if job["kind"] == "array" and job["name"] in self._blocks
        ]
        if arrays and any_live([job for _, job in arrays]):
            return ""
        # Arrays of an earlier submission say nothing: the one this server is for may be on its way.
        if own is not None and any(position > own for position, _ in arrays):
            return "its arrays have left the queue"
        if own is None and self._all_ended():
            return "all cells have ended"
        if own is not None and self._clock() - self._begun > NO_ARRAY_S:
            return f"no array was submitted within {NO_ARRAY_S / 60:g} minutes"
        return ""

    def _all_ended(self) -> bool:
        return all(self._ended(number) for number in reversed(self._cells))

    def _done(self, number: int) -> bool:
        summary = read_json(self._run_dir.cell(number).summary)
        # A resumed sweep may have added tasks to a cell that was done.
        return (
            isinstance(summary, dict)
            and summary.get("status") == "done"
            and summary.get("expected", 0) >= self._expected[number]
        )

    def _ended(self, number: int) -> bool:
        """Whether the cell was tried with this server and is not running."""
        summary = read_json(self._run_dir.cell(number).summary)
        if not isinstance(summary, dict) or summary.get("status") == "running":
            return False
        try:
            return datetime.fromisoformat(summary["ended"]) >= self._started
        except (KeyError, TypeError, ValueError):
            return False
