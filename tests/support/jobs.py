"""Job records of processes that a test has started itself."""

from __future__ import annotations

import socket
from typing import Any

from emobench.core.processes import read_start_ticks
from emobench.core.times import now
from emobench.store.jobs import JobKind, JobRecord, LocalProcess


def local_record(
    kind: str, name: str, job_id: str, pid: int, token: str = "", **more: Any
) -> JobRecord:
    """The record of a local job whose first process is `pid`, with `token` in its environment."""
    token = token or f"none-{pid}"
    process = LocalProcess(pid, read_start_ticks(pid), socket.gethostname(), token)
    fields: dict[str, Any] = {"submitted": now(), "process": process, **more}
    return JobRecord(JobKind(kind), name, job_id, **fields)


def ended_record(kind: str, name: str, job_id: str, pid: int, **more: Any) -> JobRecord:
    """The same of an earlier process with that pid, which is gone."""
    process = LocalProcess(pid, 1, socket.gethostname(), f"gone-{pid}")
    return local_record(kind, name, job_id, pid, **(more | {"process": process}))
