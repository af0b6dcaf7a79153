"""jobs.json: what was submitted, oldest first. Written by `sweep`, and by servers that submit their
successors: under a lock, so that no record is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from emobench.core.files import locked, read_json, write_json
from emobench.core.run_dir import RunDir

Scheduler = Literal["slurm", "local"]


def read_jobs(run_dir: RunDir) -> list[dict[str, Any]]:
    """The job records, oldest first; none where nothing was submitted."""
    data = read_json(run_dir.jobs)
    return list(data["jobs"]) if isinstance(data, dict) and data.get("schema") == 1 else []


def add_jobs(run_dir: RunDir, scheduler: Scheduler, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records; the file is complete after each call."""
    with locked(run_dir.jobs_lock):
        _write(run_dir, scheduler, [*read_jobs(run_dir), *records])


def remove_jobs(run_dir: RunDir, scheduler: Scheduler, job_ids: Iterable[str]) -> None:
    """Forget jobs that were taken back."""
    gone = set(job_ids)
    with locked(run_dir.jobs_lock):
        _write(run_dir, scheduler, [job for job in read_jobs(run_dir) if job["job_id"] not in gone])


def record(
    kind: Literal["server", "array", "cleanup"],
    name: str,
    job_id: str,
    script: str,
    cells: Sequence[int] = (),
    **more: Any,
) -> dict[str, Any]:
    """One job as it stands in jobs.json; `more` is what the scheduler needs to find it again."""
    submitted = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "kind": kind,
        "name": name,
        "job_id": job_id,
        "cells": list(cells),
        "script": f"scripts/{script}",
        "submitted": submitted,
        **more,
    }


def _write(run_dir: RunDir, scheduler: Scheduler, jobs: list[Any]) -> None:
    write_json(run_dir.jobs, {"schema": 1, "scheduler": scheduler, "jobs": jobs})
