"""Which scheduler a run's jobs are with: the profile's for new ones, each record's own for others.

A run directory may hold jobs of both: it can be submitted again under another profile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError
from emobench.core.job_id import get_array_id, get_queue_id
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import CANCELLED, Accounts, JobState, Scheduler
from emobench.scheduler.local import LocalScheduler
from emobench.scheduler.slurm import SlurmScheduler
from emobench.store.jobs import JobRecord, read_jobs


class Schedulers:
    """Asks each job's own scheduler."""

    def __init__(self, *schedulers: Scheduler) -> None:
        self._by_name = {scheduler.name: scheduler for scheduler in schedulers}

    def find_for(self, profile: ClusterProfile) -> Scheduler:
        """Return the one that jobs of this profile are submitted to."""
        return self._by_name[profile.scheduler]

    def find_owner(self, job: JobRecord) -> Scheduler:
        """Return the one that the job is with."""
        return self._by_name[job.scheduler]

    def _split(self, jobs: Sequence[JobRecord]) -> list[tuple[Scheduler, list[JobRecord]]]:
        split = [
            (scheduler, [job for job in jobs if job.scheduler == name])
            for name, scheduler in self._by_name.items()
        ]
        return [(scheduler, own) for scheduler, own in split if own]

    def find_unrecorded(
        self, plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord]
    ) -> list[JobRecord]:
        """Return the run directory's jobs that may still do something and are not among `jobs`,
        its records; asked are the schedulers of those and of the plan's profile. Raises
        EmobenchError where one does not answer."""
        asked = {plan.profile.scheduler, *(job.scheduler for job in jobs)}
        known = {job.handle for job in jobs}
        return [
            job
            for name in sorted(asked)
            for job in self._by_name[name].find_jobs(plan, run_dir)
            if job.handle not in known
        ]

    def find_all_jobs(self, plan: Plan, run_dir: RunDir) -> list[JobRecord]:
        """Return the jobs on record, and those that the queue has besides: submitted by hand.

        Where the queue does not answer they are those on record. Raises InvalidInput where that
        cannot be read.
        """
        jobs = read_jobs(run_dir)
        with suppress(EmobenchError):
            jobs = [*jobs, *self.find_unrecorded(plan, run_dir, jobs)]
        return jobs

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        """Return the state by job id; the tasks of Slurm's arrays stand as '<job id>_<index>'."""
        states: dict[str, JobState] = {}
        for scheduler, own in self._split(jobs):
            states |= scheduler.ask_states(own)
        cancelled = {job.job_id for job in jobs if job.cancelled}
        for job_id, state in states.items():
            if state.state == "GONE" and get_array_id(job_id) in cancelled:
                states[job_id] = replace(state, state=CANCELLED)
        return states

    def find_live(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        """Return the records whose job, or a task of it, is in the queue, or cannot be asked
        about."""
        alive = {job for scheduler, own in self._split(jobs) for job in scheduler.find_live(own)}
        return [job for job in jobs if job in alive]

    def find_free(self, jobs: Iterable[JobRecord], kept: Collection[JobRecord]) -> list[JobRecord]:
        """Return those of `jobs` that can be ended while the `kept` ones go on."""
        held = {self.find_owner(job).get_whole_id(job) for job in kept}
        held |= {get_queue_id(job.job_id) for job in kept}
        return [job for job in jobs if get_queue_id(job.job_id) not in held]

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        """End jobs, and return once they are gone. Raises EmobenchError where one stays."""
        for scheduler, own in self._split(jobs):
            scheduler.cancel(own)

    def is_of(self, job: JobRecord, run_dir: RunDir) -> bool:
        """Return whether nothing says that a job on record is another run directory's, or none at
        all: a run directory that somebody sent may name any."""
        return self.find_owner(job).is_of(job, run_dir)

    def set_throttle(self, arrays: Sequence[JobRecord], throttle: int) -> None:
        """Have at most `throttle` cells of each array run at a time from now on; on this machine,
        of all together. Raises EmobenchError where the scheduler says no."""
        for scheduler, own in self._split(arrays):
            scheduler.set_throttle(own, throttle)

    def stop_cells(self, jobs: Sequence[JobRecord]) -> None:
        """End arrays so that each cell keeps its finished episodes. Raises EmobenchError."""
        for scheduler, own in self._split(jobs):
            scheduler.stop_cells(own)

    def ask_accounts(self, jobs: Sequence[JobRecord], by_hand: Iterable[str] = ()) -> Accounts:
        """Return what accounting says of these jobs, and of the ids `by_hand`, which nobody
        recorded: of a run that has jobs those can only be with the schedulers that these are
        with."""
        found = Accounts()
        for name, scheduler in self._by_name.items():
            ids = {job.job_id for job in jobs if job.scheduler == name}
            if asked := ids.union(by_hand) if ids or not jobs else ids:
                said = scheduler.ask_accounts(sorted(asked))
                found = Accounts({**found.rows, **said.rows}, found.problem or said.problem)
        return found


SCHEDULERS = Schedulers(SlurmScheduler(), LocalScheduler())


def find_scheduler(profile: ClusterProfile) -> Scheduler:
    """Return the scheduler that jobs of this profile are submitted to."""
    return SCHEDULERS.find_for(profile)
