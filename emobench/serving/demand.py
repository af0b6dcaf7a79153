"""Who still needs a server: a sweep's own cells, and those of sweeps that lease it.

There is one question, `describe_need`, whoever asks: the server's supervisor, the clean-up job, or
a submission. A lease counts from the moment that the server's endpoint file names its id: who
writes that file and who decides to leave is one thread of the supervisor, so what it has named, it
takes into account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from emobench.core.errors import EmobenchError, InvalidInput
from emobench.core.files import read_stamp
from emobench.core.plan import Plan, list_blocks, load_plan
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.core.times import to_seconds
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.store.jobs import JobKind, JobRecord, read_jobs
from emobench.store.leases import Lease, read_leases, remove_lease
from emobench.store.summaries import find_current_summary, read_summary

QUEUE_CHECK_S = 10.0
"""With the engine's time to end this keeps a server's release within 30 s of the last cell."""
ENDED_CHECK_S = 5.0
NO_ARRAY_S = 900.0
"""A server whose arrays were never submitted (the submission was killed) leaves after this."""
SUBMISSION_S = 150.0
"""By then the arrays that a server was submitted for are in jobs.json, unless sbatch hangs."""
NEW_PLAN_S = 60.0
"""By then a plan that was written on one node is seen on every other."""
ON_THEIR_WAY = "its arrays are being submitted"


class RemainingCells:
    """The cells that use a server and are not done."""

    def __init__(self, plan: Plan, run_dir: RunDir, instance: str) -> None:
        self._run_dir = run_dir
        blocks = list_blocks(plan, instance)
        self._cells = [
            plan.cells[number]
            for block in plan.blocks
            if block.name in blocks
            for number in block.cells
        ]
        self._left = len(self._cells)
        """Those behind it are done. Two threads may ask: either's number is right."""

    def has_any_left(self) -> bool:
        """Return whether a cell is not done. A cell that was found done is not looked at again."""
        left = self._left
        while left and self._is_done(self._cells[left - 1]):
            left -= 1
        self._left = left
        return left > 0

    def have_all_ended_since(self, moment: float) -> bool:
        """Return whether every cell was tried after `moment` (seconds since the epoch) and is not
        running."""
        return all(
            (summary := read_summary(self._run_dir, cell.number)) is not None
            and summary.status != "running"
            and (to_seconds(summary.ended) or 0.0) >= moment
            for cell in self._cells[: self._left][::-1]
        )

    def _is_done(self, cell: Cell) -> bool:
        summary = find_current_summary(self._run_dir, cell)
        return summary is not None and summary.is_done(cell)


def list_arrays(plan: Plan, jobs: Sequence[JobRecord], instance: str) -> list[JobRecord]:
    """Return the arrays whose cells use a server, and single cells submitted by hand."""
    blocks = list_blocks(plan, instance)
    kinds = (JobKind.ARRAY, JobKind.CELL)
    return [job for job in jobs if job.kind in kinds and not blocks.isdisjoint(job.block_names)]


def describe_need(
    plan: Plan,
    jobs: Sequence[JobRecord],
    instance: str,
    cells: RemainingCells,
    is_for: Callable[[JobRecord], bool],
    age_s: float,
    schedulers: Schedulers = SCHEDULERS,
) -> str:
    """Return who in a sweep needs a server, in words; empty if nobody does. Asks the queue.

    `jobs` are the sweep's, `instance` is what the server stands for there, and `cells` those that
    use it. Arrays of an earlier submission say nothing: the one that the server is for may be on
    its way. So `is_for` tells the arrays (and the server's own record, if it is a successor) that
    came after it was asked for, and `age_s` how many seconds ago that was.
    """
    if not cells.has_any_left():
        return ""
    arrays = list_arrays(plan, jobs, instance)
    if live := schedulers.find_live(arrays):
        return f"{live[0].kind} {live[0]}"
    return "" if any(map(is_for, arrays)) or age_s > NO_ARRAY_S else ON_THEIR_WAY


def describe_server_need(
    plan: Plan,
    run_dir: RunDir,
    jobs: Sequence[JobRecord],
    server: JobRecord,
    age_s: float,
    cells: RemainingCells | None = None,
    schedulers: Schedulers = SCHEDULERS,
) -> str:
    """Return who in its own sweep needs the job of a server, one of `jobs`."""
    after = jobs[[job.job_id for job in jobs].index(server.job_id) + 1 :]
    cells = cells or RemainingCells(plan, run_dir, server.name)

    def is_for(array: JobRecord) -> bool:
        # Only a successor is for the arrays that were there before.
        return bool(server.takes_over) or array in after

    return describe_need(plan, jobs, server.name, cells, is_for, age_s, schedulers)


