"""Waiting for a server that is on its way, and knowing when none will come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from emobench.errors import ServersGone
from emobench.rundir import RunDir
from emobench.serving.endpoints import STALE_S, Endpoint, api_key, read_endpoint, what_is_wrong
from emobench.slurm.queue import JobState

JOB_CHECK_S = 30.0
QUEUED = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "PREEMPTED"})
"""Slurm has not started (or not started again) such a job: it is no failure that it is silent."""


def wait_for_endpoint(
    run_dir: RunDir,
    *instances: str,
    deadline_s: float,
    poll_s: float = 1.0,
    interrupted: Callable[[], bool] = lambda: False,
) -> Endpoint:
    """The first of these instances that is ready and has proved to be what it says.

    They are replicas, in order of preference. Raises ServersGone when none has been ready for
    `deadline_s` seconds in which no job of them was queued, as soon as all of them have failed or
    left for good, or when `interrupted()` is true.
    """
    begun = time.monotonic()
    queue = _Queue(run_dir, instances)
    next_look = begun + JOB_CHECK_S
    what = " or ".join(instances)
    while True:
        problems, gone = [], []
        for instance in instances:
            endpoint = read_endpoint(run_dir, instance)
            problem = problem_of(run_dir, instance, endpoint)
            if endpoint is not None and not problem:
                return endpoint
            problems.append(problem)
            if endpoint is not None and (end := _end(endpoint)) and queue.is_last(endpoint):
                gone.append(end)
        problem = "; ".join(problems)
        if len(gone) == len(instances):
            raise ServersGone("; ".join(gone))
        if interrupted():
            raise ServersGone(f"interrupted while waiting for server {what}: {problem}")
        late = time.monotonic() - begun >= deadline_s
        if late or time.monotonic() >= next_look:
            next_look = time.monotonic() + JOB_CHECK_S
            if ended := queue.ended():
                raise ServersGone(ended)
            if queue.waits():
                begun, late = time.monotonic(), False
        if late:
            raise ServersGone(
                f"server {what} was not ready within {deadline_s:g} s: {problem}; "
                "its log is named user_vllm_<job>.out or assistant_vllm_<job>.out"
            )
        time.sleep(max(0.0, min(poll_s, deadline_s - (time.monotonic() - begun))))


def problem_of(run_dir: RunDir, instance: str, endpoint: Endpoint | None) -> str:
    """Why the instance cannot be used now; empty if it can. Asks the server."""
    if endpoint is None:
        return f"there is no {run_dir.endpoint(instance)}"
    if endpoint.state != "ready":
        return f"its state is '{endpoint.state}' {endpoint.reason}".rstrip()
    if endpoint.age_s() > STALE_S:
        return f"its last sign of life was {endpoint.age_s():.0f} s ago"
    return what_is_wrong(endpoint, api_key(run_dir))


def _end(endpoint: Endpoint) -> str:
    """How the server ended by its own word; empty where it may come back."""
    if endpoint.state == "failed":
        return f"server {endpoint.server} failed: {endpoint.reason}"
    if endpoint.state == "left" and endpoint.final:
        return (
            f"server {endpoint.server} has left: {endpoint.reason}; run the same `emobench sweep` "
            "command again: it starts the servers and what is missing"
        )
    return ""


class _Queue:
    """What the queue says of each instance: of its newest job that lives, or else of its newest."""

    def __init__(self, run_dir: RunDir, instances: Sequence[str]) -> None:
        self._run_dir, self._instances = run_dir, instances
        self._states: dict[str, tuple[str, JobState | None]] = {}
        self._asked = float("-inf")

    def is_last(self, endpoint: Endpoint) -> bool:
        """Whether no other job of the instance is alive: its successor may be."""
        if time.monotonic() - self._asked >= JOB_CHECK_S:
            self._ask()
        job_id, state = self._states.get(endpoint.server, ("", None))
        return job_id in ("", endpoint.job_id) or state is None or not state.live

    def ended(self) -> str:
        """How the last jobs of all instances ended; empty while one lives, or is not known of."""
        self._ask()
        words = []
        for instance in self._instances:
            job_id, state = self._states.get(instance, ("", None))
            if state is None or state.live:
                return ""
            words.append(f"server {instance} is gone: its job {job_id}: {state}")
        return "; ".join(words)

    def waits(self) -> bool:
        """Whether a job of an instance has not started yet, as asked last."""
        return any(
            state is not None and state.state in QUEUED for _, state in self._states.values()
        )

    def _ask(self) -> None:
        from emobench.slurm.jobs import read_jobs
        from emobench.slurm.queue import job_states

        jobs = [job for job in read_jobs(self._run_dir) if job["kind"] == "server"]
        jobs = [job for job in jobs if job["name"] in self._instances]
        states = job_states(jobs) if jobs else {}
        self._asked = time.monotonic()
        self._states = {}
        for job in jobs:
            state = states.get(str(job["job_id"]))
            _, before = self._states.get(job["name"], ("", None))
            # A successor that failed says nothing of the server that it was to take over from.
            if before is None or not before.live or (state is not None and state.live):
                self._states[job["name"]] = (str(job["job_id"]), state)
