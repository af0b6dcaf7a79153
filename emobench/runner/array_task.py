"""A cell as an array's task: its log gets a name, and it is queued again where its time was up."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from emobench.core.job_id import read_own_task_id
from emobench.core.plan import Plan, list_needed_servers, list_replicas, list_roles
from emobench.core.run_dir import RunDir, slugify
from emobench.core.stop_signals import WARNING, StopRequest
from emobench.runner.cell import run_cell

LOST = ("infra_errors", "endpoint_unavailable")
"""Reasons of a cell's end that are its servers'."""
MAX_FRUITLESS = 3
"""Starts in a row that end before one conversation has: another would do no better."""


def run_task(
    plan: Plan,
    run_dir: RunDir,
    number: int,
    *,
    of_array: bool,
    progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> int:
    """Run a cell and return its exit code; an array's task that was preempted, or met its time
    limit, is queued again."""
    if 0 <= number < len(plan.cells):
        cell = plan.cells[number]
        model = plan.sweep.assistants[cell.assistant].model
        _name_log(f"run_{cell.env}_{cell.agent_strategy}", model, warn)
    stop = StopRequest()
    code = run_cell(plan, run_dir, number, progress=progress, stop=stop)
    if code and of_array:
        _go_on_later(plan, run_dir, number, stop.received, warn)
    return code


def _go_on_later(
    plan: Plan, run_dir: RunDir, number: int, received: str, warn: Callable[[str], None]
) -> None:
    """Queue this task again where Slurm ends it for another job or by its time limit, or where its
    servers were lost and may come back."""
    from emobench.scheduler.schedulers import find_scheduler
    from emobench.store.summaries import read_summary

    scheduler = find_scheduler(plan.profile)
    summary = read_summary(run_dir, number)
    if received:
        if scheduler.requeue_if_preempted() or received != WARNING:
            return
        advice = "give the array more time (`time` of `array` in the profile) and submit again"
    elif (
        summary is not None
        and summary.exit_reason in LOST
        and _may_come_back(plan, run_dir, number)
    ):
        advice = "see above what was wrong with its servers, and submit again"
    else:
        return
    if summary is not None and summary.fruitless_starts >= MAX_FRUITLESS:
        warn(f"not queued again: no conversation ended in {MAX_FRUITLESS} starts; {advice}")
    else:
        scheduler.requeue()


def _may_come_back(plan: Plan, run_dir: RunDir, number: int) -> bool:
    """Return whether both of a cell's servers are there, or may be again."""
    from emobench.serving.resubmission import may_come_back
    from emobench.store.endpoints import locate_server

    roles = list_roles(plan.sweep)
    return all(
        any(
            may_come_back(locate_server(run_dir, each)) for each in list_replicas(name, roles[name])
        )
        for name in list_needed_servers(plan.cells[number].assistant)
        if roles[name].engine != "openai"
    )


def _name_log(prefix: str, model: str, warn: Callable[[str], None]) -> None:
    """Give this job's log the name that people look for: run_<env>_<strategy>_<model>_<jobid>.log.

    Slurm opens one pattern for a whole array, before the cell is known; the open file keeps its
    contents under the new name. After a requeue the old file is continued.
    """
    opened = os.environ.get("EMOBENCH_LOG")
    if not opened or not Path(opened).is_file():
        return
    source = Path(opened)
    target = source.with_name(f"{prefix}_{slugify(model)}_{read_own_task_id()}.log")
    try:
        if target.exists():
            with target.open("ab") as log, source.open("rb") as begun:
                shutil.copyfileobj(begun, log)
                for descriptor in (1, 2):
                    os.dup2(log.fileno(), descriptor)
            source.unlink()
        else:
            source.rename(target)
    except OSError as error:
        warn(f"the log keeps its name {source.name}: {error}")
