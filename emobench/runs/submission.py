"""Submit what a sweep lacks, and cancel what it has: the acting half of `emobench sweep`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from emobench.config.capacity import get_throttle
from emobench.config.free_settings import describe_changes, take_free_settings
from emobench.config.identity import find_differing_keys
from emobench.config.templates import list_template_dirs
from emobench.core.command_lock import hold
from emobench.core.errors import EmobenchError, InvalidInput, Problem
from emobench.core.files import describe_failure, is_full, read_json, write_atomic
from emobench.core.job_id import get_array_id
from emobench.core.ownership import make_folder, require_own
from emobench.core.plan import (
    Plan,
    get_server_name,
    list_blocks,
    list_instances,
    list_servers,
    load_plan,
    save_plan,
)
from emobench.core.run_dir import RunDir
from emobench.core.times import compute_age_s, to_seconds
from emobench.core.wording import pluralise
from emobench.runs.cell_state import (
    CellState,
    derive_cell_state,
    find_cell_jobs,
    find_job_of_cell,
    find_state,
)
from emobench.runs.forecast import keep_forecast
from emobench.runs.held_jobs import HeldJob, find_held
from emobench.scheduler.interface import JobState, Phase, is_live
from emobench.scheduler.render import CLEANUP_SCRIPT, GUARD, has_cleanup, is_script, render
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.budget import refuse_if_spent
from emobench.serving.demand import (
    ON_THEIR_WAY,
    SUBMISSION_S,
    describe_lessees,
    describe_server_need,
    list_arrays,
)
from emobench.serving.reuse import holds_lease, lease_servers
from emobench.store.endpoints import ServerLocation, load_api_key, locate_server, read_endpoint
from emobench.store.hosted_keys import find_hosted_key, save_hosted_keys
from emobench.store.jobs import JobKind, JobRecord, OnJob, add_jobs, note_cancelled, read_jobs
from emobench.store.leases import give_back_lease
from emobench.store.summaries import find_current_summary, renew_files

STAYS_S = 60.0
"""A kept server that stays for less is not counted on."""


PATIENCE_S = 120.0
"""How long a command waits for another one that submits or cancels jobs of the same run."""


@contextmanager
def submission_lock(
    run_dir: RunDir, say: Callable[[str], None], patience_s: float = PATIENCE_S
) -> Iterator[None]:
    """Be the one command that submits or cancels jobs of a run, from its first look at what there
    is. Raises Held, which names the other one, EmobenchError where the folder cannot be made, and
    InvalidInput where it is not this user's own.
    """
    with ExitStack() as held:
        try:
            require_own(run_dir)
            what = "submits or cancels jobs of this run"
            held.enter_context(hold(run_dir.submission_lock, what, patience_s, say))
        except OSError as error:
            raise _make_not_writable_error(run_dir, error) from None
        yield


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
    changes: Sequence[str] = ()
    """Settings that hold from now on for what was submitted before, in words."""
    not_taken: Sequence[str] = ()
    """Changes of the sweep that jobs in the queue cannot take."""


@dataclass(frozen=True)
class Todo:
    """What a submission has to do."""

    missing: Mapping[str, Sequence[int]]
    """Cells to submit, by block."""
    live: Mapping[str, Sequence[int]]
    """Cells that are not done and have a live job, by block."""
    servers: Sequence[str]
    """Instances to start, or to lease."""
    leaving: Sequence[JobRecord]
    """Live servers that are about to leave, in whose place others are started."""
    cleanup: bool
    """Whether live arrays are there that no clean-up job waits for."""
    held: Sequence[HeldJob]
    arrays: Sequence[JobRecord]
    """Live ones."""

    @property
    def submits(self) -> bool:
        """Whether cells or servers are to be submitted: the plan and the scripts are written."""
        return bool(self.missing or (self.live and self.servers))

    @property
    def missing_count(self) -> int:
        return sum(map(len, self.missing.values()))

    @property
    def live_count(self) -> int:
        return sum(map(len, self.live.values()))


def write_scripts(plan: Plan, run_dir: RunDir) -> list[Path]:
    """Write the plan and its scripts, and return the scripts' paths."""
    texts = render(plan, run_dir, list_template_dirs())
    _make_folders(plan, run_dir)
    save_plan(run_dir, plan)
    save_hosted_keys(run_dir, plan.sweep)
    paths = write_files(texts, run_dir.scripts)
    if f"{GUARD}.py" in texts:
        # vLLM's Python would make it as the umask says, and run the guard that somebody puts there.
        make_folder(run_dir.scripts / "__pycache__")
    for stale in set(run_dir.scripts.iterdir()) - set(paths):
        if is_script(stale.name) and stale.is_file():
            stale.unlink()
    return paths