def describe_lease_need(lease: Lease, schedulers: Schedulers = SCHEDULERS) -> str:
    """Return who in the leasing sweep needs the server."""
    run_dir = RunDir(Path(lease.run_dir))
    of = f"of {run_dir.path.name}"
    try:
        plan = load_plan(run_dir)
    except InvalidInput:
        return f"the sweep {of}, just submitted" if lease.compute_age_s() < NEW_PLAN_S else ""

    def is_for(array: JobRecord) -> bool:
        return (array.submitted_at or 0.0) >= lease.created_at

    cells = RemainingCells(plan, run_dir, lease.instance)
    jobs = read_jobs(run_dir)
    who = describe_need(
        plan, jobs, lease.instance, cells, is_for, lease.compute_age_s(), schedulers
    )
    return f"{who}: those {of}" if who == ON_THEIR_WAY else f"{who} {of}" if who else ""


def describe_lessees(run_dir: RunDir, instance: str, schedulers: Schedulers = SCHEDULERS) -> str:
    """Return who in other sweeps needs a server of this run; empty if nobody does."""
    leases = read_leases(run_dir, instance)
    return next(filter(None, (describe_lease_need(lease, schedulers) for lease in leases)), "")


class OwnDemand:
    """Tells a server's supervisor when its own sweep no longer needs it, and never makes it wait
    for the queue."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        instance: str,
        job_id: str,
        started: str,
        queue_check_s: float = QUEUE_CHECK_S,
        schedulers: Schedulers = SCHEDULERS,
    ) -> None:
        self._run_dir, self._instance, self._job_id = run_dir, instance, job_id
        self._schedulers = schedulers
        self._started = to_seconds(started) or 0.0
        self._begun = self._looked = time.monotonic()
        self._ended_check_s = min(ENDED_CHECK_S, queue_check_s)
        self._had_array = False
        self._plan_stamp = read_stamp(run_dir.plan)
        self._queue = Poller("the queue", self._ask_queue, queue_check_s)
        self._set_plan(plan)

    def _set_plan(self, plan: Plan) -> None:
        self.plan = plan
        """The newest: a sweep that is submitted again may add cells and change limits."""
        self._cells = RemainingCells(plan, self._run_dir, self._instance)

    def explain_leaving(self, patience_s: float = 0.0) -> str:
        """Return why nothing needs the server any more; empty while something does, or while the
        queue has not answered. Waits for that `patience_s` seconds at most."""
        if (present := read_stamp(self._run_dir.plan)) != self._plan_stamp:
            # Cells were added while this server runs: their array counts on it.
            self._plan_stamp = present
            with suppress(EmobenchError):  # one that is lost ends no server: as it was will do
                self._set_plan(load_plan(self._run_dir))
        if not self._cells.has_any_left():
            return "all cells are done"
        if time.monotonic() - self._looked >= self._ended_check_s:
            self._looked = time.monotonic()
            if self._cells.have_all_ended_since(self._started):
                # It looks as if nobody were left.
                self._queue.refresh_soon()
        return self._queue.poll(patience_s) or ""

    def _ask_queue(self) -> str:
        plan, cells, jobs = self.plan, self._cells, read_jobs(self._run_dir)
        own = next((job for job in jobs if job.job_id == self._job_id), None)
        age_s = time.monotonic() - self._begun
        if own is None:
            # Submitted by hand, or not yet on record.
            arrays = list_arrays(plan, jobs, self._instance)
            over = cells.have_all_ended_since(self._started) and not self._schedulers.find_live(
                arrays
            )
            return "all cells have ended" if over else ""
        who = describe_server_need(plan, self._run_dir, jobs, own, age_s, cells, self._schedulers)
        if not cells.has_any_left():
            return ""  # `explain_leaving` finds that itself
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


class LeaseDemand:
    """Tells a server's supervisor who needs it in other sweeps, and never makes it wait for the
    queue."""

    def __init__(self, run_dir: RunDir, instance: str, check_s: float = QUEUE_CHECK_S) -> None:
        self._run_dir, self._instance = run_dir, instance
        # A successor finds the leases of the server that it takes over from.
        self._held = read_leases(run_dir, instance)
        self._needed = Poller("the queue of leases", self._ask_queue, check_s)
        self._asked_for: frozenset[str] = frozenset()

    def refresh(self) -> bool:
        """Read the folder; whether there is a new lease."""
        before = set(self.ids)
        self._held = read_leases(self._run_dir, self._instance)
        return not before.issuperset(self.ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """Those that count, as last read: for the endpoint file."""
        return tuple(lease.id for lease in self._held)

    def explain_staying(self) -> str:
        """Return who needs the server in another sweep; empty if nobody does."""
        if not self._held:
            return ""
        who = self._needed.poll() or {}
        if not who.keys() >= set(self.ids) and self._asked_for != frozenset(self.ids):
            self._asked_for = frozenset(self.ids)
            self._needed.refresh_soon()
        # A lease of which nothing is known yet counts.
        words = (who.get(each.id, f"a new lease of {each.run_dir}") for each in self._held)
        return next(filter(None, words), "")

    def _ask_queue(self) -> dict[str, str]:
        who = {lease.id: describe_lease_need(lease) for lease in self._held}
        for lease_id, needs in who.items():
            if not needs:  # its sweep takes another one when it needs the server again
                remove_lease(self._run_dir, self._instance, lease_id)
        return who
