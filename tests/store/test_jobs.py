"""Job records as they stand in jobs.json."""

from __future__ import annotations

from pathlib import Path

from emobench.core.run_dir import RunDir
from emobench.store.jobs import parse_record, read_jobs, write_jobs


def test_records_stand_in_the_file_as_they_always_did(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    slurm = {
        "kind": "array",
        "name": "a",
        "job_id": "7",
        "cells": [0, 2],
        "script": "scripts/tau_array_a.sbatch",
        "submitted": "2026-11-21T05:00:00.000+00:00",
    }
    successor = slurm | {"kind": "server", "name": "user", "cells": [], "takes_over": "5"}
    process = {"scheduler": "local", "pid": 12, "start_ticks": 5, "host": "h", "token": "t"}
    for data in (slurm, successor, slurm | {"blocks": ["a", "b"]}, slurm | process):
        job = parse_record(data)
        assert job.to_json() == data
        write_jobs(run_dir, [job])
        assert read_jobs(run_dir) == [job]
    assert parse_record(slurm).scheduler == "slurm"
    assert parse_record(slurm | process).scheduler == "local"
