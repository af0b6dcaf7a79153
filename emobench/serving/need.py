"""Whether a server is still needed: the answer is in the run directory and in the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from emobench.core.plan import USER_SERVER, Plan, assistant_server, load_plan, server_of
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.store.jobs import JobKind, JobRecord, read_jobs
from emobench.store.summaries import read_summary

QUEUE_CHECK_S = 10.0
"""With the engine's time to end this keeps a server's release within 30 s of the last cell."""
SOON_S = 5.0
NO_ARRAY_S = 900.0
"""A server whose arrays were never submitted (the submission was killed) leaves after this."""
SUBMISSION_S = 150.0
"""By then the arrays that a server was submitted for are in jobs.json, unless sbatch hangs."""
ON_THEIR_WAY = "its arrays are being submitted"


def blocks_of_server(plan: Plan, instance: str) -> set[str]:
    """Names of the blocks whose cells use the server."""
    server = server_of(instance)
    return {
        block.name
        for block in plan.blocks
        if server in (USER_SERVER, assistant_server(block.assistant))
    }


def who_needs(
    plan: Plan,
    jobs: Sequence[JobRecord],
    server: JobRecord,
    age_s: float,
    schedulers: Schedulers = SCHEDULERS,
) -> str:
    """Who still needs the job of a server, in words; empty if nobody does. Asks the queue.

    `jobs` are those of jobs.json, `server` one of them, `age_s` the seconds since it started or
    was submitted. This is the one question for the server itself and for the clean-up job.
    """
    blocks = blocks_of_server(plan, server.name)
    arrays = [job for job in jobs if job.kind is JobKind.ARRAY and job.name in blocks]
    if live := schedulers.live(arrays):
        return f"array {live[0]}"
    # Arrays of an earlier submission say nothing: the one this server is for may be on its way.
    # Only a successor is for those that were there before.
    position = [job.job_id for job in jobs].index(server.job_id)
    came = bool(server.takes_over) or any(job in arrays for job in jobs[position + 1 :])
    return "" if came or age_s > NO_ARRAY_S else ON_THEIR_WAY


class Need:
    """Answers `why_leave` for one server of a run, without ever waiting for the queue."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        server: str,
        job_id: str,
        started: str,
        queue_check_s: float = QUEUE_CHECK_S,
    ) -> None:
        self._run_dir = run_dir
        self._job_id = job_id
        self._started = datetime.fromisoformat(started)
        self._begun = self._looked = time.monotonic()
        self._soon_s = min(SOON_S, queue_check_s)
        self._server = server
        self._had_array = False
        self._plan_stamp = self._stamp()
        self._queue = Poller("the queue", self._by_queue, queue_check_s)
        self._take(plan)

    def _take(self, plan: Plan) -> None:
        self.plan = plan
        """The newest: a sweep that is submitted again may add cells and change limits."""
        blocks = blocks_of_server(plan, self._server)
        self._cells = [n for block in plan.blocks if block.name in blocks for n in block.cells]

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
        if time.monotonic() - self._looked >= self._soon_s:
            self._looked = time.monotonic()
            if self._all_ended():
                # It looks as if nobody were left.
                self._queue.refresh_soon()
        return self._queue.poll() or ""

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._run_dir.plan.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def _by_queue(self) -> str:
        jobs = read_jobs(self._run_dir)
        own = next((job for job in jobs if job.job_id == self._job_id), None)
        age_s = time.monotonic() - self._begun
        if own is None:
            blocks = blocks_of_server(self.plan, self._server)
            arrays = [job for job in jobs if job.kind is JobKind.ARRAY and job.name in blocks]
            # Submitted by hand, or not yet on record.
            over = self._all_ended() and not SCHEDULERS.live(arrays)
            return "all cells have ended" if over else ""
        who = who_needs(self.plan, jobs, own, age_s)
        if not who and age_s > NO_ARRAY_S and not self._had_array:
            return f"no array was in the queue within {NO_ARRAY_S / 60:g} minutes"
        if not who:
            return "its arrays have left the queue"
        if who != ON_THEIR_WAY:
            self._had_array = True
        elif self._had_array and age_s > SUBMISSION_S:
            # Started again for arrays that were there already.
            return "its arrays have left the queue"
        return ""

    def _all_ended(self) -> bool:
        # A copy: the queue's thread asks as well.
        return all(self._ended(number) for number in self._cells[::-1])

    def _done(self, number: int) -> bool:
        summary = read_summary(self._run_dir, number)
        return summary is not None and summary.is_done(self.plan.cells[number])

    def _ended(self, number: int) -> bool:
        """Whether the cell was tried with this server and is not running."""
        summary = read_summary(self._run_dir, number)
        if summary is None or summary.status == "running" or summary.ended is None:
            return False
        try:
            return datetime.fromisoformat(summary.ended) >= self._started
        except (TypeError, ValueError):
            return False
