"""Submit a run's scripts on a machine without Slurm, through submitit's local executor.

submitit's own has no queue, no throttle and no dependencies. Here one job runs all cells that are
missing, at most `throttle` at a time across all blocks; each run waits for its servers by itself.
The jobs outlive the command that started them.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emobench.config.capacity import throttle_of
from emobench.core.errors import SubmissionRefused
from emobench.core.plan import Plan, server_of
from emobench.core.run_dir import RunDir
from emobench.scheduler.local_jobs import Task, become_script, run_tasks
from emobench.scheduler.processes import TOKEN_VARIABLE, end_jobs, start_ticks
from emobench.scheduler.render import array_script, server_arguments, server_log, server_script
from emobench.store.jobs import add_jobs, record

OnJob = Callable[[Mapping[str, Any]], None]

TEN_YEARS_MIN = 10 * 365 * 24 * 60
"""submitit's own limit is two minutes."""

_started: list[subprocess.Popen[bytes]] = []
"""Kept so that this process collects its children's ends; a job does not depend on it."""


def submit(
    plan: Plan,
    run_dir: RunDir,
    missing: Mapping[str, Sequence[int]],
    servers: Sequence[str],
    on_job: OnJob = lambda job: None,
) -> list[dict[str, Any]]:
    """Start `servers`, and one job for the cells `missing` by block, from the scripts on disk.

    Raises SubmissionRefused where a process cannot be started; servers of this call end then.
    """
    submitted: list[dict[str, Any]] = []

    def note(jobs: Sequence[dict[str, Any]]) -> None:
        submitted.extend(jobs)
        add_jobs(run_dir, "local", jobs)
        for job in jobs:
            on_job(job)

    try:
        for server in servers:
            # An earlier job's file would be taken for the new one's: its "failed" ends the wait.
            run_dir.endpoint(server).unlink(missing_ok=True)
            script = server_script(server_of(server))
            log = f"{plan.logs}/{server_log(server_of(server))}"
            path = str(run_dir.scripts / script)
            process = _start(run_dir, become_script, path, log, *server_arguments(server))
            note([record("server", server, str(process["pid"]), script, **process)])
        tasks, jobs = _tasks(plan, run_dir, missing)
        if tasks:
            process = _start(run_dir, run_tasks, tasks, throttle_of(plan), plan.logs)
            for number, job in enumerate(jobs, start=1):
                # One process runs all blocks, but the ids of their tasks must differ.
                job.update(process, job_id=f"{process['pid']}.{number}")
            note(jobs)
    except OSError as error:
        end_jobs(submitted)
        raise SubmissionRefused(f"cannot start a process: {error}") from error
    except BaseException:
        end_jobs(submitted)
        raise
    return submitted


def cancel(jobs: Sequence[Mapping[str, Any]], grace_s: float = 30.0) -> None:
    """End the processes of these records, all of them. Raises EmobenchError."""
    end_jobs(list({job["pid"]: job for job in jobs}.values()), grace_s)


def _tasks(
    plan: Plan, run_dir: RunDir, missing: Mapping[str, Sequence[int]]
) -> tuple[list[Task], list[dict[str, Any]]]:
    tasks: list[Task] = []
    jobs: list[dict[str, Any]] = []
    for block in plan.blocks:
        cells = sorted(missing.get(block.name, ()))
        if not cells:
            continue
        script = array_script(block.name)
        jobs.append(record("array", block.name, "", script, cells))
        path = str(run_dir.scripts / script)
        tasks += [Task(path, len(jobs), cell - block.first_cell) for cell in cells]
    return tasks, jobs


def _start(run_dir: RunDir, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What jobs.json records to find the job's process again."""
    from submitit import LocalExecutor
    from submitit.local.local import LocalJob

    class DetachedExecutor(LocalExecutor):  # type: ignore[misc]
        """Starts the job in a session of its own, with the environment it needs."""

        def _submit_command(self, command: str) -> Any:
            process = subprocess.Popen(
                [sys.executable, "-m", "submitit.local._local", str(self.folder)],
                env=_environment(command, token),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _started.append(process)
            return LocalJob(folder=self.folder, job_id=str(process.pid), process=process)

    token = secrets.token_hex(16)
    job = DetachedExecutor(run_dir.submitit).submit(function, *arguments)
    pid = int(job.job_id)
    return {
        "scheduler": "local",
        "pid": pid,
        "start_ticks": start_ticks(pid),
        "host": socket.gethostname(),
        "token": token,
    }


def _environment(command: str, token: str) -> dict[str, str]:
    # Within an interactive Slurm job its variables would be taken for the local job's.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {
        **kept,
        TOKEN_VARIABLE: token,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_TIMEOUT_S": str(TEN_YEARS_MIN * 60),
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_STDERR_TO_STDOUT": "",
    }
