"""sacct's record of when jobs waited and ran, and what they were given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from emobench.scheduler.queue import CHUNK, expand_id, run_command

FIELDS = "JobID,Submit,Start,End,AllocTRES"


@dataclass(frozen=True)
class Accounted:
    """One run of a job or of a task; a requeued job has a row for each of its runs."""

    job_id: str
    submitted: float | None
    """Seconds since the epoch, as all times; accounting has whole seconds."""
    started: float | None
    ended: float | None
    gres: Mapping[str, int]
    """Count by GRES, e.g. gpu and gpu:h100; empty where the site does not account for them."""


def accounted(job_ids: Sequence[str]) -> tuple[list[Accounted], str]:
    """Rows of these jobs, and why sacct could not be asked (empty where it answered)."""
    rows: list[Accounted] = []
    command = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"]
    for start in range(0, len(job_ids), CHUNK):
        ids = ",".join(job_ids[start : start + CHUNK])
        # Seconds since the epoch: local times are ambiguous for an hour a year.
        output, error = run_command(
            ["env", "SLURM_TIME_FORMAT=%s", *command, f"--format={FIELDS}", f"--jobs={ids}"]
        )
        if output is None:
            return rows, " ".join(error.split()) or "sacct failed"
        rows += parse(output)
    return rows, ""


def parse(output: str) -> list[Accounted]:
    """sacct's lines; what has another form is passed over."""
    rows = []
    for line in output.splitlines():
        parts = line.split("|")
        if len(parts) != 5:
            continue
        submitted, started, ended = map(_time, parts[1:4])
        rows += [
            Accounted(job_id, submitted, started, ended, _gres(parts[4]))
            for job_id in expand_id(parts[0])
        ]
    return rows


def _time(text: str) -> float | None:
    """Unknown (not yet) and None (never) are None; '2026-11-21T05:00:00' is local time."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _gres(tres: str) -> dict[str, int]:
    """'billing=4,cpu=4,gres/gpu:h100=2,gres/gpu=2' -> {'gpu:h100': 2, 'gpu': 2}."""
    pairs = re.findall(r"(?:^|,)gres/([^=,]+)=(\d+)", tres)
    return {name: int(count) for name, count in pairs}
