"""Submit the job that runs after a run's arrays and cancels servers that did not leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emobench.core.errors import SubmissionRefused
from emobench.core.plan import Plan, servers_of
from emobench.core.run_dir import RunDir
from emobench.scheduler.executor import ScriptExecutor
from emobench.scheduler.queue import live_jobs, run_command
from emobench.scheduler.render import CLEANUP_SCRIPT
from emobench.scheduler.submit import sbatch
from emobench.store.jobs import add_jobs, read_jobs, record


def submit_cleanup(
    plan: Plan,
    run_dir: RunDir,
    on_job: Callable[[Mapping[str, Any]], None],
    warn: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Submit a clean-up job for all live arrays, in place of an earlier one.

    Where Slurm refuses it `warn` is told: the servers leave by themselves in nearly every case.
    Without Slurm there is none: no scheduler could start it, and nothing is held in a queue.
    """
    if plan.profile.scheduler != "slurm" or not servers_of(plan.sweep):
        return []
    live = live_jobs(read_jobs(run_dir))
    arrays = [str(job["job_id"]) for job in live if job["kind"] == "array"]
    if not arrays:
        return []
    job = record("cleanup", "cleanup", "", CLEANUP_SCRIPT)
    try:
        executor = ScriptExecutor(run_dir.submitit)
        after = f"--dependency=afterany:{':'.join(arrays)}"
        job["job_id"] = sbatch(executor, run_dir, job, [after])
    except (SubmissionRefused, RuntimeError) as error:
        warn(
            f"no clean-up job: {error}\n  the sweep goes on without it. Its servers leave by "
            f"themselves; look with `emobench status {run_dir.path}`"
        )
        return []
    add_jobs(run_dir, "slurm", [job])
    on_job(job)
    # The new one waits for the same arrays and more; one that cannot be cancelled does no harm.
    if earlier := [str(each["job_id"]) for each in live if each["kind"] == "cleanup"]:
        run_command(["scancel", *earlier])
    return [job]
