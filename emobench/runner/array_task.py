"""A cell as an array's task: its log gets a name, and where it was preempted it is queued again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from emobench.core.job_id import own_task_id
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir, slug
from emobench.runner.cell import run_cell


def run_task(
    plan: Plan,
    run_dir: RunDir,
    number: int,
    *,
    of_array: bool,
    progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> int:
    """Run a cell and return its exit code; an array's task that was preempted is queued again."""
    if 0 <= number < len(plan.cells):
        cell = plan.cells[number]
        model = plan.sweep.assistants[cell.assistant].model
        _name_log(f"run_{cell.env}_{cell.agent_strategy}", model, warn)
    code = run_cell(plan, run_dir, number, progress=progress)
    if code and of_array:
        from emobench.scheduler.schedulers import scheduler_of
        from emobench.store.summaries import read_summary

        summary = read_summary(run_dir, number)
        if summary is not None and summary.exit_reason == "interrupted":
            scheduler_of(plan.profile).requeue_if_preempted()
    return code


def _name_log(prefix: str, model: str, warn: Callable[[str], None]) -> None:
    """Give this job's log the name that people look for: run_<env>_<strategy>_<model>_<jobid>.log.

    Slurm opens one pattern for a whole array, before the cell is known; the open file keeps its
    contents under the new name. After a requeue the old file is continued.
    """
    opened = os.environ.get("EMOBENCH_LOG")
    if not opened or not Path(opened).is_file():
        return
    source = Path(opened)
    target = source.with_name(f"{prefix}_{slug(model)}_{own_task_id()}.log")
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
