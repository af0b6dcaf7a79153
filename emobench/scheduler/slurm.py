"""Slurm: servers go first, then the arrays that depend on them, then the job that cleans up."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.core.cluster import ClusterProfile
from emobench.core.errors import EmobenchError, InvalidInput, Problem, SubmissionRefused
from emobench.core.job_id import (
    format_server_id,
    get_queue_id,
    read_local_job_id,
    read_own_task_id,
    read_slurm_job_id,
)
from emobench.core.output import say, warn
from emobench.core.plan import (
    Plan,
    get_placement,
    get_replica_number,
    get_server_name,
    list_blocks,
    list_needed_servers,
    load_plan,
)
from emobench.core.run_dir import RunDir
from emobench.core.site_check import Check
from emobench.core.times import to_iso
from emobench.scheduler.interface import Accounts, JobState, OwnJob, Scheduler, is_live
from emobench.scheduler.job_comment import SEPARATOR, JobComment, find_run_in_comment, read_comment
from emobench.scheduler.render import (
    CLEANUP_SCRIPT,
    build_server_arguments,
    find_first_pair,
    format_array_option,
    has_cleanup,
    name_array_script,
    name_pair_script,
    name_server_script,
)
from emobench.scheduler.sbatch_lines import find_waiting_servers
from emobench.scheduler.slurm_commands import (
    ask_own_job,
    ask_slurm_accounts,
    ask_slurm_states,
    cancel_slurm,
    find_advice,
    find_commented_jobs,
    find_live_arrays,
    find_queued_command,
    run_command,
)
from emobench.store.hosted_keys import list_key_variables
from emobench.store.jobs import (
    JobKind,
    JobRecord,
    OnJob,
    add_jobs,
    make_record,
    read_jobs,
    remove_jobs,
)

if TYPE_CHECKING:
    # submitit takes a quarter of a second to import.
    from emobench.scheduler.executor import ScriptExecutor

NO_HETJOBS = "not supported on this system|heterogeneous|het ?job"
"""What sbatch says where a site takes no heterogeneous jobs: Slurm's own words (its scheduler plans
them with sched/backfill only), or a submit filter's."""
CELLS_END_S = 25.0
"""From a cell's SIGTERM until its episodes in flight have ended or are abandoned (20 s)."""


