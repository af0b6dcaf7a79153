"""Jobs of a run that stay in the queue: until somebody releases them, or while a limit is in the
way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emobench.core.job_id import get_array_id
from emobench.scheduler.interface import JobState, Phase
from emobench.scheduler.wait_reasons import explain_wait
from emobench.store.jobs import JobRecord


@dataclass(frozen=True)
class HeldJob:
    """A job, or an array of which tasks are held."""

    name: str
    job_id: str
    reason: str
    """The queue's word: JobHeldUser, JobHeldAdmin, launch failed requeued held."""
    command: str
    """What releases it."""

    def __str__(self) -> str:
        # A narrow window cuts the end off.
        who = ", run by an administrator," if self.reason == "JobHeldAdmin" else ""
        return (
            f"job {self.job_id} is held: {self.command}{who} lets it start "
            f"({self.name}: {self.reason})"
        )


def find_held(jobs: Sequence[JobRecord], states: Mapping[str, JobState]) -> list[HeldJob]:
    """Return the held ones of `jobs`, in their order."""
    reasons = {
        get_array_id(job_id): state.reason or state.state
        for job_id, state in states.items()
        if state.is_held
    }
    return [
        HeldJob(job.name, job.job_id, reasons[job.job_id], f"scontrol release {job.job_id}")
        for job in jobs
        if job.job_id in reasons
    ]


@dataclass(frozen=True)
class BlockedJob:
    """A job, or an array of which tasks wait for what is no busy cluster's matter."""

    name: str
    job_id: str
    reason: str
    """The queue's word: QOSMaxJobsPerUserLimit, PartitionTimeLimit."""
    meaning: str

    def __str__(self) -> str:
        return f"{self.name} (job {self.job_id}) waits: {self.reason}: {self.meaning}"


def find_blocked(jobs: Sequence[JobRecord], states: Mapping[str, JobState]) -> list[BlockedJob]:
    """Return those of `jobs` whose reason to wait is a limit or a mistake, in their order."""
    reasons = {
        get_array_id(job_id): state.reason
        for job_id, state in states.items()
        if state.phase is Phase.QUEUED and explain_wait(state.reason)
    }
    return [
        BlockedJob(job.name, job.job_id, reasons[job.job_id], explain_wait(reasons[job.job_id]))
        for job in jobs
        if job.job_id in reasons
    ]
