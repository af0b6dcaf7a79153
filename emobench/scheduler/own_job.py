"""What Slurm says of the job that this process is: until when it runs, whether it must make way."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from emobench.scheduler.queue import run_command


@dataclass(frozen=True)
class OwnJob:
    """Times in seconds since the epoch."""

    started: float | None = None
    end: float | None = None
    """None: no end is set."""
    preempted: bool = False
    """It has been told to make way, and `end` is when it will be killed."""

    @property
    def limit_s(self) -> float | None:
        """Seconds from its start to its end."""
        known = self.end is not None and self.started is not None
        return self.end - self.started if known else None  # type: ignore[operator]


def ask_own_job(job_id: str) -> OwnJob:
    """Asked anew each time: an administrator may move a job's end."""
    # Seconds since the epoch: local times are ambiguous for an hour a year.
    command = ["env", "SLURM_TIME_FORMAT=%s", "scontrol", "--oneliner", "show", "job", job_id]
    output, _ = run_command(command)
    if output is not None and (job := parse(output)) is not None:
        return job
    return OwnJob(_seconds(os.environ.get("SLURM_JOB_START_TIME")), _end_at_start())


def parse(output: str) -> OwnJob | None:
    """The job of `scontrol --oneliner show job`; None where it names no start."""
    fields = dict(re.findall(r"(\w+)=(\S*)", output))
    if "StartTime" not in fields:
        return None
    preempted = _seconds(fields.get("PreemptTime")) is not None
    return OwnJob(_seconds(fields["StartTime"]), _seconds(fields.get("EndTime")), preempted)


def requeue_if_preempted() -> bool:
    """Have Slurm start this job again, if it is one and was told to make way.

    A job that ends by itself within the time it is given counts as ended and is not requeued.
    """
    job_id = own_job_id()
    if not job_id or not ask_own_job(job_id).preempted:
        return False
    output, error = run_command(["scontrol", "requeue", job_id])
    if output is None:
        print(f"emobench: this job cannot be requeued: {' '.join(error.split())}", flush=True)
    return output is not None


def own_job_id(environ: Mapping[str, str] = os.environ) -> str:
    """Slurm's number of this job (of this task, in an array); empty outside of Slurm."""
    return environ.get("SLURM_JOB_ID", "")


def job_id_here(local: bool) -> str:
    """Id of this job with Slurm or, where `local`, with the local runner."""
    names = ("SUBMITIT_LOCAL_JOB_ID",) if local else ("SLURM_JOB_ID", "SUBMITIT_LOCAL_JOB_ID")
    return next((os.environ[name] for name in names if name in os.environ), str(os.getpid()))


def job_age_s(local: bool) -> float:
    """Seconds since the job began, as far as Slurm says; its set-up lines may have taken long."""
    try:
        return 0.0 if local else max(time.time() - float(os.environ["SLURM_JOB_START_TIME"]), 0.0)
    except (KeyError, ValueError):
        return 0.0


def _end_at_start() -> float | None:
    return _seconds(os.environ.get("SLURM_JOB_END_TIME"))


def _seconds(text: str | None) -> float | None:
    """'Unknown', 'None' and 'N/A' are None."""
    return float(text) if text is not None and text.isdigit() else None
