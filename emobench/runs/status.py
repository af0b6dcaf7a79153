"""What a run directory and the queue say about a sweep: `emobench status`.

Everything is read: from the cells' summaries, the endpoint files, jobs.json, and the queue (squeue
and sacct, or the process table). Where the queue cannot be asked, the files still answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from emobench.core.job_id import array_of
from emobench.core.plan import Plan, instances_of, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.runs.server_state import server_state
from emobench.scheduler.interface import JobState, Phase, is_live
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.serving.budget import state_of_limit
from emobench.store.jobs import JobKind, JobRecord, read_jobs, tasks_of
from emobench.store.summaries import CellSummary, read_summary

STATES = ("done", "running", "failed", "waiting")


def state_of(job: str, states: Mapping[str, JobState]) -> JobState | None:
    """The queue's word on a job or a task. Where nothing could be asked, it is on the array as a
    whole, which must not be taken for a task that is gone."""
    own = states.get(job)
    whole = states.get(array_of(job))
    return whole if own is None and whole and whole.phase is Phase.UNKNOWN else own


def cell_jobs(plan: Plan, jobs: Sequence[JobRecord]) -> dict[int, str]:
    """The newest job id of each cell, as the queue names it: '123_4' for an array task."""
    ids: dict[int, str] = {}
    for job in jobs:
        if job.kind is JobKind.ARRAY:
            # The local runner's one job does not tell its tasks apart.
            tasks = tasks_of(plan, job) if job.scheduler == "slurm" else {}
            ids.update({cell: tasks.get(cell, job.job_id) for cell in job.cells})
    return ids


def cell_state(
    cell: Cell, summary: CellSummary | None, job: str | None, states: Mapping[str, JobState]
) -> tuple[str, str]:
    """(done | running | failed | waiting, reason) of one cell."""
    status = summary.status if summary else None
    failed = summary is not None and summary.has_failed
    if summary is not None and summary.is_done(cell):
        return "done", ""
    if job is None:
        if failed:
            return "failed", _reason(summary)
        # Begun by hand, or never submitted.
        return ("running", "") if status == "running" else ("waiting", "not submitted")
    state = state_of(job, states)
    if is_live(state):
        assert state is not None
        if state.phase is Phase.QUEUED:
            return "waiting", state.reason
        if failed and "_" not in job:
            return "failed", _reason(summary)  # one local job runs many cells
        return ("running", "") if status == "running" else ("waiting", "starting")
    if failed:
        return "failed", _reason(summary)
    if state is None:
        return "failed", "its job is gone from the queue and left no word; see its log"
    text = state.state if state.state != "COMPLETED" else "its job ended without a result"
    details = [part for part in (state.reason, _exit(state)) if part and part != "None"]
    return "failed", f"{text} ({', '.join(details)})" if details else text


def gather(run_dir: RunDir, *, cost: bool = False) -> dict[str, Any]:
    """The whole state as plain data; with `cost`, what it has cost so far (asks sacct once more).

    Raises InvalidInput where `run_dir` is no run directory.
    """
    plan = load_plan(run_dir)
    jobs = read_jobs(run_dir)
    states = SCHEDULERS.states(jobs)
    status = sweep_status(plan, run_dir, jobs, states)
    if cost:
        from emobench.scheduler.cost import summary
        from emobench.scheduler.usage import ask_accounts, usage

        accounts = ask_accounts(run_dir, jobs)
        spent = usage(plan, run_dir, jobs, states, accounts)
        status["cost"] = summary(spent)
        status["limit"] = state_of_limit(plan, spent)
    return status


def sweep_status(
    plan: Plan,
    run_dir: RunDir,
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
    summary_of: Callable[[int], CellSummary | None] | None = None,
    logs: bool = True,
) -> dict[str, Any]:
    """The state by what the queue said; `summary_of` reads a cell's summary by its number."""
    read = summary_of or partial(read_summary, run_dir)
    counts: Counter[str] = Counter()
    problems: list[dict[str, Any]] = []
    reward: dict[str, list[tuple[float, int]]] = {name: [] for name in plan.sweep.variants}
    outcomes: Counter[str] = Counter()
    finished = expected = 0
    ids = cell_jobs(plan, jobs)
    for cell in plan.cells:
        summary = read(cell.number)
        job = ids.get(cell.number)
        state, reason = cell_state(cell, summary, job, states)
        counts[state] += 1
        expected += len(cell.tasks)
        if summary:
            finished += summary.finished
            outcomes.update(summary.outcomes)
            if summary.mean_reward is not None:
                reward.setdefault(cell.variant, []).append((summary.mean_reward, summary.finished))
        if state == "failed":
            problems.append(
                {
                    "cell": cell.number,
                    "title": cell.title,
                    "reason": reason,
                    "ended": summary.ended if summary else None,
                    "log": "",
                }
            )
    if logs and problems:
        from emobench.runs.logs import LogIndex

        index = LogIndex(plan, run_dir, jobs)
        for problem in problems:
            problem["log"] = str(next(iter(index.of_cell(problem["cell"])), ""))
    servers = [server_state(plan, run_dir, name, jobs, states) for name in instances_of(plan.sweep)]
    # A clean-up job only waits for the others, and kept servers only for somebody's own work.
    passive = {job.job_id for job in jobs if job.kind is JobKind.CLEANUP}
    passive |= {str(server.job_id) for server in servers if server.kept_until}
    live = any(is_live(state) for job, state in states.items() if job not in passive)
    return {
        "run_dir": str(run_dir.path),
        "sweep": plan.sweep.name,
        "scheduler": plan.profile.scheduler,
        "scripted": any(
            model.engine == "scripted"
            for model in (plan.sweep.user, *plan.sweep.assistants.values())
        ),
        "live": live,
        "finished": counts["done"] == len(plan.cells),
        "servers": [asdict(server) for server in servers],
        "cells": {"total": len(plan.cells), **{name: counts[name] for name in STATES}},
        "episodes": {"finished": finished, "expected": expected, "outcomes": dict(outcomes)},
        "variants": [
            {
                "variant": name,
                "episodes": sum(n for _, n in pairs),
                "mean_reward": _weighted_mean(pairs),
            }
            for name, pairs in reward.items()
        ],
        "problems": problems,
    }


def _reason(summary: CellSummary | None) -> str:
    return " ".join((summary.message or summary.exit_reason).split()) if summary else ""


def _exit(state: JobState) -> str:
    code = state.exit_code
    return f"exit code {code}" if code and code != "0:0" else ""


def _weighted_mean(pairs: list[tuple[float, int]]) -> float | None:
    total = sum(n for _, n in pairs)
    return sum(mean * n for mean, n in pairs) / total if total else None
