"""Processes of the local runner: found again by pid and start time, ended as a whole.

A pid alone is no name: it is used again. Every process of a job carries the job's random token in
its environment, and they share the session of the job's first process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from emobench.core.errors import EmobenchError
from emobench.scheduler.queue import JobState

TOKEN_VARIABLE = "EMOBENCH_LOCAL_JOB"
_PR_SET_PDEATHSIG = 1


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name may contain anything but stands in the last pair of parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Between fork and exec: have the kernel send `number` when the parent dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def local_state(job: Mapping[str, Any]) -> JobState:
    """State of a record of the local runner: RUNNING or GONE."""
    host = job.get("host", "")
    if host != socket.gethostname():
        return JobState("UNKNOWN", f"it was started on {host or 'another machine'}")
    if start_ticks(job["pid"]) == job["start_ticks"]:
        return JobState("RUNNING", node=host)
    return JobState("GONE")


def members(job: Mapping[str, Any]) -> list[int]:
    """Every living process of a local job, its first one included."""
    leads = start_ticks(job["pid"]) == job["start_ticks"]
    token = f"{TOKEN_VARIABLE}={job['token']}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        if start_ticks(pid) is None:
            continue
        try:
            # A program that renames itself may have overwritten its environment.
            same_session = leads and os.getsid(pid) == job["pid"]
            if same_session or token in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def end_jobs(jobs: Sequence[Mapping[str, Any]], grace_s: float = 30.0) -> None:
    """SIGTERM to the jobs' process groups, and after `grace_s` seconds SIGKILL to what is left.

    Raises EmobenchError where a job was started on another machine, or cannot be ended.
    """
    for job in jobs:
        state = local_state(job)
        if state.state == "UNKNOWN":
            raise EmobenchError(f"job {job['job_id']}: {state.reason}; cancel it there")
    for job in jobs:
        with suppress(ProcessLookupError):
            if local_state(job).live:
                os.killpg(job["pid"], signal.SIGTERM)
            else:
                # Its first process was killed; what is left of it is told one by one.
                for pid in members(job):
                    os.kill(pid, signal.SIGTERM)
    if _gone_within(jobs, grace_s):
        return
    deadline = time.monotonic() + 5
    while left := sorted({pid for job in jobs for pid in members(job)}):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise EmobenchError(f"processes {', '.join(map(str, left))} could not be ended")
        time.sleep(0.05)


def _gone_within(jobs: Sequence[Mapping[str, Any]], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(members(job) for job in jobs):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
