"""The servers without which this one has no work, and what of its work is still in the queue.

A server holds its cards from the moment that Slurm starts it, and a conversation needs two servers.
One that would only wait for the queue goes back into it (`serving.resubmission`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from emobench.core.plan import (
    USER_SERVER,
    Plan,
    get_server_name,
    list_replicas,
    list_servers,
    name_assistant_server,
)
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import JobState, Phase
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.demand import RemainingCells, list_arrays
from emobench.store.endpoints import locate_server
from emobench.store.jobs import JobKind, JobRecord, read_jobs


@dataclass(frozen=True)
class Queued:
    """A job in the queue that a server without work waits for."""

    job_id: str
    """Of a server's job, or of one task of an array."""
    what: str
    """In words."""
    server: JobRecord | None = None
    """The job's record where it is a server's."""


@dataclass(frozen=True)
class Partnership:
    """How the work of a server stands that has no request now."""

    loading: bool = False
    """Whether a server that it works with has started and does not answer yet."""
    queued: Queued | None = None
    """What has to leave the queue before there is work."""


class _Standing(IntEnum):
    """How far a partner has come; of several the most advanced one counts."""

    ABSENT = 0
    """No job of it is alive: nothing says that it will come."""
    QUEUED = 1
    LOADING = 2
    SERVING = 3


def list_partners(plan: Plan, instance: str) -> list[str]:
    """Return the servers that a conversation may need beside this one, hosted endpoints included:
    for the user's server all assistants', for an assistant's the user's."""
    if get_server_name(instance) != USER_SERVER:
        return [USER_SERVER]
    return list(dict.fromkeys(name_assistant_server(block.assistant) for block in plan.blocks))


def look_at_partners(
    plan: Plan, run_dir: RunDir, instance: str, job_id: str, schedulers: Schedulers = SCHEDULERS
) -> Partnership:
    """Return what the job `job_id` of a server waits for. Asks the queue.

    A server that somebody submitted by hand waits for whatever that person has in mind: nothing is
    said of it. Raises EmobenchError where a record cannot be read.
    """
    jobs = read_jobs(run_dir)
    if not any(job.job_id == job_id for job in jobs):
        return Partnership()
    arrays = [job for job in list_arrays(plan, jobs, instance) if job.kind is JobKind.ARRAY]
    partners = [
        name
        for name in list_partners(plan, instance)
        if RemainingCells(plan, run_dir, name).has_any_left()
    ]
    names = {replica for name in partners for replica in _list_replicas(plan, name)}
    servers = [job for job in jobs if job.kind is JobKind.SERVER and job.name in names]
    states = schedulers.ask_states([*servers, *arrays])
    standing = _Standing.ABSENT
    first: JobRecord | None = None
    for name in partners:
        its, job = _find_standing(plan, run_dir, name, servers, states)
        standing = max(standing, its)
        if first is None and its is _Standing.QUEUED:
            first = job
    if standing is _Standing.LOADING:
        return Partnership(loading=True)
    if standing is _Standing.QUEUED and first is not None:
        return Partnership(queued=Queued(first.job_id, f"server {first}", first))
    if standing is _Standing.SERVING and (task := _find_first_task(arrays, states)):
        return Partnership(queued=Queued(task, f"the cell of task {task}"))
    return Partnership()


def _list_replicas(plan: Plan, server: str) -> list[str]:
    model = list_servers(plan.sweep).get(server)
    return [] if model is None else list_replicas(server, model)


def _find_standing(
    plan: Plan,
    run_dir: RunDir,
    server: str,
    jobs: Iterable[JobRecord],
    states: dict[str, JobState],
) -> tuple[_Standing, JobRecord | None]:
    """Return how far a partner's replicas have come, and the first job of it that is queued."""
    replicas = _list_replicas(plan, server)
    if not replicas:
        return _Standing.SERVING, None  # a hosted endpoint
    best, queued = _Standing.ABSENT, None
    over: set[str] = set()
    for instance in replicas:
        location = locate_server(run_dir, instance)
        endpoint = location.read()
        if location.lease or (endpoint is not None and endpoint.is_ready):
            return _Standing.SERVING, None
        if endpoint is not None and endpoint.state in ("left", "failed"):
            over.add(endpoint.job_id)
    for job in jobs:
        state = states.get(job.job_id)
        if job.name not in replicas or state is None:
            continue
        if state.phase in (Phase.STARTED, Phase.UNKNOWN):
            # A part of a heterogeneous job runs, for Slurm, as long as the other one does.
            best = best if job.job_id in over else _Standing.LOADING
        elif state.phase is Phase.QUEUED:
            best, queued = max(best, _Standing.QUEUED), queued or job
    return best, queued


def _find_first_task(arrays: Sequence[JobRecord], states: dict[str, JobState]) -> str:
    """Return the first task of these arrays that is queued; empty where one runs, or none is."""
    ids = {job.job_id for job in arrays}
    tasks = {key: state for key, state in states.items() if key.partition("_")[0] in ids}
    if any(state.phase in (Phase.STARTED, Phase.UNKNOWN) for state in tasks.values()):
        return ""
    queued = [key for key, state in tasks.items() if state.phase is Phase.QUEUED and "_" in key]
    return min(queued, key=lambda key: tuple(map(int, key.split("_"))), default="")
