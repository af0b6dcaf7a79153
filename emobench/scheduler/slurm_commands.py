"""Slurm's commands and their answers: squeue, sacct, scontrol and scancel."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from emobench.core.errors import EmobenchError
from emobench.core.job_id import expand_id, get_array_id
from emobench.scheduler.interface import Accounted, Accounts, JobState, OwnJob

COMMAND_TIMEOUT_S = 60.0
CHUNK = 200
"""Job ids in one command."""
HARMLESS = re.compile("Invalid job id|individual component of heterogeneous job")
"""What scancel says of a job that has ended, and of a part of one that has not begun: that goes
with its first part."""
ACCOUNTING_FIELDS = "JobID,Submit,Start,End,AllocTRES"
# Seconds since the epoch: local times are ambiguous for an hour a year.
WITH_EPOCH_TIMES = ("env", "SLURM_TIME_FORMAT=%s")


ADVICE = (
    # (what sbatch says, what can be done); the first that matches is shown.
    (
        r"invalid partition|Invalid partition",
        "the profile names a partition that this site does not have; `sinfo -s` lists them",
    ),
    (
        r"MaxSubmitJob|AssocMaxSubmit|QOSMaxSubmit|MaxJobCount|Resource temporarily",
        "you have as many jobs in the queue as the site allows (each array task counts as one); "
        "run the same command again when some have ended, it submits what is missing",
    ),
    (
        r"Invalid job array|[Aa]rray",
        "set max_array_size in the profile to the site's MaxArraySize "
        "(scontrol show config | grep MaxArraySize)",
    ),
    (
        r"QOS|qos",
        "check qos in the profile; `sacctmgr show assoc user=$USER format=qos` lists them",
    ),
    (
        r"[Aa]ccount|association",
        "check account in the profile; `sacctmgr show assoc user=$USER format=account,partition`",
    ),
    (r"generic resource|gres|GRES", "check gres in the profile; `sinfo -o '%P %G'` lists them"),
    (
        r"[Nn]ode configuration|[Mm]emory|CPU count",
        "no node of the partition has that much: check cpus, mem and gres in the profile; "
        "`sinfo -o '%P %c %m %G'` lists what there is",
    ),
    (r"time limit|TimeLimit", "lower time in the profile; `sinfo -o '%P %l'` lists the limits"),
    (
        r"contact|timed? ?out|Connection|Socket|configuration source",
        "Slurm's controller does not answer; try `squeue`, and run the same command again later. "
        "The job may have been accepted all the same: look with `squeue --me` first",
    ),
)


def find_advice(said: str) -> str:
    """Return what can be done about what sbatch said; empty where nothing is known."""
    return next((text for pattern, text in ADVICE if re.search(pattern, said)), "")


def run_command(
    command: Sequence[str], timeout_s: float = COMMAND_TIMEOUT_S
) -> tuple[str | None, str]:
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
            timeout=timeout_s,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return (done.stdout if done.returncode == 0 else None), done.stderr


def ask_slurm_states(job_ids: Sequence[str]) -> dict[str, JobState]:
    """Ask squeue for what lives, and sacct (where the site has it) for what has ended.

    Every id is answered for, by itself or, for an array, by its tasks.
    """
    found: dict[str, JobState] = {}
    for start in range(0, len(job_ids), CHUNK):
        ids = job_ids[start : start + CHUNK]
        queued = _ask_squeue(ids)
        ended = _ask_sacct(ids)
        for job_id, state in ended.items():
            # The queue is the truth about what lives; accounting lags behind it.
            if queued is not None and job_id not in queued and state.live:
                ended[job_id] = replace(state, state="GONE")
        for job_id, state in (queued or {}).items():
            past = ended.get(job_id)
            known = past is not None and not state.live and not past.live
            ended[job_id] = past if known and past is not None else state
        answered = {get_array_id(job_id) for job_id in ended}
        missing = JobState("UNKNOWN" if queued is None else "GONE")
        found.update({job_id: missing for job_id in ids if job_id not in answered})
        found.update(ended)
    return found


def find_live_arrays(job_ids: Sequence[str]) -> set[str]:
    """Return those of the jobs and arrays that are in the queue, or cannot be asked about.

    Asked of squeue alone where it answers: this is asked often, and accounting is slow.
    """
    live: set[str] = set()
    for start in range(0, len(job_ids), CHUNK):
        chunk = job_ids[start : start + CHUNK]
        queued = _ask_squeue(chunk)
        states = ask_slurm_states(chunk) if queued is None else queued
        live |= {get_array_id(job_id) for job_id, state in states.items() if state.live}
    return live


@dataclass(frozen=True)
class CommentedJob:
    """A job or an array in the queue, with its comment."""

    job_id: str
    submitted: float
    """Seconds since the epoch."""
    comment: str
    indices: tuple[int, ...]
    """Of an array's tasks, those that ended a moment ago included; empty: it is none."""
    whole: str = ""
    """The first part's id where the job is part of a heterogeneous one; empty: it is not."""


