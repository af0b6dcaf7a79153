"""What a run's jobs used: from accounting where it answers, else from the run's own files."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from emobench.core.plan import (
    USER_SERVER,
    Plan,
    get_placement,
    get_server_name,
    list_needed_servers,
    list_roles,
    list_servers,
)
from emobench.core.run_dir import RunDir
from emobench.core.times import to_seconds
from emobench.scheduler.cost import Conversation, Cost, JobRun, Mark, compute_cost
from emobench.scheduler.interface import Accounts, JobState, is_live
from emobench.scheduler.render import list_pairs, shares_cards
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.store.endpoints import describe_privacy, read_endpoint
from emobench.store.events import Event, read_events
from emobench.store.jobs import JobKind, JobRecord, list_task_ids
from emobench.store.summaries import CellSummary, read_summary

SummaryOf = Callable[[int], CellSummary | None]


def ask_accounts(
    plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord], schedulers: Schedulers = SCHEDULERS
) -> Accounts:
    """Ask accounting about the run's jobs, servers that were submitted by hand included."""
    if not jobs and plan.profile.one_machine:
        return Accounts()  # its record was lost; the numbers in its events are of processes
    known = {job.job_id for job in jobs}
    by_hand = {job for job in read_events(run_dir) if job.isdigit() and job not in known}
    return schedulers.ask_accounts(jobs, by_hand)


def compute_run_cost(
    plan: Plan,
    run_dir: RunDir,
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
    accounts: Accounts,
    *,
    summary_of: SummaryOf | None = None,
    conversations: Sequence[Conversation] = (),
    now: float | None = None,
) -> Cost:
    """Return the cost of the run so far; `conversations` are needed for the share of each cell."""
    events = read_events(run_dir)
    reader = _Reader(plan, run_dir, states, accounts, events, summary_of)
    runs = [run for job in jobs for run in reader.list_runs(job)]
    known = {job.job_id for job in jobs}
    for job_id in sorted(set(events) - known):
        # A server that somebody submitted by hand.
        runs += reader.list_runs(JobRecord(JobKind.SERVER, events[job_id][0].server, job_id))
    marks = {
        job_id: [Mark(event.time, event.event, event.busy_s, event.request_s) for event in each]
        for job_id, each in events.items()
    }
    moment = time.time() if now is None else now
    problem = accounts.problem or describe_privacy(run_dir)
    started = {get_server_name(run.name) for run in runs if run.kind is JobKind.SERVER}
    partners = find_partners(plan, started)
    return compute_cost(runs, marks, moment, conversations, problem, partners)


def find_partners(plan: Plan, started: Collection[str]) -> dict[str, list[str]]:
    """Return the servers of which each one needs one beside it; none where one is always there: it
    exists already, or another sweep's is used (`started` has those that this run started)."""
    user, *assistants = list_roles(plan.sweep)
    return {
        user: assistants if set(assistants) <= set(started) else [],
        **{name: [user] if user in started else [] for name in assistants},
    }


def count_accelerators(plan: Plan, server: str) -> int:
    """Return how many cards a server's job holds; none where the profile asks for none, and for the
    user's server none where it shares the assistant's."""
    model = list_servers(plan.sweep).get(get_server_name(server))
    if model is None:
        return 0
    profile = plan.profile
    if profile.one_machine:
        return 0 if profile.accelerator == "none" else model.accelerators
    user = get_server_name(server) == USER_SERVER
    if user and any(shares_cards(plan, pair) for pair in list_pairs(plan)[:1]):
        return 0
    resources = profile.user_server if user else profile.assistant_server
    return 0 if resources.gres is None else model.accelerators


def list_servers_used(plan: Plan, assistant: str) -> tuple[str, ...]:
    """Return the servers of this sweep that a conversation with `assistant` needs."""
    started = list_servers(plan.sweep)
    return tuple(name for name in list_needed_servers(assistant) if name in started)


class _Reader:
    """Finds the runs of each job in what is known."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        states: Mapping[str, JobState],
        accounts: Accounts,
        events: Mapping[str, list[Event]],
        summary_of: SummaryOf | None,
    ) -> None:
        self._plan, self._run_dir = plan, run_dir
        self._states, self._accounts, self._events = states, accounts, events
        self._summary = summary_of or partial(read_summary, run_dir)

    def list_runs(self, job: JobRecord) -> list[JobRun]:
        if job.kind is JobKind.SERVER:
            found = self._read_accounted(job, job.job_id, None)
            return found or [self._read_recorded_server(job)]
        runs: list[JobRun] = []
        for cell, task in list_task_ids(self._plan, job).items():
            runs += self._read_accounted(job, task, cell) or self._read_recorded_task(
                job, task, cell
            )
        return runs

    def _read_accounted(self, job: JobRecord, job_id: str, cell: int | None) -> list[JobRun]:
        server = job.kind is JobKind.SERVER
        planned = count_accelerators(self._plan, job.name) if server else 0
        return [
            JobRun(
                kind=JobKind.SERVER if server else JobKind.ARRAY,
                name=job.name,
                job_id=job_id,
                submitted=row.submitted,
                started=row.started,
                ended=row.ended,
                accelerators=self._count_cards(job.name, row.gres, planned) if server else 0,
                source="sacct",
                cell=cell,
            )
            for row in self._accounts.rows.get(job_id, ())
        ]

    def _count_cards(self, server: str, gres: Mapping[str, int], planned: int) -> int:
        """Return cards as accounted, or as planned where the site does not account for this
        GRES."""
        profile = self._plan.profile
        if get_placement(self._plan) == "together":
            return planned  # the job's cards are those of both servers
        user = get_server_name(server) == USER_SERVER
        resources = profile.user_server if user else profile.assistant_server
        name = (resources.gres or "").split(":")[0]
        typed = [count for key, count in gres.items() if key.startswith(f"{name}:")]
        return gres.get(name, sum(typed) if typed else planned) if name else planned

    def _read_recorded_server(self, job: JobRecord) -> JobRun:
        job_id = job.job_id
        events = self._events.get(job_id, [])
        ended = None
        if not self._is_live(job_id) or (events and events[-1].event in ("left", "failed")):
            hidden = describe_privacy(self._run_dir)
            endpoint = None if hidden else read_endpoint(self._run_dir, job.name)
            signs = [event.time for event in events]
            if endpoint is not None and endpoint.job_id == job_id:
                signs.append(to_seconds(endpoint.heartbeat) or 0.0)
            ended = max(signs, default=job.submitted_at)
        return JobRun(
            kind=JobKind.SERVER,
            name=job.name,
            job_id=job_id,
            submitted=job.submitted_at,
            started=events[0].time if events else None,
            ended=ended,
            accelerators=count_accelerators(self._plan, job.name),
            source="records",
        )

    def _read_recorded_task(self, job: JobRecord, task: str, cell: int) -> list[JobRun]:
        summary = self._summary(cell) or CellSummary()
        live = self._is_live(task) or self._is_live(job.job_id)
        started = to_seconds(summary.started) if summary.job_id == task else None
        if started is None and not live:
            return []  # nothing is recorded of it
        ended = to_seconds(summary.ended) if started is not None else None
        if ended is None and not live:
            ended = started
        submitted = job.submitted_at
        return [
            JobRun(JobKind.ARRAY, job.name, task, submitted, started, ended, 0, "records", cell)
        ]

    def _is_live(self, job_id: str) -> bool:
        return is_live(self._states.get(job_id))