def write_files(texts: Mapping[str, str], folder: Path) -> list[Path]:
    """Write rendered scripts into a folder, and return their paths."""
    for name, text in texts.items():
        write_atomic(folder / name, text, 0o755 if name.endswith((".sh", ".sbatch")) else 0o644)
    return [folder / name for name in texts]


def prepare_by_hand(plan: Plan, run_dir: RunDir, schedulers: Schedulers = SCHEDULERS) -> list[Path]:
    """Write the plan and its scripts for somebody who submits them; return the scripts' paths.

    The caller holds `submission_lock`. Raises EmobenchError where jobs of the run are in the queue:
    they would meet another plan than they were submitted with.
    """
    adopt_jobs(plan, run_dir, schedulers)
    if live := schedulers.find_live(read_jobs(run_dir)):
        raise EmobenchError(
            f"{run_dir.path} has {pluralise(len(live), 'job')} in the queue, the first is "
            f"{live[0]}\n  `emobench sweep` without --no-submit submits what is missing beside them"
        )
    keep_forecast(plan, run_dir, read_standing_plan(run_dir))
    paths = write_scripts(plan, run_dir)
    if list_servers(plan.sweep):
        load_api_key(run_dir, create=True)
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

    Settings that are free to change hold for what was submitted before, too. The caller holds
    `submission_lock`. Raises SubmissionRefused where the scheduler says no. What had been submitted
    by then is recorded, servers that would run alone are taken back, and the same call completes
    the rest. Raises InvalidInput where the run has used its max_gpu_hours or max_cost, or where the
    site's limits never let its jobs run.
    """
    check_keys(plan, run_dir)
    for job in adopt_jobs(plan, run_dir, schedulers):
        say(f"job {job.job_id}: {job.kind} {job.name}, found in the queue; nobody had recorded it")
    todo = decide(plan, run_dir, read_jobs(run_dir), schedulers)
    for cell in plan.cells:
        renew_files(run_dir, cell)
    count, waiting = todo.missing_count, todo.live_count
    standing = read_standing_plan(run_dir)
    if not todo.submits and standing is None:
        save_plan(run_dir, plan)  # it was lost, and has been made again
    if not count and not waiting:
        if standing is not None and (taken := take_changes(plan, standing)) != standing:
            save_plan(run_dir, taken)
        return Submission((), 0, 0)
    refuse_if_spent(plan, run_dir)
    scheduler = schedulers.find_for(plan.profile)
    old = standing or plan
    changes = describe_changes(old.sweep, plan.sweep) if waiting else []
    _set_throttle(plan, old, todo.arrays, schedulers, warn)
    if not todo.submits:
        if (taken := take_changes(plan, old)) != old:
            save_plan(run_dir, taken)
        save_hosted_keys(run_dir, taken.sweep)
        cleanup = scheduler.submit_cleanup(plan, run_dir, on_job, warn) if todo.cleanup else []
        return Submission(cleanup, 0, waiting, {}, todo.held, changes, list_not_taken(plan, old))
    check_limits(plan, run_dir, todo, warn, schedulers)
    schedulers.cancel([job for job in todo.leaving if schedulers.is_of(job, run_dir)])
    keep_forecast(plan, run_dir, standing)
    write_scripts(plan, run_dir)
    if list_servers(plan.sweep):
        load_api_key(run_dir, create=True)
    leased = lease_servers(plan, run_dir, todo.servers, say)
    servers = [server for server in todo.servers if server not in leased]
    submitted: list[JobRecord] = []
    try:
        submitted += scheduler.submit(plan, run_dir, todo.missing, servers, on_job)
    except BaseException:
        if not schedulers.find_live(
            [job for job in read_jobs(run_dir) if job.kind is JobKind.ARRAY]
        ):
            for location in leased.values():
                give_back_lease(location, run_dir)
        raise
    finally:
        # Also after a refusal: the arrays that were taken have servers.
        submitted += scheduler.submit_cleanup(plan, run_dir, on_job, warn)
    return Submission(submitted, count, waiting, leased, todo.held, changes)


def check_limits(
    plan: Plan,
    run_dir: RunDir,
    todo: Todo,
    warn: Callable[[str], None],
    schedulers: Schedulers = SCHEDULERS,
) -> None:
    """Tell `warn` where the site's limits make a run slower. Raises InvalidInput where its jobs
    would wait for ever, or would be refused."""
    own = {job.job_id for job in read_jobs(run_dir)}
    scheduler = schedulers.find_for(plan.profile)
    checks = list(scheduler.check_plan(plan, todo.servers, todo.missing, own))
    file = f"cluster {plan.profile.name}"
    if problems := [
        Problem(check.message, file, key=check.name, hint=check.hint)
        for check in checks
        if check.state == "failed"
    ]:
        raise InvalidInput(problems)
    for check in checks:
        if check.state == "warning":
            warn(f"{check.name}: {check.message}; {check.hint}")


def adopt_jobs(plan: Plan, run_dir: RunDir, schedulers: Schedulers = SCHEDULERS) -> list[JobRecord]:
    """Record jobs of the run that are in the queue and that nobody recorded, and return them.

    `plan` tells which cells are an array's, unless the run directory has one. Raises EmobenchError
    where the queue cannot be asked.
    """
    plan = read_standing_plan(run_dir) or plan
    if found := schedulers.find_unrecorded(plan, run_dir, read_jobs(run_dir)):
        add_jobs(run_dir, found)
    return found


def read_standing_plan(run_dir: RunDir) -> Plan | None:
    """Return the plan of the last submission; None where there is none that can be read."""
    return None if read_json(run_dir.plan) is None else load_plan(run_dir)


def decide(
    plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord], schedulers: Schedulers = SCHEDULERS
) -> Todo:
    """Return what is to be done for the plan, given the run's `jobs`. Asks the queue; changes
    nothing."""
    states = schedulers.ask_states(jobs)
    missing, live = find_missing_cells(plan, run_dir, jobs, states)
    live_ids = {get_array_id(job_id) for job_id, state in states.items() if state.live}
    alive = [job for job in jobs if job.job_id in live_ids]
    queued = {job_id for job_id, state in states.items() if state.phase is Phase.QUEUED}
    names = list_servers(plan.sweep)
    blocks = {*missing, *live}
    needed = {name for name in names if not list_blocks(plan, name).isdisjoint(blocks)}
    kept = {name for name in names if list_arrays(plan, alive, name)}
    servers = [
        job for job in alive if job.kind is JobKind.SERVER and get_server_name(job.name) in needed
    ]
    staying = [
        job.name
        for job in servers
        if get_server_name(job.name) in kept
        or will_stay(run_dir, job, schedulers)
        or _awaits_arrays(plan, run_dir, jobs, job, job.job_id in queued, schedulers)
    ]
    kept_jobs = [job for job in servers if job.name in staying]
    arrays = [job for job in alive if job.kind is JobKind.ARRAY]
    after_last = jobs[jobs.index(arrays[-1]) :] if arrays else []
    covered = any(job.kind is JobKind.CLEANUP and job in alive for job in after_last)
    return Todo(
        missing=missing,
        live=live,
        servers=[
            name
            for name in list_instances(plan.sweep)
            if get_server_name(name) in needed
            and name not in staying
            and not (get_server_name(name) in kept and holds_lease(run_dir, name))
        ],
        # Its last cell has ended: a fresh one is sure to stay. A server that is one job with
        # another leaves with it.
        leaving=schedulers.find_free(servers, kept_jobs),
        cleanup=bool(arrays)
        and not covered
        and has_cleanup(plan)
        and (run_dir.scripts / CLEANUP_SCRIPT).exists(),
        held=find_held(jobs, states),
        arrays=arrays,
    )


def _awaits_arrays(
    plan: Plan,
    run_dir: RunDir,
    jobs: Sequence[JobRecord],
    server: JobRecord,
    queued: bool,
    schedulers: Schedulers,
) -> bool:
    """Return whether a server waits for arrays that nobody submitted yet, and will do so for long
    enough: the command that was to do so was killed, or the server was submitted by hand."""
    later_s = SUBMISSION_S + (0.0 if queued else compute_age_s(server.submitted))
    who = describe_server_need(plan, run_dir, jobs, server, later_s, schedulers=schedulers)
    return who == ON_THEIR_WAY


def _set_throttle(
    plan: Plan,
    old: Plan,
    arrays: Sequence[JobRecord],
    schedulers: Schedulers,
    warn: Callable[[str], None],
) -> None:
    """Have a changed throttle hold for arrays that are submitted."""
    if arrays and get_throttle(old) != get_throttle(plan):
        try:
            schedulers.set_throttle(arrays, get_throttle(plan))
        except EmobenchError as error:
            warn(f"arrays in the queue keep their throttle: {error}")


def take_changes(plan: Plan, old: Plan) -> Plan:
    """Return the plan `old` with what is free to change as `plan` has it."""
    sweep = take_free_settings(old.sweep, plan.sweep)
    price = {"accelerator_hour_price": plan.profile.accelerator_hour_price}
    profile = old.profile.model_copy(update=price)
    return old.model_copy(
        update={
            "sweep": sweep,
            "profile": profile,
            "gates_changed": plan.gates_changed,
            "gates_declared": plan.gates_declared,
        }
    )


def list_not_taken(plan: Plan, old: Plan) -> list[str]:
    """Return the other changes, which jobs in the queue do not take, in words."""
    return find_differing_keys(collect_settings(take_changes(plan, old)), collect_settings(plan))


def collect_settings(plan: Plan) -> dict[str, object]:
    """Return what the sweep file and its profile say."""
    profile = plan.profile.model_dump(mode="json")
    return {**plan.sweep.model_dump(mode="json"), "profile": profile}


def find_missing_cells(
    plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord], states: Mapping[str, JobState]
) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return the cells to submit by block name, and those that are with a live job already."""
    ids = find_cell_jobs(plan, jobs)
    live: dict[str, list[int]] = {}
    missing: dict[str, list[int]] = {}
    for block in plan.blocks:
        for number in block.cells:
            cell = plan.cells[number]
            summary = find_current_summary(run_dir, cell, check=True)
            job = find_job_of_cell(number, ids, summary, states)
            if derive_cell_state(cell, summary, job, states)[0] is CellState.DONE:
                continue
            if job is not None and is_live(find_state(job, states)):
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