def find_commented_jobs(users: Iterable[int]) -> list[CommentedJob]:
    """Ask squeue for the jobs of these users (their numbers) that may still do something, the
    oldest first. Raises EmobenchError where it does not answer."""
    command = [*WITH_EPOCH_TIMES, "squeue", "--noheader", "--states=all", "--format=%i|%T|%V|%k"]
    command.append(f"--user={','.join(map(str, sorted(set(users))))}")
    output, error = run_command(command)
    if output is None:
        raise EmobenchError(f"squeue does not answer: {error.strip() or 'it says nothing'}")
    indices: dict[str, set[int]] = {}
    said: dict[str, tuple[float, str]] = {}
    wholes: dict[str, str] = {}
    live: set[str] = set()
    for line in output.splitlines():
        row, state, submitted, comment = (*line.strip().split("|", 3), "", "", "")[:4]
        for each in expand_id(row):
            job_id, _, index = each.partition("_")
            indices.setdefault(job_id, set()).update([int(index)] if index.isdigit() else [])
            said[job_id] = (_parse_time(submitted) or 0.0, comment)
            wholes[job_id] = row.partition("+")[0] if "+" in row else ""
            if JobState(state).live:
                live.add(job_id)
    found = [
        CommentedJob(each, *said[each], tuple(sorted(indices[each])), wholes[each]) for each in live
    ]
    return sorted(found, key=lambda job: (job.submitted, len(job.job_id), job.job_id))


@dataclass(frozen=True)
class QueuedCommand:
    """What a job in the queue was submitted with."""

    script: str
    """Absolute path; empty where Slurm does not say one."""
    comment: str


def find_queued_command(job_id: str) -> QueuedCommand | None:
    """Ask squeue what a job was submitted with; None where it does not say."""
    asked = ["squeue", "--noheader", "--states=all", "--format=%k|%o", f"--jobs={job_id}"]
    output, _ = run_command(asked)
    for line in (output or "").splitlines():
        comment, mark, command = line.strip().rpartition("|")
        if mark:
            words = command.split(" ")
            return QueuedCommand(words[0] if command.startswith("/") else "", comment)
    return None


def _ask_squeue(job_ids: Sequence[str]) -> dict[str, JobState] | None:
    """Return the states by job id; None where squeue could not be asked."""
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


def _ask_sacct(job_ids: Sequence[str]) -> dict[str, JobState]:
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


