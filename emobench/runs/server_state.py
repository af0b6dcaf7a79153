"""One server of a run as `emobench status` and `watch` show it: its own, or one that it leases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from emobench.core.files import has_room
from emobench.core.plan import Plan, list_instances
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import CANCELLED, JobState, Phase, is_live
from emobench.scheduler.wait_reasons import explain_wait
from emobench.store.endpoints import Endpoint, ServerLocation, describe_privacy, locate_server
from emobench.store.jobs import JobKind, JobRecord


class ServerState(StrEnum):
    """How a server stands by its endpoint file and the queue."""

    NONE = "none"
    """It has no job."""
    PENDING = "pending"
    """Its job waits in the queue."""
    RUNNING = "running"
    """Its job runs; its endpoint file is for its owner to read."""
    STARTING = "starting"
    READY = "ready"
    SILENT = "silent"
    """Without a heartbeat, though it said that it is there."""
    GONE = "gone"
    """Its job has ended, and it did not say why."""
    FAILED = "failed"
    LEFT = "left"
    """In order, or cancelled; or its lease has ended."""

    @property
    def is_broken(self) -> bool:
        """Whether it ended, or hangs, without having been told to."""
        return self in (ServerState.FAILED, ServerState.GONE, ServerState.SILENT)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self in (ServerState.LEFT, ServerState.GONE, ServerState.FAILED, ServerState.NONE)


@dataclass(frozen=True)
class ServerStatus:
    """What the endpoint file and the queue say of one instance."""

    name: str
    state: ServerState
    reason: str
    job_id: str | None
    node: str
    url: str
    model: str
    incarnation: str
    heartbeat: str
    cause: str
    """Kind of the cause where the engine failed."""
    warnings: tuple[str, ...]
    kept_until: str
    """ISO 8601, UTC, while nothing needs a server that is ready."""
    leased_from: str = ""
    """The run directory whose server it is; empty: this run's own."""
    limit: int | None = None
    """Conversations that it takes at a time, while it is ready and says so."""
    in_use: int | None = None
    """Conversations that are under way there."""


def read_server(
    plan: Plan,
    run_dir: RunDir,
    name: str,
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
) -> ServerStatus:
    """Return how an instance stands by its endpoint file and the queue; by the queue alone where
    this user may not read endpoints/."""
    hidden = describe_privacy(run_dir)
    location = ServerLocation(run_dir, name) if hidden else locate_server(run_dir, name)
    endpoint = None if hidden else location.read()
    if location.lease:
        state, reason = _read_leased_state(location, endpoint)
        job_id, owner = endpoint.job_id if endpoint else None, str(location.run_dir.path)
        return _build_status(plan, name, endpoint, state, reason, job_id, leased_from=owner)
    written_by = endpoint.job_id if endpoint else ""
    own = [job for job in jobs if job.kind is JobKind.SERVER and job.name == name]
    serving = [job for job in own if job.job_id == written_by and is_live(states.get(job.job_id))]
    job = next(reversed(serving or own), None)
    queued = states.get(job.job_id) if job else None
    if job and job.job_id != written_by:
        endpoint = None  # the file is of an earlier job
    state = ServerState.STARTING if job else ServerState.NONE
    reason = ""
    if hidden and job is not None:
        over = queued is None or queued.state in ("COMPLETED", "GONE")
        state = ServerState.LEFT if over else ServerState.RUNNING
    if endpoint is not None:
        state, reason = ServerState(endpoint.state), endpoint.reason
    if job is not None and not is_live(queued):
        if state in (ServerState.READY, ServerState.STARTING, ServerState.RUNNING):
            state = ServerState.GONE
            reason = f"job ended: {queued.state}" if queued else "job is gone from the queue"
            if queued is not None and queued.state == CANCELLED:
                state, reason = ServerState.LEFT, "cancelled"
    elif queued is not None and queued.phase is Phase.QUEUED:
        state = ServerState.PENDING
        reason = ": ".join(filter(None, (queued.reason, explain_wait(queued.reason))))
    elif endpoint is not None and state is ServerState.READY and not endpoint.is_ready:
        state, reason = ServerState.SILENT, f"no heartbeat for {endpoint.compute_age_s():.0f} s"
    elif endpoint is not None and state is ServerState.READY and endpoint.kept_until:
        reason = f"nothing needs it; kept until {endpoint.kept_until} (keep_servers_min)"
    for successor in own:
        its = states.get(successor.job_id)
        if job is not None and successor.takes_over == job.job_id and is_live(its):
            takes_over = f"job {successor.job_id} is to take over ({its})"
            reason = f"{reason}\n{takes_over}" if reason else takes_over
    if state in (ServerState.GONE, ServerState.SILENT) and not has_room(run_dir.path):
        reason = f"{run_dir.path}: the disk is FULL, so the server cannot say how it is ({reason})"
    node = queued.node if queued else ""
    return _build_status(plan, name, endpoint, state, reason, job.job_id if job else None, node)


def _read_leased_state(
    location: ServerLocation, endpoint: Endpoint | None
) -> tuple[ServerState, str]:
    """Return the state and reason of a server whose job is another sweep's."""
    if endpoint is None:
        return ServerState.GONE, ""
    if endpoint.state in ("ready", "starting") and not endpoint.is_serving:
        return ServerState.SILENT, f"no heartbeat for {endpoint.compute_age_s():.0f} s"
    if endpoint.state == "ready" and location.lease not in endpoint.leases:
        return ServerState.LEFT, "the lease has ended"
    return ServerState(endpoint.state), endpoint.reason


def _build_status(
    plan: Plan,
    name: str,
    endpoint: Endpoint | None,
    state: ServerState,
    reason: str,
    job_id: str | None,
    node: str = "",
    leased_from: str = "",
) -> ServerStatus:
    ready = endpoint if state is ServerState.READY else None
    says = ready if ready is not None and ready.limit is not None else None
    return ServerStatus(
        name=name,
        state=state,
        reason=reason,
        job_id=job_id,
        node=endpoint.host if endpoint and endpoint.host else node,
        url=endpoint.url if endpoint else "",
        model=list_instances(plan.sweep)[name].model,
        incarnation=endpoint.incarnation if endpoint else "",
        heartbeat=endpoint.heartbeat if endpoint else "",
        cause=endpoint.cause if endpoint else "",
        warnings=endpoint.warnings if endpoint else (),
        kept_until=ready.kept_until if ready else "",
        leased_from=leased_from,
        limit=says.limit if says else None,
        in_use=says.in_use if says else None,
    )
