"""What the local runner's jobs do: a server's script, or many array scripts under a throttle."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emobench.scheduler.processes import die_with_parent

GRACE_S = 15.0
"""A run that is told to end writes its summary within this time, or is killed."""


@dataclass(frozen=True)
class Task:
    """One index of one array script."""

    script: str
    array: int
    """1-based number of the array among those of this job."""
    index: int


def become_script(script: str, log: str, *arguments: str) -> None:
    """Turn this process into `bash script arguments...`; its output goes to <log>_<job id>.out."""
    die_with_parent(signal.SIGTERM)
    job_id = os.environ["SUBMITIT_LOCAL_JOB_ID"]
    descriptor = os.open(f"{log}_{job_id}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    # submitit ignores or handles these, and ignoring is inherited.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    os.execvp("bash", ["bash", script, *arguments])


def run_tasks(tasks: Sequence[Task], throttle: int, logs: str) -> dict[str, int]:
    """Run every task, at most `throttle` at a time; exit code by '<array>_<index>'.

    On SIGTERM no further task starts, and the running ones are ended.
    """
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    die_with_parent(signal.SIGTERM)
    waiting = deque(tasks)
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    while (waiting or running) and not stopping:
        while waiting and len(running) < throttle and not stopping:
            task = waiting.popleft()
            running[f"{task.array}_{task.index}"] = _start(task, logs)
        _collect(running, codes)
        time.sleep(0.05)
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    while running and time.monotonic() < deadline:
        _collect(running, codes)
        time.sleep(0.05)
    for process in running.values():
        process.kill()
        process.wait()
    return codes


def _collect(running: dict[str, subprocess.Popen[bytes]], codes: dict[str, int]) -> None:
    for name, process in list(running.items()):
        if (code := process.poll()) is not None:
            codes[name] = code
            del running[name]


def _start(task: Task, logs: str) -> subprocess.Popen[bytes]:
    array_id = f"{os.environ['SUBMITIT_LOCAL_JOB_ID']}.{task.array}"
    environment = {
        **os.environ,
        "SLURM_ARRAY_JOB_ID": array_id,
        "SLURM_ARRAY_TASK_ID": str(task.index),
    }
    # The name that Slurm would give it; the script tells the run of it.
    with Path(logs, f"run_{array_id}_{task.index}.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", task.script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
