"""What the scheduler says of our jobs: squeue and sacct, or /proc for the local runner.

A state is Slurm's own word (PENDING, RUNNING, COMPLETED, FAILED, ...), or GONE where the queue no
longer has the job and no accounting says how it ended, or UNKNOWN where nothing could be asked.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emobench.core.errors import EmobenchError
from emobench.core.ranges import parse_numbers

COMMAND_TIMEOUT_S = 60.0
CHUNK = 200
"""Job ids in one command."""
LIVE = frozenset(
    {
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"),
        *("COMPLETING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"),
        *("SPECIAL_EXIT", "PREEMPTED", "UNKNOWN"),
    }
)
"""States of a job that may still do something. A preempted job comes back or is CANCELLED."""


@dataclass(frozen=True)
class JobState:
    """One job, or one task of an array."""

    state: str
    reason: str = ""
    node: str = ""
    exit_code: str = ""
    """As sacct prints it: code:signal."""

    @property
    def live(self) -> bool:
        return self.state in LIVE

    def __str__(self) -> str:
        parts = [self.reason, f"exit code {self.exit_code}" if self.exit_code else ""]
        parts.append(f"on {self.node}" if self.node else "")
        details = ", ".join(part for part in parts if part)
        return f"{self.state} ({details})" if details else self.state


def is_live(state: JobState | None) -> bool:
    """Whether the queue has the job, waiting or running, or cannot be asked about it."""
    return state is not None and state.live


def job_states(jobs: Sequence[Mapping[str, Any]]) -> dict[str, JobState]:
    """State by job id of records of jobs.json; an array's tasks stand as '<job id>_<index>'."""
    from emobench.scheduler.processes import local_state

    states = {str(job["job_id"]): local_state(job) for job in jobs if "pid" in job}
    arrays = {str(job["job_id"]) for job in jobs if job["kind"] == "array" and "pid" not in job}
    single = {str(job["job_id"]) for job in jobs if "pid" not in job} - arrays
    states.update(slurm_states(sorted(single | arrays)))
    return states


def live_jobs(jobs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records whose job, or a task of it, is still in the queue, or cannot be asked about.

    Asked of squeue alone where it answers: this is asked often, and accounting is slow.
    """
    from emobench.scheduler.processes import local_state

    ids = sorted({str(job["job_id"]) for job in jobs if "pid" not in job})
    live: set[str] = set()
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        queued = _squeue(chunk)
        states = slurm_states(chunk) if queued is None else queued
        live |= {job_id.partition("_")[0] for job_id, state in states.items() if state.live}
    return [
        job
        for job in jobs
        if (local_state(job).live if "pid" in job else str(job["job_id"]) in live)
    ]


def any_live(jobs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of the records' jobs, or a task of it, is still in the queue (or unknown)."""
    return bool(live_jobs(jobs))


def slurm_states(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Ask squeue for what lives, and sacct (where the site has it) for what has ended.

    Every id is answered for, by itself or, for an array, by its tasks.
    """
    found: dict[str, JobState] = {}
    for start in range(0, len(job_ids), CHUNK):
        ids = job_ids[start : start + CHUNK]
        queued = _squeue(ids)
        ended = _sacct(ids)
        for job_id, state in ended.items():
            # The queue is the truth about what lives; accounting lags behind it.
            if queued is not None and job_id not in queued and state.live:
                ended[job_id] = replace(state, state="GONE")
        for job_id, state in (queued or {}).items():
            past = ended.get(job_id)
            known = past is not None and not state.live and not past.live
            ended[job_id] = past if known and past is not None else state
        answered = {job_id.partition("_")[0] for job_id in ended}
        missing = JobState("UNKNOWN" if queued is None else "GONE")
        found.update({job_id: missing for job_id in ids if job_id not in answered})
        found.update(ended)
    return found


def expand_id(job_id: str) -> list[str]:
    """Job ids of one row: '20_[3-4,7-9%2]' -> 20_3, 20_4, 20_7, 20_8, 20_9; '20' -> 20."""
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job_id)
    if match is None:
        return [job_id]
    return [f"{match[1]}_{index}" for index in parse_numbers(match[2], steps=True)]


def _squeue(job_ids: Sequence[str]) -> dict[str, JobState] | None:
    """None where squeue could not be asked."""
    command = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%N"]
    output, error = run_command([*command, f"--jobs={','.join(job_ids)}"])
    if output is None:
        # With a single id that has left the queue squeue fails, with several it lists the rest.
        return {} if "Invalid job id" in error else None
    states = {}
    for line in output.splitlines():
        row, state, reason, node = (*line.strip().split("|"), "", "", "")[:4]
        value = JobState(state, "" if reason == "None" else reason, node)
        states.update(dict.fromkeys(expand_id(row), value))
    return states


def _sacct(job_ids: Sequence[str]) -> dict[str, JobState]:
    command = ["sacct", "--allocations", "--noheader", "--parsable2"]
    names = "JobID,State,ExitCode,Reason,NodeList"
    output, _ = run_command([*command, f"--format={names}", f"--jobs={','.join(job_ids)}"])
    states = {}
    for line in (output or "").splitlines():
        row, state, exit_code, reason, node = (*line.split("|"), "", "", "", "")[:5]
        # "CANCELLED by 1000"
        word = state.split(" ")[0] or "UNKNOWN"
        reason = "" if reason == "None" else reason
        node = "" if node == "None assigned" else node
        states.update(dict.fromkeys(expand_id(row), JobState(word, reason, node, exit_code)))
    return states


def run_command(command: Sequence[str]) -> tuple[str | None, str]:
    """Ask one of Slurm's commands: (stdout, or None if it failed or hung; stderr)."""
    environment = {
        **os.environ,
        "SLURM_BITSTR_LEN": "0",  # else long lists of indices end in "..."
        "LC_ALL": "C.UTF-8",
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return (done.stdout if done.returncode == 0 else None), done.stderr


def cancel_slurm(job_ids: Sequence[str], deadline_s: float = 90.0) -> None:
    """Cancel jobs and arrays, and return once the queue has none of them.

    Raises EmobenchError where scancel fails or jobs are still there after `deadline_s` seconds.
    """
    remaining = list(dict.fromkeys(job_ids))
    for start in range(0, len(remaining), CHUNK):
        output, error = run_command(["scancel", *remaining[start : start + CHUNK]])
        if output is None and "Invalid job id" not in error:
            raise EmobenchError(f"scancel failed: {error.strip()}")
    deadline = time.monotonic() + deadline_s
    while remaining:
        states = slurm_states(remaining)
        alive = {job_id.partition("_")[0] for job_id, state in states.items() if state.live}
        remaining = [job_id for job_id in remaining if job_id.partition("_")[0] in alive]
        if remaining and time.monotonic() > deadline:
            raise EmobenchError(
                f"jobs {', '.join(remaining)} are still in the queue {deadline_s:g} s after "
                "scancel; look at them with: squeue --me"
            )
        if remaining:
            time.sleep(0.5)
