"""Job ids: of this process, and of an array and its tasks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from emobench.core.ranges import parse_numbers

PART_ID = "EMOBENCH_JOB_ID"
"""The id of one server where a job has several, in that server: SLURM_JOB_ID is the job's, or a
heterogeneous job's first part's."""


def read_slurm_job_id(environ: Mapping[str, str] = os.environ) -> str:
    """Return Slurm's number of this job (of this task, in an array); empty outside of Slurm."""
    return environ.get(PART_ID) or environ.get("SLURM_JOB_ID", "")


def read_local_job_id(environ: Mapping[str, str] = os.environ) -> str:
    """Return the local runner's id of this job; outside of one the process id."""
    return environ.get("SUBMITIT_LOCAL_JOB_ID") or str(os.getpid())


def read_own_task_id(environ: Mapping[str, str] = os.environ) -> str:
    """Return this job's id as squeue or the local runner's records name it: 12, or 12_3 in an
    array."""
    if array := environ.get("SLURM_ARRAY_JOB_ID"):
        return format_task_id(array, environ.get("SLURM_ARRAY_TASK_ID", ""))
    return read_slurm_job_id(environ) or read_local_job_id(environ)


def format_task_id(array: str, index: int | str) -> str:
    """Return the id of one task of an array."""
    return f"{array}_{index}"


def format_server_id(job: str, place: int) -> str:
    """Return the id of one of several servers that are one job: 12.0 and 12.1."""
    return f"{job}.{place}"


def get_queue_id(job_id: str) -> str:
    """Return the id by which the queue knows a server's job.

    >>> get_queue_id("12.1"), get_queue_id("12_3"), get_queue_id("12")
    ('12', '12_3', '12')
    """
    return job_id.partition(".")[0]


def get_array_id(job_id: str) -> str:
    """Return the array that a task belongs to; another job's id is returned as it is.

    >>> get_array_id("12_3"), get_array_id("12")
    ('12', '12')
    """
    return job_id.partition("_")[0]


def expand_id(job_id: str) -> list[str]:
    """Return the job ids of one row: '20_[3-4,7-9%2]' -> 20_3, 20_4, 20_7, 20_8, 20_9; '20' -> 20;
    '20+1', the second part of a heterogeneous job, whose parts have consecutive numbers -> 21."""
    if part := re.fullmatch(r"(\d+)\+(\d+)", job_id):
        return [str(int(part[1]) + int(part[2]))]
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job_id)
    if match is None:
        return [job_id]
    return [format_task_id(match[1], index) for index in parse_numbers(match[2], steps=True)]
