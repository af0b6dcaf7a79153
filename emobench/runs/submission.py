"""Submit what a sweep lacks, and cancel what it has: the acting half of `emobench sweep`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from emobench.config.templates import template_dirs
from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.files import write_atomic
from emobench.core.job_id import array_of
from emobench.core.plan import (
    Plan,
    blocks_of_server,
    instances_of,
    load_plan,
    save_plan,
    server_of,
    servers_of,
)
from emobench.core.run_dir import RunDir
from emobench.core.times import seconds
from emobench.runs.cell_state import CellState, cell_jobs, cell_state, state_of
from emobench.runs.held_jobs import HeldJob, find_held
from emobench.scheduler.interface import JobState, is_live
from emobench.scheduler.render import render
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.budget import refuse_if_spent
from emobench.serving.demand import arrays_of_server, who_leases
from emobench.serving.reuse import holds_lease, lease_servers, release_lease
from emobench.store.endpoints import ServerLocation, api_key, locate_server, read_endpoint
from emobench.store.jobs import JobKind, JobRecord, OnJob, note_cancelled, read_jobs
from emobench.store.summaries import current_summary, renew_files

LIMITS = ("idle_limit_min", "keep_servers_min", "max_gpu_hours", "max_cost")
"""Keys that servers and cells take anew while they run."""
STAYS_S = 60.0
"""A kept server that stays for less is not counted on."""


@dataclass(frozen=True)
class Submission:
    """What a submission did."""

    submitted: Sequence[JobRecord]
    missing: int
    """Cells that lacked episodes and had no job before this call."""
    live: int
    """Cells whose job was waiting or running already."""
    leased: Mapping[str, ServerLocation] = field(default_factory=dict)
    """Servers of other sweeps that this one uses now, by what they stand for."""
    held: Sequence[HeldJob] = ()
    """Jobs of earlier calls that wait to be released."""


def write_scripts(plan: Plan, run_dir: RunDir) -> list[Path]:
    """Write the plan and its scripts: what --dry-run shows is what is submitted."""
    texts = render(plan, run_dir, template_dirs())
    _make_folders(plan, run_dir)
    save_plan(run_dir, plan)
    paths = []
    for name, text in texts.items():
        path = run_dir.scripts / name
        write_atomic(path, text, 0o755 if name.endswith((".sh", ".sbatch")) else 0o644)
        paths.append(path)
    for stale in set(run_dir.scripts.iterdir()) - set(paths):
        if stale.is_file():  # Python keeps a folder of its own beside the guard
            stale.unlink()
    return paths


def submit(
    plan: Plan,
    run_dir: RunDir,
    on_job: OnJob = lambda job: None,
    warn: Callable[[str], None] = lambda text: None,
    say: Callable[[str], None] = lambda text: None,
    schedulers: Schedulers = SCHEDULERS,
) -> Submission:
    """Submit the servers and arrays for the cells that are missing; nothing if there are none.

    Raises SubmissionRefused where the scheduler says no. What had been submitted by then is
    recorded, servers that would run alone are taken back, and the same call completes the rest.
    Raises InvalidInput where the run has used its max_gpu_hours or max_cost.
    """
    _check_keys(plan)
    jobs = read_jobs(run_dir)
    states = schedulers.states(jobs)
    missing, live = missing_cells(plan, run_dir, jobs, states)
    for cell in plan.cells:
        renew_files(run_dir, cell)
    count, waiting = (sum(map(len, each.values())) for each in (missing, live))
    if not count and not live:
        return Submission((), 0, 0)
    refuse_if_spent(plan, run_dir)
    servers = _servers_to_start(plan, run_dir, {*missing, *live}, jobs, states, schedulers)
    if not count and not servers:
        _apply_limits(plan, run_dir)
        return Submission((), 0, waiting, held=find_held(jobs, states))
    write_scripts(plan, run_dir)
    if servers_of(plan.sweep):
        api_key(run_dir, create=True)
    leased = lease_servers(plan, run_dir, servers, say)
    servers = [server for server in servers if server not in leased]
    scheduler = schedulers.of(plan.profile)
    submitted: list[JobRecord] = []
    try:
        submitted += scheduler.submit(plan, run_dir, missing, servers, on_job)
    except BaseException:
        if not schedulers.live([job for job in read_jobs(run_dir) if job.kind is JobKind.ARRAY]):
            for location in leased.values():
                release_lease(location)
        raise
    finally:
        # Also after a refusal: the arrays that were taken have servers.
        submitted += scheduler.submit_cleanup(plan, run_dir, on_job, warn)
    return Submission(submitted, count, waiting, leased, find_held(jobs, states))


def _apply_limits(plan: Plan, run_dir: RunDir) -> None:
    """Let the limits of the sweep file hold for servers that run already."""
    old = load_plan(run_dir)
    limits = {key: getattr(plan.sweep, key) for key in LIMITS}
    if any(getattr(old.sweep, key) != value for key, value in limits.items()):
        sweep = old.sweep.model_copy(update=limits)
        save_plan(run_dir, old.model_copy(update={"sweep": sweep}))


def missing_cells(
    plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord], states: Mapping[str, JobState]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Cells to submit by block name, and those that are with a live job already."""
    ids = cell_jobs(plan, jobs)
    live: dict[str, list[int]] = {}
    missing: dict[str, list[int]] = {}
    for block in plan.blocks:
        for number in block.cells:
            cell, job = plan.cells[number], ids.get(number)
            summary = current_summary(run_dir, cell, check=True)
            if cell_state(cell, summary, job, states)[0] is CellState.DONE:
                continue
            if job is not None and is_live(state_of(job, states)):
                live.setdefault(block.name, []).append(number)
            else:
                missing.setdefault(block.name, []).append(number)
    return missing, live


