"""Submit a run's scripts to Slurm: servers first, then the arrays that depend on them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emobench.config.capacity import throttle_of
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError, InvalidInput, Problem, SubmissionRefused
from emobench.core.plan import USER_SERVER, Plan, assistant_server, server_of
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.scheduler.queue import any_live, cancel_slurm, job_states, run_command
from emobench.scheduler.render import array_script, server_arguments, server_script
from emobench.store.jobs import add_jobs, read_jobs, record, remove_jobs

OnJob = Callable[[Mapping[str, Any]], None]

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


def max_array_size(profile: ClusterProfile) -> int:
    """The number of indices that an array may have here: the profile's word, or the site's.

    Raises InvalidInput where neither says it.
    """
    if profile.max_array_size is not None:
        return profile.max_array_size
    output, error = run_command(["scontrol", "show", "config"])
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", output or "", re.MULTILINE)
    if match is None:
        raise InvalidInput(
            Problem(
                f"cannot ask Slurm for its MaxArraySize: {error.strip() or 'it is not listed'}",
                key="max_array_size",
                file=profile.name,
                hint="run this where Slurm's commands work, set max_array_size in the profile, or "
                "choose another profile with --cluster",
            )
        )
    if int(match[1]) < 2:
        raise InvalidInput("this site allows no job arrays (MaxArraySize is below 2)")
    return int(match[1])


def submit(
    plan: Plan,
    run_dir: RunDir,
    missing: Mapping[str, Sequence[int]],
    servers: Sequence[str],
    on_job: OnJob = lambda job: None,
) -> list[dict[str, Any]]:
    """Submit `servers`, and the cells `missing` by block, from the scripts on disk.

    jobs.json is complete after each job. Raises SubmissionRefused where sbatch says no: arrays
    that were submitted stay with their servers, servers without an array are taken back.
    """
    submitted: list[dict[str, Any]] = []
    try:
        _submit(plan, run_dir, missing, servers, on_job, submitted)
    except BaseException as error:
        taken_back = _take_back_lonely(plan, run_dir, submitted)
        if isinstance(error, SubmissionRefused) and taken_back:
            raise SubmissionRefused(f"{error}\n  taken back: {', '.join(taken_back)}") from error
        raise
    return submitted


def cancel(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Cancel the jobs of these records and wait until they are gone. Raises EmobenchError."""
    cancel_slurm([str(job["job_id"]) for job in jobs])


def _submit(
    plan: Plan,
    run_dir: RunDir,
    missing: Mapping[str, Sequence[int]],
    servers: Sequence[str],
    on_job: OnJob,
    submitted: list[dict[str, Any]],
) -> None:
    from emobench.scheduler.executor import ScriptExecutor

    try:
        executor = ScriptExecutor(run_dir.submitit)
    except RuntimeError as error:
        raise SubmissionRefused(
            f"this machine has no Slurm ({error}); submit on a login node, or use --cluster local"
        ) from error

    def send(job: dict[str, Any], options: Sequence[str]) -> None:
        arguments = server_arguments(job["name"]) if job["kind"] == "server" else ()
        job["job_id"] = sbatch(executor, run_dir, job, options, arguments)
        submitted.append(job)
        add_jobs(run_dir, "slurm", [job])
        on_job(job)

    for server in servers:
        # An earlier job's file would be taken for the new one's: its "failed" ends the wait.
        run_dir.endpoint(server).unlink(missing_ok=True)
        run_dir.successor(server).unlink(missing_ok=True)
        send(record("server", server, "", server_script(server_of(server))), ())
    waiting = _waiting_servers(run_dir)
    for block in plan.blocks:
        cells = sorted(missing.get(block.name, ()))
        if not cells:
            continue
        indices = format_ranges((cell - block.first_cell for cell in cells), comma=",")
        options = [f"--array={indices}%{throttle_of(plan)}"]
        needed = (USER_SERVER, assistant_server(block.assistant))
        if ids := [waiting[server] for server in needed if server in waiting]:
            options.append(f"--dependency=after:{':'.join(ids)}")
        send(record("array", block.name, "", array_script(block.name), cells), options)


def sbatch(
    executor: Any,
    run_dir: RunDir,
    job: Mapping[str, Any],
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> str:
    """Submit a record's script; its job id. Raises SubmissionRefused with advice."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    script = run_dir.path / str(job["script"])
    try:
        return str(executor.submit_script(script, options, arguments).job_id)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip() or "nothing (is Slurm's controller up? try `squeue`)"
        advice = next((text for pattern, text in ADVICE if re.search(pattern, said)), "")
        lines = [f"sbatch refused {job['script']} ({' '.join(options) or 'no options'}):"]
        lines += [f"  {line}" for line in said.splitlines()]
        raise SubmissionRefused("\n".join([*lines, *([f"  {advice}"] if advice else [])])) from None


def _waiting_servers(run_dir: RunDir) -> dict[str, str]:
    """Job id by server of which no replica has started yet: of the first in the queue.

    An array can begin with one replica, and Slurm cannot be told to wait for any one of several.
    """
    jobs = [job for job in read_jobs(run_dir) if job["kind"] == "server"]
    states = job_states(jobs)
    waiting: dict[str, str] = {}
    started: set[str] = set()
    for job in jobs:
        server, job_id = server_of(job["name"]), str(job["job_id"])
        if job_id not in states or not states[job_id].live:
            continue
        if states[job_id].state in ("PENDING", "UNKNOWN", "CONFIGURING"):
            waiting.setdefault(server, job_id)
        else:
            started.add(server)
    return {server: job_id for server, job_id in waiting.items() if server not in started}


def _take_back_lonely(
    plan: Plan, run_dir: RunDir, submitted: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Cancel the servers of this call that no live array needs; returns their names."""
    arrays = [job for job in read_jobs(run_dir) if job["kind"] == "array"]
    assistants = {block.name: block.assistant for block in plan.blocks}
    lonely = []
    for job in submitted:
        if job["kind"] != "server":
            continue
        needing = [
            array
            for array in arrays
            if server_of(job["name"])
            in (USER_SERVER, assistant_server(assistants.get(array["name"], "")))
        ]
        if not (needing and any_live(needing)):
            lonely.append(job)
    if not lonely:
        return []
    # The refusal is what the user has to read; a scancel that fails must not hide it.
    with contextlib.suppress(EmobenchError):
        cancel_slurm([str(job["job_id"]) for job in lonely])
        remove_jobs(run_dir, "slurm", [str(job["job_id"]) for job in lonely])
    return [f"{job['name']} (job {job['job_id']})" for job in lonely]