class SlurmScheduler(Scheduler):
    """Submits through submitit and sbatch; asks squeue and sacct."""

    name = "slurm"
    queue = "squeue"
    queue_check_s = 10.0

    def submit(
        self,
        plan: Plan,
        run_dir: RunDir,
        missing: Mapping[str, Sequence[int]],
        servers: Sequence[str],
        on_job: OnJob = lambda job: None,
    ) -> list[JobRecord]:
        """Submit servers and cells. Arrays that were submitted before a refusal stay with their
        servers; servers without an array are taken back."""
        submitted: list[JobRecord] = []

        def note(*jobs: JobRecord) -> None:
            submitted.extend(jobs)
            add_jobs(run_dir, jobs)
            for job in jobs:
                on_job(job)

        try:
            executor = _make_executor(run_dir, plan)
            for server in servers:
                # An earlier job's file would be taken for the new one's: its "failed" ends the
                # wait.
                run_dir.endpoint(server).unlink(missing_ok=True)
                run_dir.successor(server).unlink(missing_ok=True)
            pair = find_first_pair(plan, servers)
            try:
                if pair:
                    note(*_submit_pair(executor, plan, run_dir, pair))
            except SubmissionRefused as error:
                if not re.search(NO_HETJOBS, str(error), re.IGNORECASE):
                    raise
                warn(f"{error}\n  each server becomes a job of its own (placement: apart)")
                pair = ()
            for server in servers:
                if server not in pair:
                    note(_submit_server(executor, run_dir, server))
            own = self._read_own_jobs(run_dir, JobKind.SERVER)
            waiting = find_waiting_servers(own, self.ask_states(own))
            for block in plan.blocks:
                cells = sorted(missing.get(block.name, ()))
                if not cells:
                    continue
                options = [format_array_option(plan, block, cells)]
                needed = list_needed_servers(block.assistant)
                ids = [get_queue_id(waiting[server]) for server in needed if server in waiting]
                if ids:
                    options.append(f"--dependency=after:{':'.join(dict.fromkeys(ids))}")
                script = name_array_script(block.name)
                job = make_record(JobKind.ARRAY, block.name, "", script, cells=tuple(cells))
                note(sbatch(executor, run_dir, job, options))
        except BaseException as error:
            # sbatch may have been ended, or not have heard, after Slurm had said yes.
            with contextlib.suppress(EmobenchError):
                known = {job.job_id for job in read_jobs(run_dir)}
                for job in self.find_jobs(plan, run_dir):
                    if job.job_id not in known:
                        note(job)
            taken_back = self._cancel_unneeded(plan, run_dir, submitted)
            if isinstance(error, SubmissionRefused) and taken_back:
                refusal = f"{error}\n  taken back: {', '.join(taken_back)}"
                raise SubmissionRefused(refusal) from error
            raise
        return submitted

    def submit_cleanup(
        self, plan: Plan, run_dir: RunDir, on_job: OnJob, warn: Callable[[str], None]
    ) -> list[JobRecord]:
        """Submit a clean-up job for all live arrays, in place of an earlier one.

        Where Slurm refuses it `warn` is told: the servers leave by themselves in nearly every case.
        """
        if not has_cleanup(plan):
            return []
        live = self.find_live(self._read_own_jobs(run_dir))
        arrays = [job.job_id for job in live if job.kind is JobKind.ARRAY]
        if not arrays:
            return []
        job = make_record(JobKind.CLEANUP, "cleanup", "", CLEANUP_SCRIPT)
        try:
            after = f"--dependency=afterany:{':'.join(arrays)}"
            job = sbatch(_make_executor(run_dir, plan), run_dir, job, [after])
        except SubmissionRefused as error:
            warn(
                f"no clean-up job: {error}\n  the sweep goes on without it. Its servers leave by "
                f"themselves; look with `emobench status {run_dir.path}`"
            )
            return []
        add_jobs(run_dir, [job])
        on_job(job)
        # The new one waits for the same arrays and more; one that cannot be cancelled does no harm.
        for earlier in live:
            if earlier.kind is JobKind.CLEANUP:
                self.withdraw(earlier)
        return [job]

    def submit_successors(
        self, run_dir: RunDir, taking_over: Mapping[str, str], after: str = ""
    ) -> list[JobRecord]:
        plan = load_plan(run_dir)
        executor = _make_executor(run_dir, plan)
        options = [f"--dependency=after:{get_queue_id(after)}"] if after else []
        if pair := find_first_pair(plan, taking_over) if len(taking_over) > 1 else ():
            return _submit_pair(executor, plan, run_dir, pair, taking_over)
        for instance in taking_over:
            script = name_server_script(get_server_name(instance))
            if '"$@"' not in (run_dir.scripts / script).read_text(encoding="utf-8"):
                raise SubmissionRefused(f'{script} hands no arguments on ("$@")')
        return [
            _submit_server(executor, run_dir, instance, job_id, options)
            for instance, job_id in taking_over.items()
        ]

    def get_whole_id(self, job: JobRecord) -> str:
        """Return the id of the first part of a heterogeneous job: the others end with it."""
        queued = get_queue_id(job.job_id)
        second = Path(job.script).name == name_pair_script(job.name) and queued == job.job_id
        return str(int(queued) - 1) if second else queued

    def starts_together(self, run_dir: RunDir, instance: str, partner: JobRecord) -> bool:
        """Whether they are a pair; a part of another heterogeneous job cannot leave it."""
        pair = find_first_pair(load_plan(run_dir), (instance, partner.name))
        return bool(pair) and Path(partner.script).name == name_server_script(partner.name)

    def replace_queued(self, run_dir: RunDir, job: JobRecord, instead: Sequence[JobRecord]) -> bool:
        after = ":".join(dict.fromkeys(get_queue_id(server.job_id) for server in instead))
        blocks = list_blocks(load_plan(run_dir), job.name)
        for array in self._read_own_jobs(run_dir, JobKind.ARRAY):
            if array.name in blocks:
                # A job that is cancelled counts as started for those behind it. Tasks that run
                # stay as they are; one that cannot be changed waits as a cell.
                change = [f"JobId={array.job_id}", f"Dependency=after:{after}"]
                run_command(["scontrol", "update", *change])
        run_command(["scancel", "--state=PENDING", get_queue_id(job.job_id)])
        return not is_live(self.ask_states([job]).get(job.job_id))

    def find_jobs(self, plan: Plan, run_dir: RunDir) -> list[JobRecord]:
        """Find jobs by their comments (`JobComment`)."""
        if shutil.which("squeue") is None or not run_dir.path.exists():
            return []
        blocks = {block.name: block for block in plan.blocks}
        found = []
        commented = [
            (job, comment)
            for job in find_commented_jobs({run_dir.path.stat().st_uid, os.geteuid()})
            if (comment := read_comment(job.comment, run_dir)) is not None
        ]
        # Of a heterogeneous job the user's server is the first part.
        pairs = {
            job.whole: name_pair_script(comment.name)
            for job, comment in commented
            if job.whole not in ("", job.job_id)
        }
        for job, comment in commented:
            record = JobRecord(
                comment.kind,
                comment.name,
                job.job_id,
                f"scripts/{pairs.get(job.whole) or _find_script(comment)}",
                submitted=to_iso(job.submitted),
                takes_over=comment.takes_over,
            )
            if comment.kind is JobKind.ARRAY and (block := blocks.get(comment.name)):
                cells = tuple(block.cells[index] for index in job.indices if index < block.size)
                record = replace(record, cells=cells)
            names = comment.name.split(SEPARATOR)
            if len(names) == 1:
                found.append(record)
                continue
            for place, name in enumerate(names):
                own = format_server_id(job.job_id, place)
                found.append(replace(record, name=name, job_id=own))
        return found

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        """Return the state by job id; the tasks of arrays stand as '<job id>_<index>'."""
        ids = {job.job_id: get_queue_id(job.job_id) for job in jobs}
        states = ask_slurm_states(sorted(set(ids.values())))
        return states | {own: states[queued] for own, queued in ids.items() if queued in states}

    def find_live(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        alive = find_live_arrays(sorted({get_queue_id(job.job_id) for job in jobs}))
        return [job for job in jobs if get_queue_id(job.job_id) in alive]

    def cancel(self, jobs: Sequence[JobRecord]) -> None:
        cancel_slurm([get_queue_id(job.job_id) for job in jobs])

    def is_of(self, job: JobRecord, run_dir: RunDir) -> bool:
        """Judge by its comment, or where that is none of ours, by the script that was submitted."""
        queued = find_queued_command(get_queue_id(job.job_id))
        if queued is None:
            return True
        if (owner := find_run_in_comment(queued.comment)) is not None:
            return owner == run_dir.identity
        return not queued.script or Path(queued.script).is_relative_to(run_dir.path)

    def withdraw(self, job: JobRecord) -> None:
        run_command(["scancel", get_queue_id(job.job_id)])

    def set_throttle(self, arrays: Sequence[JobRecord], throttle: int) -> None:
        """Set the throttle of each array."""
        for array in arrays:
            change = [f"JobId={array.job_id}", f"ArrayTaskThrottle={throttle}"]
            output, error = run_command(["scontrol", "update", *change])
            # One that ended meanwhile needs none.
            if output is None and self.find_live([array]):
                raise EmobenchError(f"scontrol update {' '.join(change)}: {error.strip()}")

    def stop_cells(
        self, jobs: Sequence[JobRecord], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """End arrays as `Scheduler` says. Takes up to `CELLS_END_S` seconds and the time that Slurm
        takes."""
        ids = [job.job_id for job in jobs]
        # Slurm's own end of a job leaves a cell KillWait seconds, less than it needs; so first the
        # signal alone. Tasks that are not there to get it are no error.
        run_command(["scancel", "--state=PENDING", *ids])
        run_command(["scancel", "--signal=TERM", "--batch", *ids])
        deadline = time.monotonic() + CELLS_END_S
        while time.monotonic() < deadline and self.find_live(jobs):
            sleep(1.0)
        if left := self.find_live(jobs):
            self.cancel(left)

    def ask_accounts(self, job_ids: Sequence[str]) -> Accounts:
        accounts = ask_slurm_accounts(sorted({get_queue_id(job_id) for job_id in job_ids}))
        rows = {job_id: accounts.rows.get(get_queue_id(job_id), []) for job_id in job_ids}
        return replace(accounts, rows={**accounts.rows, **rows})

    def find_max_array_size(self, profile: ClusterProfile) -> int:
        """Return the profile's word, or the site's."""
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
                    hint="run this where Slurm's commands work, set max_array_size in the profile, "
                    "or choose another profile with --cluster",
                )
            )
        if int(match[1]) < 2:
            raise InvalidInput("this site allows no job arrays (MaxArraySize is below 2)")
        return int(match[1])

    def check_site(self, profile: ClusterProfile) -> Iterator[Check]:
        from emobench.scheduler.site import check_slurm

        yield from check_slurm(profile)

    def check_plan(
        self,
        plan: Plan,
        servers: Sequence[str] = (),
        missing: Mapping[str, Sequence[int]] | None = None,
        own: Collection[str] = (),
    ) -> Iterator[Check]:
        from emobench.scheduler.site import check_plan

        yield from check_plan(plan, servers, missing or {}, own)

    def read_own_job_id(self) -> str:
        return read_slurm_job_id() or read_local_job_id()

    def compute_own_job_age_s(self) -> float:
        try:
            return max(time.time() - float(os.environ["SLURM_JOB_START_TIME"]), 0.0)
        except (KeyError, ValueError):
            return 0.0

    def hands_over(self) -> bool:
        return bool(read_slurm_job_id())

    def ask_own_job(self) -> OwnJob:
        # The number of one of an array's tasks is that of the whole array.
        return ask_own_job(get_queue_id(read_own_task_id() if read_slurm_job_id() else ""))

    def requeue_if_preempted(self) -> bool:
        """Requeue this job where it was preempted: one that ends by itself within the time it is
        given counts as ended, and Slurm does not requeue it."""
        return bool(read_slurm_job_id()) and self.ask_own_job().preempted and self.requeue()

    def requeue(self) -> bool:
        """Requeue this job. Ends this process: Slurm ends the job before it starts it again."""
        # Of a heterogeneous job its first part: the others go with it. Of an array this task alone:
        # the number of one task is that of the whole array.
        in_array = "SLURM_ARRAY_JOB_ID" in os.environ
        job_id = read_own_task_id() if in_array else os.environ.get("SLURM_JOB_ID", "")
        if not job_id:
            return False
        output, error = run_command(["scontrol", "requeue", job_id])
        if output is None:
            say(f"emobench: this job cannot be requeued: {' '.join(error.split())}")
        return output is not None

    def _read_own_jobs(self, run_dir: RunDir, *kinds: JobKind) -> list[JobRecord]:
        jobs = [job for job in read_jobs(run_dir) if job.scheduler == self.name]
        return [job for job in jobs if job.kind in kinds] if kinds else jobs

    def _cancel_unneeded(
        self, plan: Plan, run_dir: RunDir, submitted: Sequence[JobRecord]
    ) -> list[str]:
        """Cancel the servers of this call that no live array needs; returns their names."""
        servers = [job for job in submitted if job.kind is JobKind.SERVER]
        if not servers:
            return []
        arrays = self.find_live(self._read_own_jobs(run_dir, JobKind.ARRAY))
        live = {name for array in arrays for name in array.block_names}
        lonely = [job for job in servers if live.isdisjoint(list_blocks(plan, job.name))]
        # Of a heterogeneous job that has not begun Slurm cancels no part alone.
        kept = {self.get_whole_id(job) for job in servers if job not in lonely}
        lonely = [job for job in lonely if self.get_whole_id(job) not in kept]
        if not lonely:
            return []
        # The refusal is what the user has to read; a scancel that fails must not hide it.
        with contextlib.suppress(EmobenchError):
            self.cancel(lonely)
            remove_jobs(run_dir, [job.job_id for job in lonely])
        return [str(job) for job in lonely]


