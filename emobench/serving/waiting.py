"""Waiting for a server that is on its way, and knowing when none will come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from emobench.core.errors import ServersGone
from emobench.core.output import say
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.llm.client import Identity, Unreachable, verify_server
from emobench.scheduler.interface import JobState, Phase, is_live
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.resubmission import bring_back
from emobench.store.endpoints import Endpoint, ServerLocation, locate_server
from emobench.store.jobs import JobKind, JobRecord, read_jobs

JOB_CHECK_S = 30.0
RERUN = "; run the same `emobench sweep` command again: it starts the servers and what is missing"


@dataclass(frozen=True)
class Found:
    """A server that can be used."""

    instance: str
    """What it stands for in the run that asked."""
    location: ServerLocation
    endpoint: Endpoint


def find_server(run_dir: RunDir, instance: str) -> tuple[Found | None, str]:
    """Return the instance's server, or why it cannot be used now. Asks the server."""
    location = locate_server(run_dir, instance)
    endpoint = location.read()
    problem = find_problem(location, endpoint)
    if endpoint is None or problem:
        return None, problem
    return Found(instance, location, endpoint), ""


def wait_for_endpoint(
    run_dir: RunDir,
    *instances: str,
    deadline_s: float,
    poll_s: float = 1.0,
    interrupted: Callable[[], bool] = lambda: False,
    schedulers: Schedulers = SCHEDULERS,
) -> Found:
    """Wait for the first of these instances that is ready and has proved to be what it says.

    They are replicas, in order of preference. Raises ServersGone when none has been ready for
    `deadline_s` seconds in which no job of them was queued, as soon as all of them have failed or
    left for good, or when `interrupted()` is true.
    """
    begun = time.monotonic()
    queue = _Queue(schedulers)
    next_look = begun + JOB_CHECK_S
    what = " or ".join(instances)
    said_left = False
    while True:
        problems, gone = [], []
        for instance in instances:
            found, problem = find_server(run_dir, instance)
            if found is not None:
                return found
            problems.append(problem)
            # A lease may have been taken, or given up, meanwhile.
            queue.locations[instance] = location = locate_server(run_dir, instance)
            endpoint = location.read()
            if endpoint is not None and endpoint.state == "left" and not said_left:
                said_left, next_look = True, time.monotonic()
            if endpoint is not None and queue.is_gone(location, endpoint):
                gone.append(_describe_end(endpoint))
        problem = "; ".join(problems)
        if len(gone) == len(instances):
            left = any(" has left: " in words for words in gone)
            raise ServersGone("; ".join(gone) + (RERUN if left else ""))
        if interrupted():
            raise ServersGone(f"interrupted while waiting for server {what}: {problem}")
        late = time.monotonic() - begun >= deadline_s
        if late or time.monotonic() >= next_look:
            next_look = time.monotonic() + JOB_CHECK_S
            if ended := queue.describe_end():
                words = [bring_back(each, schedulers) for each in queue.locations.values()]
                if not any(words):
                    raise ServersGone(ended + RERUN)
                say(f"emobench: {ended}; {'; '.join(filter(None, words))}")
                begun, late = time.monotonic(), False
            if queue.waits():
                begun, late = time.monotonic(), False
        if late:
            raise ServersGone(
                f"server {what} was not ready within {deadline_s:g} s: {problem}; "
                f"{queue.format_hint()}"
            )
        time.sleep(max(0.0, min(poll_s, deadline_s - (time.monotonic() - begun))))


def find_problem(location: ServerLocation, endpoint: Endpoint | None) -> str:
    """Return why the server at `location` cannot be used now; empty if it can. Asks the server."""
    if endpoint is None:
        return f"there is no {location.file}"
    if endpoint.state != "ready":
        return f"its state is '{endpoint.state}' {endpoint.reason}".rstrip()
    if endpoint.is_stale:
        return f"its last sign of life was {endpoint.compute_age_s():.0f} s ago"
    identity = Identity(endpoint.server, endpoint.incarnation)
    try:
        verify_server(endpoint.url, endpoint.model, location.read_key(), identity)
    except Unreachable as error:
        return str(error)
    return ""


def _describe_end(endpoint: Endpoint) -> str:
    """Return how a server ended by its own word."""
    if endpoint.state == "failed":
        return f"server {endpoint.server} failed: {endpoint.reason}"
    return f"server {endpoint.server} has left: {endpoint.reason}"


class _Queue:
    """What the queue says of each server: of its newest job that lives, or else of its newest."""

    def __init__(self, schedulers: Schedulers) -> None:
        self._schedulers = schedulers
        self.locations: dict[str, ServerLocation] = {}
        """Where the servers of the instances are; a leased one's job is another run's."""
        self._states: Mapping[ServerLocation, tuple[str, JobState | None]] = {}
        self._asked = float("-inf")

    def is_gone(self, location: ServerLocation, endpoint: Endpoint) -> bool:
        """Return whether it ended for good, and no other job of it is alive: its successor may
        be."""
        if not endpoint.is_over:
            return False
        if time.monotonic() - self._asked >= JOB_CHECK_S or location not in self._states:
            self._ask()
        job_id, state = self._states[location]
        return job_id in ("", endpoint.job_id) or state is None or not state.live

    def describe_end(self) -> str:
        """Return how the last jobs of all servers ended; empty while one lives, or is not known
        of."""
        self._ask()
        words = []
        for location, (job_id, state) in self._states.items():
            if state is None or state.live:
                return ""
            endpoint = location.read()
            if endpoint is not None and endpoint.job_id == job_id and endpoint.state == "left":
                words.append(_describe_end(endpoint))
            else:
                words.append(f"server {location.instance} is gone: its job {job_id}: {state}")
        return "; ".join(words)

    def waits(self) -> bool:
        """Return whether a job of a server has not started yet, as asked last."""
        return any(
            state is not None and state.phase is Phase.QUEUED for _, state in self._states.values()
        )

    def format_hint(self) -> str:
        """Return where to look for what keeps the servers, as asked last."""
        if any(job_id for job_id, _ in self._states.values()):
            return "its log is named user_vllm_<job>.out or assistant_vllm_<job>.out"
        return "no job of it was submitted: `emobench sbatch RUN_DIR` prints the line that does"

    def _ask(self) -> None:
        locations = set(self.locations.values())
        self._states = {each: _find_newest_job(each, self._schedulers) for each in locations}
        self._asked = time.monotonic()


def _find_newest_job(
    location: ServerLocation, schedulers: Schedulers
) -> tuple[str, JobState | None]:
    def of_server(jobs: Iterable[JobRecord]) -> list[JobRecord]:
        return [job for job in jobs if job.kind is JobKind.SERVER and job.name == location.instance]

    jobs = of_server(read_jobs(location.run_dir))
    states = schedulers.ask_states(jobs)
    if not any(state.live for state in states.values()) and location.run_dir.plan.exists():
        # One may have been submitted by hand.
        jobs = of_server(schedulers.find_all_jobs(load_plan(location.run_dir), location.run_dir))
        states = schedulers.ask_states(jobs)
    newest: tuple[str, JobState | None] = ("", None)
    for job in jobs:
        state = states.get(job.job_id)
        before = newest[1]
        # A successor that failed says nothing of the server that it was to take over from.
        if before is None or not before.live or is_live(state):
            newest = job.job_id, state
    return newest
