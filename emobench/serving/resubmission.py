"""A server is submitted again by those who need it: by its own job, which gives its cards back
while it waits for others, or by a cell that finds it gone."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from emobench.core.command_lock import hold
from emobench.core.errors import EmobenchError, SubmissionRefused
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import CANCELLED, JobState, Phase, Scheduler, is_live
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.partners import Queued
from emobench.store.endpoints import ServerLocation
from emobench.store.events import read_events
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs, remove_jobs

MAX_NEVER_READY = 3
"""Jobs of a server in a row that were not ready before they ended: another would not be either."""
PATIENCE_S = 5.0
"""How long it waits for a command that submits or cancels jobs of the run."""
_ENDED_BY_SITE = frozenset({"TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED"})
"""How a job ends that neither failed nor was cancelled: without its own doing."""


def count_never_ready(run_dir: RunDir, instance: str) -> int:
    """Return how many jobs of the instance in a row have not been ready, the newest included."""
    tried = 0
    jobs = read_events(run_dir).values()
    for events in sorted(jobs, key=lambda each: each[0].time, reverse=True):
        if events[0].server == instance:
            if any(event.event == "ready" for event in events):
                break
            tried += 1
    return tried


def go_back_into_queue(
    run_dir: RunDir, instance: str, job_id: str, queued: Queued, scheduler: Scheduler
) -> list[JobRecord]:
    """Submit this server's next job, which starts together with what it waits for, or after it;
    empty where that is not there to be waited for any more. The jobs are recorded.

    A partner that waits by itself is taken along: both are submitted as one job where the site
    starts servers together, and the partner's own job is taken back. Raises EmobenchError where a
    command has the run, or Slurm refuses.
    """
    with hold_submission(run_dir):
        jobs = read_jobs(run_dir)
        done = [job for job in jobs if job.takes_over == job_id and job.name == instance]
        if done := scheduler.find_live(done):
            return done  # its partner has taken it along
        partner = queued.server
        replaced = {instance: job_id}
        if partner is not None:
            if scheduler.ask_states([partner])[partner.job_id].phase is not Phase.QUEUED:
                return []
            if scheduler.starts_together(run_dir, instance, partner):
                replaced[partner.name] = partner.job_id
        submitted: list[JobRecord] = []
        if len(replaced) > 1:
            with suppress(SubmissionRefused):  # a site may refuse such jobs
                submitted = scheduler.submit_successors(run_dir, replaced)
        if not submitted:
            replaced = {instance: job_id}
            submitted = scheduler.submit_successors(run_dir, replaced, queued.job_id)
        add_jobs(run_dir, submitted)
        along = partner if len(replaced) > 1 else None
        if along is not None and not scheduler.replace_queued(run_dir, along, submitted):
            # It has started after all.
            scheduler.withdraw(submitted[0])
            remove_jobs(run_dir, [job.job_id for job in submitted])
            return []
        return submitted


def bring_back(location: ServerLocation, schedulers: Schedulers = SCHEDULERS) -> str:
    """Submit a server again that is gone, where nobody meant it to be, and return in words what was
    done; empty where it is not, or cannot be.

    Gone without meaning it are one whose node failed or whose time was up, and one that left since
    it was idle. Not one that failed, that was cancelled, or that another run owns.
    """
    if location.lease:
        return ""
    run_dir, instance = location.run_dir, location.instance
    with suppress(EmobenchError, OSError), hold_submission(run_dir):
        jobs = read_jobs(run_dir)
        own = [job for job in jobs if job.kind is JobKind.SERVER and job.name == instance]
        if not own:
            return ""
        states = schedulers.ask_states(own)
        if any(is_live(states.get(job.job_id)) for job in own):
            return "its next job is in the queue"
        last = own[-1]
        if not _may_return(location, last, states.get(last.job_id)):
            return ""
        if count_never_ready(run_dir, instance) > MAX_NEVER_READY:
            return ""
        scheduler = schedulers.find_for(load_plan(run_dir).profile)
        submitted = scheduler.submit_successors(run_dir, {instance: last.job_id})
        add_jobs(run_dir, submitted)
        return f"it is submitted again: job {submitted[0].job_id}"
    return ""


def may_come_back(location: ServerLocation, schedulers: Schedulers = SCHEDULERS) -> bool:
    """Return whether a job of a server is alive, or may be submitted again. Asks the queue."""
    if location.lease:
        return True
    jobs = [
        job
        for job in read_jobs(location.run_dir)
        if job.kind is JobKind.SERVER and job.name == location.instance
    ]
    states = schedulers.ask_states(jobs)
    if any(is_live(states.get(job.job_id)) for job in jobs):
        return True
    return bool(jobs) and _may_return(location, jobs[-1], states.get(jobs[-1].job_id))


def _may_return(location: ServerLocation, last: JobRecord, state: JobState | None) -> bool:
    endpoint = location.read()
    left = endpoint is not None and endpoint.job_id == last.job_id and endpoint.state == "left"
    if last.cancelled or (left and endpoint is not None and endpoint.final):
        return False
    if state is None or state.phase is not Phase.ENDED:
        return False
    if left and endpoint is not None and state.state == CANCELLED:
        # The part of a heterogeneous job that left is cancelled by the job's own script.
        return not endpoint.reason.startswith("received ")
    return state.state in _ENDED_BY_SITE or (left and state.state in ("COMPLETED", "GONE"))


def hold_submission(run_dir: RunDir) -> AbstractContextManager[None]:
    """Be the only one that submits jobs of the run, commands included. Raises Held where another
    stays so."""
    return hold(run_dir.submission_lock, "submits or cancels jobs of this run", PATIENCE_S)
