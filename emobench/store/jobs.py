"""jobs.json: what was submitted, oldest first. Written by `sweep`, and by servers that submit their
successors: under a lock, so that no record is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import locked, read_json, write_json
from emobench.core.job_id import format_task_id
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir, is_name
from emobench.core.times import now, to_seconds

SchedulerName = Literal["slurm", "local"]
SCHEMA = 1


class JobKind(StrEnum):
    SERVER = "server"
    ARRAY = "array"
    CLEANUP = "cleanup"
    CELL = "cell"
    """One cell that somebody submitted by its values; its summary says which."""


@dataclass(frozen=True)
class LocalProcess:
    """What finds the first process of a local job again: a pid alone is used again."""

    pid: int
    start_ticks: int | None
    """Clock ticks since boot; None where it was gone at once."""
    host: str
    token: str
    """Random; in the environment of every process of the job."""


@dataclass(frozen=True)
class JobRecord:
    """One job as it was submitted."""

    kind: JobKind
    name: str
    """Instance of a server, or block of cells; of a single cell, that of the script's cells."""
    job_id: str
    script: str = ""
    """Relative to the run directory."""
    cells: tuple[int, ...] = ()
    """Of an array, by their numbers in the plan."""
    submitted: str = ""
    """ISO 8601, UTC."""
    takes_over: str = ""
    """The server's job that it was submitted to take over from."""
    blocks: tuple[str, ...] = ()
    """Blocks of the cells where the record is of several; empty: of the one that is its name."""
    process: LocalProcess | None = None
    """Of a job on this machine; None: it is Slurm's."""
    cancelled: bool = False
    """Whether `emobench cancel` ended it, or tried to."""

    @property
    def scheduler(self) -> SchedulerName:
        return "slurm" if self.process is None else "local"

    @property
    def handle(self) -> tuple[str, str]:
        """What tells it from every other job of the run; a process's number is used again."""
        return self.job_id, "" if self.process is None else self.process.token

    @property
    def block_names(self) -> tuple[str, ...]:
        return self.blocks or (self.name,)

    @property
    def submitted_at(self) -> float | None:
        """Seconds since the epoch."""
        return to_seconds(self.submitted)

    def __str__(self) -> str:
        return f"{self.name} (job {self.job_id})"

    def to_json(self) -> dict[str, Any]:
        """Return the record as it stands in the file."""
        data: dict[str, Any] = {
            "kind": str(self.kind),
            "name": self.name,
            "job_id": self.job_id,
            "cells": list(self.cells),
            "script": self.script,
            "submitted": self.submitted,
        }
        if self.takes_over:
            data["takes_over"] = self.takes_over
        if self.blocks:
            data["blocks"] = list(self.blocks)
        if self.cancelled:
            data["cancelled"] = True
        if self.process is not None:
            data |= {"scheduler": "local", **asdict(self.process)}
        return data


def list_task_ids(plan: Plan, job: JobRecord) -> dict[int, str]:
    """Return the task id by cell of an array, as in its log's name and its cell's summary; empty
    where the plan has no such block."""
    first = next((block.first_cell for block in plan.blocks if block.name == job.name), None)
    return (
        {}
        if first is None
        else {cell: format_task_id(job.job_id, cell - first) for cell in job.cells}
    )


OnJob = Callable[[JobRecord], None]
"""Told of each job as soon as it is submitted and recorded."""


def make_record(kind: JobKind, name: str, job_id: str, script: str, **more: Any) -> JobRecord:
    """Return the record of a job that is submitted now; `script` is a name in the scripts'
    folder."""
    return JobRecord(kind, name, job_id, f"scripts/{script}", submitted=now(), **more)


def parse_record(data: Mapping[str, Any]) -> JobRecord:
    """Return the record of an entry of the file. Raises KeyError, TypeError or ValueError."""
    process = None
    if "pid" in data:
        process = LocalProcess(**{field.name: data[field.name] for field in fields(LocalProcess)})
    for key in ("name", "job_id"):
        if not is_name(str(data[key])):
            raise ValueError(f"its {key} {str(data[key])[:80]!r} is no name")
    return JobRecord(
        kind=JobKind(data["kind"]),
        name=str(data["name"]),
        job_id=str(data["job_id"]),
        script=str(data.get("script", "")),
        cells=tuple(map(int, data.get("cells", ()))),
        submitted=str(data.get("submitted", "")),
        takes_over=str(data.get("takes_over", "")),
        blocks=tuple(map(str, data.get("blocks", ()))),
        process=process,
        cancelled=data.get("cancelled") is True,
    )


def read_jobs(run_dir: RunDir) -> list[JobRecord]:
    """Return the job records, oldest first; none where nothing was submitted.

    Raises InvalidInput where there is a file that is no list of jobs: taken for an empty one, all
    that runs would be submitted again.
    """
    data = read_json(run_dir.jobs)
    if data is None and not run_dir.jobs.exists():
        return []
    try:
        if data is None:
            raise ValueError("it is damaged or cut off")
        if data["schema"] != SCHEMA:
            raise ValueError(f"it has schema {data['schema']}, and this emobench reads {SCHEMA}")
        return [parse_record(entry) for entry in data["jobs"]]
    except (KeyError, TypeError, ValueError) as error:
        why = str(error) if type(error) is ValueError else "it has not the form of such a record"
        raise InvalidInput(
            Problem(
                f"this record of submitted jobs cannot be read: {why}",
                file=str(run_dir.jobs),
                hint="nothing is submitted before it can, for its jobs may run: put back what was "
                "there, use the version that wrote it, or cancel its jobs by hand and remove it",
            )
        ) from None


def add_jobs(run_dir: RunDir, records: Iterable[JobRecord]) -> None:
    """Append the records that are not there yet; the file is complete after each call."""
    with locked(run_dir.jobs_lock):
        jobs = {job.handle: job for job in read_jobs(run_dir)}
        for record in records:
            jobs.setdefault(record.handle, record)
        write_jobs(run_dir, jobs.values())


def note_cancelled(run_dir: RunDir, jobs: Collection[JobRecord]) -> None:
    """Note that jobs are being cancelled: where accounting is silent nothing else says so."""
    ids = {job.job_id for job in jobs}
    with locked(run_dir.jobs_lock):
        records = read_jobs(run_dir)
        write_jobs(
            run_dir, [replace(job, cancelled=job.cancelled or job.job_id in ids) for job in records]
        )


def remove_jobs(run_dir: RunDir, job_ids: Iterable[str]) -> None:
    """Forget jobs that were taken back."""
    gone = set(job_ids)
    with locked(run_dir.jobs_lock):
        write_jobs(run_dir, [job for job in read_jobs(run_dir) if job.job_id not in gone])


def write_jobs(run_dir: RunDir, jobs: Iterable[JobRecord]) -> None:
    """Write the whole file; whoever does not hold `jobs_lock` may lose another's record."""
    write_json(run_dir.jobs, {"schema": SCHEMA, "jobs": [job.to_json() for job in jobs]})