def cancel(
    run_dir: RunDir,
    force: bool = False,
    schedulers: Schedulers = SCHEDULERS,
    say: Callable[[str], None] = lambda text: None,
) -> Cancelled:
    """Stop every live job of the run and wait until it is gone; results stay.

    Servers that other sweeps lease are left, unless `force`. Raises EmobenchError where a job does
    not go away.
    """
    plan = load_plan(run_dir)
    with submission_lock(run_dir, say):
        stopped: dict[tuple[str, str], JobRecord] = {}
        foreign: dict[tuple[str, str], JobRecord] = {}
        shared: dict[str, str] = {}
        while True:
            adopt_jobs(plan, run_dir, schedulers)
            live = []
            for job in schedulers.find_live(read_jobs(run_dir)):
                if schedulers.is_of(job, run_dir):
                    live.append(job)
                else:
                    foreign[job.handle] = job
            servers = [] if force else [job for job in live if job.kind is JobKind.SERVER]
            leased = {
                job.job_id: describe_lessees(run_dir, job.name, schedulers) for job in servers
            }
            shared |= {_name_job(job): who for job in live if (who := leased.get(job.job_id))}
            # A server may have submitted its successor meanwhile.
            kept = [job for job in live if leased.get(job.job_id)]
            stopping = [
                job for job in schedulers.find_free(live, kept) if job.handle not in stopped
            ]
            if not stopping:
                break
            with suppress(OSError):  # a full disk must not keep jobs running
                note_cancelled(run_dir, stopping)
            schedulers.cancel(stopping)
            stopped |= {job.handle: job for job in stopping}
        for job in foreign.values():
            say(f"{_name_job(job)} is left alone: on record here, but it is another run's or none")
        for instance in list_instances(plan.sweep):
            give_back_lease(locate_server(run_dir, instance), run_dir)
    return Cancelled([_name_job(job) for job in stopped.values()], shared)


