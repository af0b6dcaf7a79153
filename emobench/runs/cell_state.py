"""How a cell of a run stands: what its summary and the queue say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from emobench.core.job_id import get_array_id
from emobench.core.plan import Plan
from emobench.core.sweep import Cell
from emobench.scheduler.interface import CANCELLED, JobState, Phase, is_live
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.store.jobs import JobKind, JobRecord, list_task_ids
from emobench.store.summaries import EPISODES_MISSING, CellSummary


class CellState(StrEnum):
    """How a cell stands by its summary and the queue."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"


def find_state(job: str, states: Mapping[str, JobState]) -> JobState | None:
    """Return the queue's word on a job or a task. Where nothing could be asked, or accounting is
    silent about what was cancelled, it is on the array as a whole, which must not be taken for a
    task that is gone."""
    own = states.get(job)
    whole = states.get(get_array_id(job))
    of_all = whole is not None and (whole.phase is Phase.UNKNOWN or whole.state == CANCELLED)
    return whole if own is None and of_all else own


def find_cell_jobs(plan: Plan, jobs: Sequence[JobRecord]) -> dict[int, str]:
    """Return the newest job id of each cell, as the queue names it: '123_4' for an array task."""
    ids: dict[int, str] = {}
    for job in jobs:
        if job.kind is JobKind.ARRAY:
            tasks = list_task_ids(plan, job) if SCHEDULERS.find_owner(job).tells_tasks_apart else {}
            ids.update({cell: tasks.get(cell, job.job_id) for cell in job.cells})
    return ids


def find_job_of_cell(
    number: int,
    jobs: Mapping[int, str],
    summary: CellSummary | None,
    states: Mapping[str, JobState],
) -> str | None:
    """Return the job that a cell is with: the newest of `find_cell_jobs`, unless one that was
    submitted by the cell's values runs it, or ran it last and there is no other."""
    own = summary.job_id if summary is not None else None
    state = find_state(own, states) if own else None
    return own if is_live(state) else jobs.get(number, own if state is not None else None)


def derive_cell_state(
    cell: Cell, summary: CellSummary | None, job: str | None, states: Mapping[str, JobState]
) -> tuple[CellState, str]:
    """Return the state of one cell, and why it has failed or waits."""
    status = summary.status if summary else None
    failed = summary is not None and summary.has_failed and not summary.is_paused
    if summary is not None and summary.is_done(cell):
        return CellState.DONE, ""
    state = None if job is None else find_state(job, states)
    waits = summary is not None and (summary.is_paused or summary.exit_reason == EPISODES_MISSING)
    if waits and not is_live(state):
        return CellState.WAITING, _describe_reason(summary)
    if job is None:
        if failed:
            return CellState.FAILED, _describe_reason(summary)
        # Begun by hand, or never submitted.
        return (
            (CellState.RUNNING, "") if status == "running" else (CellState.WAITING, "not submitted")
        )
    if is_live(state):
        assert state is not None
        if state.phase is Phase.QUEUED:
            return CellState.WAITING, state.reason
        if failed and "_" not in job:
            return CellState.FAILED, _describe_reason(summary)  # one local job runs many cells
        return (CellState.RUNNING, "") if status == "running" else (CellState.WAITING, "starting")
    if state is not None and state.state == CANCELLED and not _has_failed_in(summary, job):
        return CellState.CANCELLED, ""
    if failed:
        return CellState.FAILED, _describe_reason(summary)
    if state is None:
        return CellState.FAILED, "its job is gone from the queue and left no word; see its log"
    text = state.state if state.state != "COMPLETED" else "its job ended without a result"
    details = [part for part in (state.reason, _describe_exit(state)) if part and part != "None"]
    return CellState.FAILED, f"{text} ({', '.join(details)})" if details else text


def _has_failed_in(summary: CellSummary | None, job: str) -> bool:
    """Return whether the cell's run in this job failed, and not because it was told to stop."""
    if summary is None or not summary.has_failed or summary.exit_reason == "interrupted":
        return False
    return get_array_id(summary.job_id or "") == get_array_id(job)


def _describe_reason(summary: CellSummary | None) -> str:
    return " ".join((summary.message or summary.exit_reason).split()) if summary else ""


def _describe_exit(state: JobState) -> str:
    code = state.exit_code
    return f"exit code {code}" if code and code != "0:0" else ""