def cancel_slurm(job_ids: Sequence[str], deadline_s: float = 90.0) -> None:
    """Cancel jobs and arrays, and return once the queue has none of them.

    Raises EmobenchError where scancel fails or jobs are still there after `deadline_s` seconds.
    """
    remaining = list(dict.fromkeys(job_ids))
    for start in range(0, len(remaining), CHUNK):
        output, error = run_command(["scancel", *remaining[start : start + CHUNK]])
        if output is None and not all(map(HARMLESS.search, error.strip().splitlines() or [""])):
            raise EmobenchError(f"scancel failed: {error.strip()}")
    deadline = time.monotonic() + deadline_s
    while remaining:
        states = ask_slurm_states(remaining)
        alive = {get_array_id(job_id) for job_id, state in states.items() if state.live}
        remaining = [job_id for job_id in remaining if get_array_id(job_id) in alive]
        if remaining and time.monotonic() > deadline:
            raise EmobenchError(
                f"jobs {', '.join(remaining)} are still in the queue {deadline_s:g} s after "
                "scancel; look at them with: squeue --me"
            )
        if remaining:
            time.sleep(0.5)


def ask_slurm_accounts(job_ids: Sequence[str]) -> Accounts:
    """Return sacct's record of when jobs waited and ran, and what they were given."""
    rows: dict[str, list[Accounted]] = {}
    command = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"]
    for start in range(0, len(job_ids), CHUNK):
        ids = job_ids[start : start + CHUNK]
        asked = [f"--format={ACCOUNTING_FIELDS}", f"--jobs={','.join(ids)}"]
        output, error = run_command([*WITH_EPOCH_TIMES, *command, *asked])
        if output is None:
            return Accounts(rows, " ".join(error.split()) or "sacct failed")
        # The first part of a heterogeneous job brings the others, which are asked for as well.
        wanted = set(map(get_array_id, ids))
        for row in parse_accounting(output):
            if get_array_id(row.job_id) in wanted:
                rows.setdefault(row.job_id, []).append(row)
    return Accounts(rows)


def parse_accounting(output: str) -> list[Accounted]:
    """Parse sacct's lines; what has another form is passed over."""
    rows = []
    for line in output.splitlines():
        parts = line.split("|")
        if len(parts) != 5:
            continue
        submitted, started, ended = map(_parse_time, parts[1:4])
        rows += [
            Accounted(job_id, submitted, started, ended, _parse_gres(parts[4]))
            for job_id in expand_id(parts[0])
        ]
    return rows


def _parse_time(text: str) -> float | None:
    """Return a time of sacct, which is local, as seconds since the epoch; None for Unknown and
    None."""
    if text.isdigit():
        return float(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _parse_gres(tres: str) -> dict[str, int]:
    """Return counts by GRES: 'billing=4,gres/gpu:h100=2,gres/gpu=2' -> {'gpu:h100': 2, 'gpu':
    2}."""
    pairs = re.findall(r"(?:^|,)gres/([^=,]+)=(\d+)", tres)
    return {name: int(count) for name, count in pairs}


def ask_own_job(job_id: str, environ: Mapping[str, str] = os.environ) -> OwnJob:
    """Return what Slurm says of the job that this process is; where it says nothing, what it said
    when the job began."""
    command = [*WITH_EPOCH_TIMES, "scontrol", "--oneliner", "show", "job", job_id]
    output, _ = run_command(command)
    if output is not None and (job := parse_own_job(output)) is not None:
        return job
    start, end = (environ.get(f"SLURM_JOB_{name}_TIME") for name in ("START", "END"))
    return OwnJob(_parse_epoch(start), _parse_epoch(end))


def parse_own_job(output: str) -> OwnJob | None:
    """Return the job of `scontrol --oneliner show job`; None where it names no start."""
    fields = dict(re.findall(r"(\w+)=(\S*)", output))
    if "StartTime" not in fields:
        return None
    preempted = _parse_epoch(fields.get("PreemptTime")) is not None
    return OwnJob(_parse_epoch(fields["StartTime"]), _parse_epoch(fields.get("EndTime")), preempted)


def _parse_epoch(text: str | None) -> float | None:
    """Return a time of scontrol as seconds since the epoch; None for 'Unknown', 'None' and
    'N/A'."""
    return float(text) if text is not None and text.isdigit() else None