def _name_job(job: JobRecord) -> str:
    return f"{job.name} ({job.job_id})"


def will_stay(run_dir: RunDir, job: JobRecord, schedulers: Schedulers = SCHEDULERS) -> bool:
    """Return whether a server that nothing here needs stays long enough for a new array to find
    it."""
    if describe_lessees(run_dir, job.name, schedulers):
        return True
    endpoint = read_endpoint(run_dir, job.name)
    if endpoint is None or endpoint.job_id != job.job_id or endpoint.state != "ready":
        return False
    until = to_seconds(endpoint.kept_until)
    return until is not None and until - time.time() > STAYS_S


def check_keys(plan: Plan, run_dir: RunDir) -> None:
    """Raise InvalidInput where the key of an endpoint is neither in the environment nor kept."""
    problems = []
    for role, model in (("user", plan.sweep.user), *plan.sweep.assistants.items()):
        if (
            model.engine == "openai"
            and not model.base_url
            and not find_hosted_key(run_dir, model.api_key_env)
        ):
            problems.append(
                Problem(
                    f"the variable {model.api_key_env} is not set",
                    file=plan.sweep_file,
                    key=f"{role}.api_key_env",
                    hint=f"export {model.api_key_env}=... before submitting; jobs read it from "
                    f"{run_dir.hosted_keys}, which is for you alone",
                )
            )
    if problems:
        raise InvalidInput(problems)


def _make_folders(plan: Plan, run_dir: RunDir) -> None:
    """Make every folder that a job writes to; Slurm creates none, and fails tasks for lack of
    one."""
    try:
        for folder in (run_dir.path, run_dir.scripts, run_dir.submitit):
            make_folder(folder)
        # submitit's files, of which one is executed, have whatever mode the umask gives them.
        run_dir.submitit.chmod(0o700)
        Path(plan.logs).mkdir(parents=True, exist_ok=True)
        run_dir.endpoints.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _make_not_writable_error(run_dir, error) from None


def _make_not_writable_error(run_dir: RunDir, error: OSError) -> EmobenchError:
    error.filename = error.filename or str(run_dir.path)
    if is_full(error):
        return EmobenchError(f"{describe_failure(error)}\n  make room, or raise the quota")
    hint = "choose a folder that you can write to and that the nodes share: --run-dir DIR"
    if run_dir.plan.exists():
        hint = "who submits or cancels jobs of a run has to be able to write to its folder"
    return EmobenchError(f"{error.filename}: {error.strerror}\n  {hint}")