@dataclass(frozen=True)
class Cancelled:
    """What became of the live jobs of a run."""

    stopped: Sequence[str]
    shared: Mapping[str, str]
    """Servers that were left alone, and who needs them in other sweeps."""


def cancel(run_dir: RunDir, force: bool = False, schedulers: Schedulers = SCHEDULERS) -> Cancelled:
    """Stop every live job of the run and wait until it is gone; results stay.

    Servers that other sweeps lease are left, unless `force`. Raises EmobenchError where a job does
    not go away.
    """
    plan = load_plan(run_dir)
    live = schedulers.live(read_jobs(run_dir))
    servers = [] if force else [job for job in live if job.kind is JobKind.SERVER]
    leased = {job.job_id: who_leases(run_dir, job.name, schedulers) for job in servers}
    stopped = [job for job in live if not leased.get(job.job_id)]
    if stopped:
        with suppress(OSError):  # a full disk must not keep jobs running
            note_cancelled(run_dir, stopped)
    schedulers.cancel(stopped)
    for instance in instances_of(plan.sweep):
        release_lease(locate_server(run_dir, instance))
    return Cancelled(
        [_name(job) for job in stopped],
        {_name(job): leased[job.job_id] for job in live if job not in stopped},
    )


def _name(job: JobRecord) -> str:
    return f"{job.name} ({job.job_id})"


def _servers_to_start(
    plan: Plan,
    run_dir: RunDir,
    blocks_to_run: Collection[str],
    jobs: Sequence[JobRecord],
    states: Mapping[str, JobState],
    schedulers: Schedulers,
) -> list[str]:
    """Instances that these blocks need and that neither a live array nor `keep_servers_min` keeps
    alive already. Servers that are about to leave are cancelled."""
    live_ids = {array_of(job_id) for job_id, state in states.items() if state.live}
    live = [job for job in jobs if job.job_id in live_ids]
    names = servers_of(plan.sweep)
    needed = {name for name in names if not blocks_of_server(plan, name).isdisjoint(blocks_to_run)}
    kept = {name for name in names if arrays_of_server(plan, live, name)}
    servers = [job for job in live if job.kind is JobKind.SERVER]
    staying = [
        job for job in servers if server_of(job.name) in kept or will_stay(run_dir, job, schedulers)
    ]
    # Its last cell has ended, so it is about to leave: a fresh one is sure to stay.
    schedulers.cancel(
        [job for job in servers if server_of(job.name) in needed and job not in staying]
    )
    alive = {job.name for job in staying}
    return [
        name
        for name in instances_of(plan.sweep)
        if server_of(name) in needed
        and name not in alive
        and not (server_of(name) in kept and holds_lease(run_dir, name))
    ]


def will_stay(run_dir: RunDir, job: JobRecord, schedulers: Schedulers = SCHEDULERS) -> bool:
    """Whether a server that nothing here needs stays long enough for a new array to find it."""
    if who_leases(run_dir, job.name, schedulers):
        return True
    endpoint = read_endpoint(run_dir, job.name)
    if endpoint is None or endpoint.job_id != job.job_id or endpoint.state != "ready":
        return False
    until = seconds(endpoint.kept_until)
    return until is not None and until - time.time() > STAYS_S


def _check_keys(plan: Plan) -> None:
    problems = []
    for role, model in (("user", plan.sweep.user), *plan.sweep.assistants.items()):
        if (
            model.engine == "openai"
            and not model.base_url
            and not os.environ.get(model.api_key_env)
        ):
            problems.append(
                Problem(
                    f"the variable {model.api_key_env} is not set",
                    file=plan.sweep_file,
                    key=f"{role}.api_key_env",
                    hint=f"export {model.api_key_env}=... before submitting; it is never stored",
                )
            )
    if problems:
        raise InvalidInput(problems)


def _make_folders(plan: Plan, run_dir: RunDir) -> None:
    """Every folder that a job writes to; Slurm creates none, and fails tasks for lack of one."""
    folders = [run_dir.path, run_dir.scripts, run_dir.submitit, Path(plan.logs)]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        run_dir.endpoints.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise EmobenchError(
            f"{error.filename or run_dir.path}: {error.strerror}\n"
            "  choose a folder that you can write to and that the nodes share: --run-dir DIR"
        ) from None
