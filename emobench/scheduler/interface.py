"""Where jobs run: one interface for Slurm and for this machine, and what it says of a job."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError, SubmissionRefused
from emobench.core.job_id import get_queue_id
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.site_check import Check, skipped
from emobench.store.jobs import JobRecord, OnJob, SchedulerName

CANCELLED = "CANCELLED"
HELD = frozenset({"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
QUEUED = HELD | {"PENDING", "CONFIGURING", "REQUEUED", "PREEMPTED"}
STARTED = frozenset(
    {
        *("RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "COMPLETING", "STAGE_OUT"),
        "REQUEUE_FED",
    }
)


class Phase(StrEnum):
    """What a job's state means for those who wait for it."""

    QUEUED = "queued"
    """Not started, or to be started again: it is no failure that it is silent."""
    STARTED = "started"
    ENDED = "ended"
    UNKNOWN = "unknown"
    """Nobody could be asked; it may be alive."""


@dataclass(frozen=True)
class JobState:
    """One job, or one task of an array."""

    state: str
    """Slurm's own word (PENDING, RUNNING, COMPLETED, FAILED, ...), or GONE where the queue no
    longer has the job and no accounting says how it ended, or UNKNOWN where nobody could be asked.
    """
    reason: str = ""
    node: str = ""
    exit_code: str = ""
    """As sacct prints it: code:signal."""

    @property
    def phase(self) -> Phase:
        if self.state == "UNKNOWN":
            return Phase.UNKNOWN
        if self.state in QUEUED:
            return Phase.QUEUED
        return Phase.STARTED if self.state in STARTED else Phase.ENDED

    @property
    def live(self) -> bool:
        """Whether the job may still do something."""
        return self.phase is not Phase.ENDED

    @property
    def is_held(self) -> bool:
        """Whether it does not start before somebody releases it."""
        # JobHeldUser, launch failed requeued held, job requeued in held state, JobHoldMaxRequeue
        held = "held" in self.reason.lower() or self.reason.startswith("JobHold")
        return self.state in HELD or (self.phase is Phase.QUEUED and held)

    def __str__(self) -> str:
        parts = [self.reason, f"exit code {self.exit_code}" if self.exit_code else ""]
        parts.append(f"on {self.node}" if self.node else "")
        details = ", ".join(part for part in parts if part)
        return f"{self.state} ({details})" if details else self.state


def is_live(state: JobState | None) -> bool:
    """Return whether the queue has the job, waiting or running, or cannot be asked about it."""
    return state is not None and state.live


@dataclass(frozen=True)
class OwnJob:
    """The job that this process is; times in seconds since the epoch."""

    started: float | None = None
    end: float | None = None
    """None: no end is set."""
    preempted: bool = False
    """It has been told to make way, and `end` is when it will be killed."""

    @property
    def limit_s(self) -> float | None:
        """Seconds from its start to its end."""
        return None if self.end is None or self.started is None else self.end - self.started


@dataclass(frozen=True)
class Accounted:
    """One run of a job or of a task; a requeued job has a row for each of its runs."""

    job_id: str
    submitted: float | None
    """Seconds since the epoch, as all times; accounting has whole seconds."""
    started: float | None
    ended: float | None
    gres: Mapping[str, int]
    """Count by GRES, e.g. gpu and gpu:h100; empty where the site does not account for them."""


@dataclass(frozen=True)
class Accounts:
    """What accounting said: rows by job id, or why it could not be asked."""

    rows: Mapping[str, list[Accounted]] = field(default_factory=dict)
    problem: str = ""


