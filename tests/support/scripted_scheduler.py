"""A scheduler whose jobs are in the states that a test says, for all that asks the interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from emobench.core.errors import SubmissionRefused
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import Accounted, Accounts, JobState, OwnJob, Scheduler
from emobench.scheduler.local import LocalScheduler
from emobench.scheduler.schedulers import Schedulers
from emobench.store.jobs import JobKind, JobRecord, OnJob, add_jobs, new_record


class ScriptedScheduler(Scheduler):
    """Stands where Slurm does: its records have no process. An array is in one state."""

    name = "slurm"
    queue = "the script"
    queue_check_s = 0.0

    def __init__(self, **script: str | Sequence[str]) -> None:
        """`script`: by job id (with a letter before it) a state, with a reason
        ('PENDING Priority') or without, or one for each question."""
        self.script = {key.lstrip("j"): value for key, value in script.items()}
        self.asked: list[list[str]] = []
        """Job ids of each question."""
        self.refuses: str = ""
        """Name of the job that is refused."""
        self.accounted: list[list[str]] = []
        """Job ids of each question to accounting."""
        self.own = OwnJob()
        """This process's job, whose id is 1."""
        self._ids = count(100)

    def all(self) -> Schedulers:
        """This scheduler for all jobs but those of this machine."""
        return Schedulers(self, LocalScheduler())

    def submit(
        self,
        plan: Plan,
        run_dir: RunDir,
        missing: Mapping[str, Sequence[int]],
        servers: Sequence[str],
        on_job: OnJob = lambda job: None,
    ) -> list[JobRecord]:
        arrays = [(name, tuple(cells)) for name, cells in missing.items() if cells]
        submitted = [self._submit(run_dir, JobKind.SERVER, name, (), on_job) for name in servers]
        for name, cells in arrays:
            submitted.append(self._submit(run_dir, JobKind.ARRAY, name, cells, on_job))
        return submitted

    def submit_cleanup(
        self, plan: Plan, run_dir: RunDir, on_job: OnJob, warn: Callable[[str], None]
    ) -> list[JobRecord]:
        return [self._submit(run_dir, JobKind.CLEANUP, "cleanup", (), on_job)]

    def _submit(
        self, run_dir: RunDir, kind: JobKind, name: str, cells: tuple[int, ...], on_job: OnJob
    ) -> JobRecord:
        if name == self.refuses:
            raise SubmissionRefused(f"no {name} today")
        job = new_record(kind, name, str(next(self._ids)), f"{name}.sbatch", cells=cells)
        self.script[job.job_id] = "PENDING"
        add_jobs(run_dir, [job])
        on_job(job)
        return job

    def states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        self.asked.append([job.job_id for job in jobs])
        return {
            name: state
            for job in jobs
            for state in (self._state(job.job_id),)
            for name in [job.job_id, *(f"{job.job_id}_{n}" for n in range(len(job.cells)))]
        }

    def _state(self, job_id: str) -> JobState:
        said = self.script.get(job_id, "GONE")
        if isinstance(said, str):
            return JobState(*said.split(" ", 1))
        now, *later = said
        self.script[job_id] = later or now
        return JobState(now)

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        for job in jobs:
            self.script[job.job_id] = "CANCELLED"

    def accounts(self, job_ids: Sequence[str]) -> Accounts:
        self.accounted.append([*job_ids])
        return Accounts({name: [Accounted(name, 0, 0, 60, {})] for name in job_ids})

    def submit_successor(self, run_dir: RunDir, instance: str, takes_over: str) -> JobRecord:
        if instance == self.refuses:
            raise SubmissionRefused(f"no {instance} today")
        job_id = str(next(self._ids))
        self.script.setdefault(job_id, "PENDING")
        return new_record(JobKind.SERVER, instance, job_id, "s.sbatch", takes_over=takes_over)

    def own_job_id(self) -> str:
        return "1"

    def hands_over(self) -> bool:
        return True

    def own_job(self) -> OwnJob:
        return self.own