def _make_executor(run_dir: RunDir, plan: Plan) -> ScriptExecutor:
    """Return the executor. Raises SubmissionRefused where this machine has no Slurm."""
    from emobench.scheduler.executor import ScriptExecutor

    try:
        return ScriptExecutor(run_dir.submitit, list_key_variables(plan.sweep))
    except RuntimeError as error:
        raise SubmissionRefused(
            f"this machine has no Slurm ({error}); submit on a login node, or use --cluster local"
        ) from error


def _find_script(job: JobComment) -> str:
    if SEPARATOR in job.name:
        return name_pair_script(job.name.split(SEPARATOR)[1])
    if job.kind is JobKind.SERVER:
        return name_server_script(get_server_name(job.name))
    return CLEANUP_SCRIPT if job.kind is JobKind.CLEANUP else name_array_script(job.name)


def _submit_server(
    executor: ScriptExecutor,
    run_dir: RunDir,
    instance: str,
    takes_over: str = "",
    options: Sequence[str] = (),
) -> JobRecord:
    script = name_server_script(get_server_name(instance))
    job = make_record(JobKind.SERVER, instance, "", script, takes_over=takes_over)
    arguments = build_server_arguments(instance, takes_over)
    if arguments and f'="emobench {run_dir.identity} ' in (run_dir.path / job.script).read_text():
        # The script's comment is the server's; a site's own comment stays.
        comment = JobComment(job.kind, instance, takes_over)
        text = comment.write(run_dir, f"replica {get_replica_number(instance)}")
        options = [*options, f"--comment={text}"]
    return sbatch(executor, run_dir, job, options, arguments)