class Scheduler(ABC):
    """Submits a run's jobs, and answers for them. Methods that take records get its own only."""

    name: ClassVar[SchedulerName]
    queue: ClassVar[str]
    """Who is asked for the states of jobs."""
    queue_check_s: ClassVar[float]
    """Seconds between two questions of those who watch."""
    tells_tasks_apart: ClassVar[bool] = True
    """Whether an array's tasks have states of their own."""
    cleans_up: ClassVar[bool] = True
    """Whether a job of its own ends the servers of a run that did not leave."""

    @abstractmethod
    def submit(
        self,
        plan: Plan,
        run_dir: RunDir,
        missing: Mapping[str, Sequence[int]],
        servers: Sequence[str],
        on_job: OnJob = lambda job: None,
    ) -> list[JobRecord]:
        """Submit `servers`, and the cells `missing` by block, from the scripts on disk.

        jobs.json is complete after each job. Raises SubmissionRefused; what is left then is
        recorded, and no server of this call runs alone.
        """

    def submit_cleanup(
        self, plan: Plan, run_dir: RunDir, on_job: OnJob, warn: Callable[[str], None]
    ) -> list[JobRecord]:
        """Submit the job that ends servers which did not leave, where the scheduler starts one."""
        return []

    def submit_successors(
        self, run_dir: RunDir, taking_over: Mapping[str, str], after: str = ""
    ) -> list[JobRecord]:
        """Submit the jobs that are to take over from jobs of servers: job id by instance. Two of
        them start together. None starts before the job `after` has. They are not recorded. Raises
        SubmissionRefused."""
        raise SubmissionRefused(f"{self.name} jobs are not submitted again by a job")

    def get_whole_id(self, job: JobRecord) -> str:
        """Return the queue's id of the job with which this one ends."""
        return get_queue_id(job.job_id)

    def starts_together(self, run_dir: RunDir, instance: str, partner: JobRecord) -> bool:
        """Return whether a server and the queued job of another can become jobs that start
        together."""
        return False

    def replace_queued(self, run_dir: RunDir, job: JobRecord, instead: Sequence[JobRecord]) -> bool:
        """Take back a server's job that has not started, in whose place its arrays wait for the
        servers `instead`; return whether it will not start."""
        return False

    def find_jobs(self, plan: Plan, run_dir: RunDir) -> list[JobRecord]:
        """Look for the run directory's jobs that may still do something, oldest first: those on
        record and those that nobody recorded, as one that was submitted by hand, or by a command
        that was killed before it could. Raises EmobenchError where nobody answers."""
        return []

    @abstractmethod
    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        """Return the state by job id; those of an array by task where its tasks are told apart."""

    def find_live(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        """Return the records whose job, or a task of it, may still do something. Asked often."""
        states = self.ask_states(jobs)
        return [job for job in jobs if is_live(states.get(job.job_id))]

    @abstractmethod
    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        """End jobs, and return once they are gone. Raises EmobenchError where one stays."""

    def is_of(self, job: JobRecord, run_dir: RunDir) -> bool:
        """Return whether nothing says that a job on record is another run directory's, or none at
        all."""
        return True

    def withdraw(self, job: JobRecord) -> None:
        """Have a job end, as far as that works, without waiting for it."""
        with suppress(EmobenchError):
            self.cancel([job])

    @abstractmethod
    def set_throttle(self, arrays: Sequence[JobRecord], throttle: int) -> None:
        """Have at most `throttle` cells run at a time from now on. Raises EmobenchError."""

    def stop_cells(
        self, jobs: Sequence[JobRecord], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """End arrays so that each cell keeps its finished episodes. Raises EmobenchError."""
        self.cancel(jobs)

    def ask_accounts(self, job_ids: Sequence[str]) -> Accounts:
        """Return what accounting says of jobs and their tasks."""
        return Accounts()

    def find_max_array_size(self, profile: ClusterProfile) -> int | None:
        """Return the number of indices that an array may have; None where there is no limit.

        Raises InvalidInput where nobody can be asked.
        """
        return None

    def check_site(self, profile: ClusterProfile) -> Iterator[Check]:
        """Check what the site says of the scheduler, and whether the profile's jobs fit it;
        `doctor` shows it. Submits nothing."""
        yield skipped("slurm", "this profile uses none")

    def check_plan(
        self,
        plan: Plan,
        servers: Sequence[str] = (),
        missing: Mapping[str, Sequence[int]] | None = None,
        own: Collection[str] = (),
    ) -> Iterator[Check]:
        """Check whether what the plan's jobs need at once fits what the site allows, and whether
        the queue takes the `servers` and the cells `missing` by block. `own` are the ids of the
        run's jobs. Asks for a bounded time; says nothing of what nobody answers for."""
        yield from ()

    @abstractmethod
    def read_own_job_id(self) -> str:
        """Return the id of the job that this process is in."""

    def compute_own_job_age_s(self) -> float:
        """Return seconds since this job began, as far as is known: its set-up lines may take
        long."""
        return 0.0

    def hands_over(self) -> bool:
        """Return whether this process is in a job that may have a time limit."""
        return False

    def ask_own_job(self) -> OwnJob:
        """Ask for this job's times. Asked anew each time: an administrator may move its end."""
        return OwnJob()

    def requeue(self) -> bool:
        """Have this job started again from its beginning; return whether it will be."""
        return False

    def requeue_if_preempted(self) -> bool:
        """Have this job started again where it was told to make way; return whether it will be."""
        return False
