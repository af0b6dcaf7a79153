"""A scheduler whose jobs are in the states that a test says, for all that asks the interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from emobench.core.errors import SubmissionRefused
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import Accounted, Accounts, JobState, OwnJob, Phase, Scheduler
from emobench.scheduler.local import LocalScheduler
from emobench.scheduler.schedulers import Schedulers
from emobench.scheduler.slurm import SlurmScheduler
from emobench.store.jobs import JobKind, JobRecord, OnJob, add_jobs, make_record


class Killed(BaseException):
    """The command is dead: whatever it still asks of the scheduler does not happen."""


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
        self.accepted: list[JobRecord] = []
        """All that it was given, recorded or not."""
        self.killed_at: tuple[str, bool] = ("", False)
        """Name of the job at which the command is killed, and whether Slurm has it by then."""
        self._dead = False
        self.after: dict[str, str] = {}
        """By a successor's job id, the job that it waits for."""
        self.pairs = False
        """Whether two servers can start together."""
        self.throttles: dict[str, int] = {}
        """By array's job id, where it was changed."""

    def all(self) -> Schedulers:
        """This scheduler for all jobs but those of this machine."""
        return Schedulers(self, LocalScheduler())

    def get_whole_id(self, job: JobRecord) -> str:
        return SlurmScheduler().get_whole_id(job)

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
        earlier = [job for job in self.accepted if job.kind is JobKind.CLEANUP]
        submitted = self._submit(run_dir, JobKind.CLEANUP, "cleanup", (), on_job)
        self.cancel(earlier)
        return [submitted]

    def _submit(
        self, run_dir: RunDir, kind: JobKind, name: str, cells: tuple[int, ...], on_job: OnJob
    ) -> JobRecord:
        if name == self.refuses:
            raise SubmissionRefused(f"no {name} today")
        self._die_at(name, accepted=False)
        job = make_record(kind, name, str(next(self._ids)), f"{name}.sbatch", cells=cells)
        self.script[job.job_id] = "PENDING"
        self.accepted.append(job)
        self._die_at(name, accepted=True)
        add_jobs(run_dir, [job])
        on_job(job)
        return job

    def _die_at(self, name: str, accepted: bool) -> None:
        if self._dead or self.killed_at == (name, accepted):
            self._dead = True
            raise Killed

    def revive(self) -> None:
        """The next command has the same queue before it."""
        self._dead, self.killed_at = False, ("", False)

    def in_queue(self) -> list[str]:
        """Names of the live jobs, recorded or not."""
        return [job.name for job in self.accepted if self._state(job.job_id).live]

    def find_jobs(self, plan: Plan, run_dir: RunDir) -> list[JobRecord]:
        return [job for job in self.accepted if self._state(job.job_id).live]

    def set_throttle(self, arrays: Sequence[JobRecord], throttle: int) -> None:
        self.throttles |= {array.job_id: throttle for array in arrays}

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
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

    def ask_accounts(self, job_ids: Sequence[str]) -> Accounts:
        self.accounted.append([*job_ids])
        return Accounts({name: [Accounted(name, 0, 0, 60, {})] for name in job_ids})

    def submit_successors(
        self, run_dir: RunDir, taking_over: Mapping[str, str], after: str = ""
    ) -> list[JobRecord]:
        jobs = []
        for instance, job_id in taking_over.items():
            if instance == self.refuses:
                raise SubmissionRefused(f"no {instance} today")
            own = str(next(self._ids))
            self.script.setdefault(own, "PENDING")
            self.after[own] = after
            script = "s.sbatch"
            jobs.append(make_record(JobKind.SERVER, instance, own, script, takes_over=job_id))
        return jobs

    def starts_together(self, run_dir: RunDir, instance: str, partner: JobRecord) -> bool:
        return self.pairs

    def replace_queued(self, run_dir: RunDir, job: JobRecord, instead: Sequence[JobRecord]) -> bool:
        if self.ask_states([job])[job.job_id].phase is not Phase.QUEUED:
            return False
        self.cancel([job])
        return True

    def read_own_job_id(self) -> str:
        return "1"

    def hands_over(self) -> bool:
        return True

    def ask_own_job(self) -> OwnJob:
        return self.own