def _submit_pair(
    executor: ScriptExecutor,
    plan: Plan,
    run_dir: RunDir,
    pair: Sequence[str],
    taking_over: Mapping[str, str] | None = None,
) -> list[JobRecord]:
    """Submit two servers as one job, and return a record of each; the ids of a heterogeneous job's
    parts are consecutive."""
    script = name_pair_script(pair[1])
    earlier = [(taking_over or {}).get(name, "") for name in pair]
    first, second = (
        make_record(JobKind.SERVER, name, "", script, takes_over=job_id)
        for name, job_id in zip(pair, earlier, strict=True)
    )
    first = sbatch(executor, run_dir, first, arguments=earlier if any(earlier) else ())
    if get_placement(plan) == "together":
        ids = [format_server_id(first.job_id, place) for place in (0, 1)]
    else:
        ids = [first.job_id, str(int(first.job_id) + 1)]
    return [replace(first, job_id=ids[0]), replace(second, job_id=ids[1])]


def sbatch(
    executor: ScriptExecutor,
    run_dir: RunDir,
    job: JobRecord,
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> JobRecord:
    """Submit a record's script; the record with its job id. Raises SubmissionRefused."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        submitted = executor.submit_script(run_dir.path / job.script, options, arguments)
    except (FailedJobError, FailedSubmissionError) as error:
        said = str(error).strip() or "nothing (is Slurm's controller up? try `squeue`)"
        lines = [f"sbatch refused {job.script} ({' '.join(options) or 'no options'}):"]
        lines += [f"  {line}" for line in said.splitlines()]
        if advice := find_advice(said):
            lines.append(f"  {advice}")
        raise SubmissionRefused("\n".join(lines)) from None
    return replace(job, job_id=str(submitted.job_id))
