"""Run a sweep's scripts as processes of this machine, through submitit's local executor.

submitit's own has no queue, no throttle and no dependencies. Here one job runs all cells that are
missing, at most `throttle` at a time across all blocks; each run waits for its servers by itself.
The jobs outlive the command that started them.

A pid alone is no name of a job: it is used again. Every process of a job carries the job's random
token in its environment, and they share the session of the job's first process.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emobench.config.capacity import get_throttle
from emobench.core.errors import EmobenchError, SubmissionRefused
from emobench.core.files import parse_json, read_stamp
from emobench.core.job_id import read_local_job_id
from emobench.core.plan import Plan, get_server_name, load_plan
from emobench.core.processes import die_with_parent, read_start_ticks
from emobench.core.ranges import format_ranges, parse_numbers
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import StopRequest
from emobench.scheduler.interface import JobState, Scheduler
from emobench.scheduler.render import (
    build_server_arguments,
    name_array_script,
    name_server_log,
    name_server_script,
)
from emobench.store.hosted_keys import list_key_variables
from emobench.store.jobs import (
    JobKind,
    JobRecord,
    LocalProcess,
    OnJob,
    add_jobs,
    make_record,
    read_jobs,
)

TOKEN_VARIABLE = "EMOBENCH_LOCAL_JOB"
RECORDS_VARIABLE = "EMOBENCH_LOCAL_RECORDS"
"""What the records of the job will say, in the environment of its first process: see `_Job`."""
TEN_YEARS_MIN = 10 * 365 * 24 * 60
"""submitit's own limit is two minutes."""
GRACE_S = 30.0
"""From SIGTERM to SIGKILL of a job's processes."""
TASK_GRACE_S = 15.0
"""A run that is told to end writes its summary within this time, or is killed."""

_started: list[subprocess.Popen[bytes]] = []
"""Kept so that this process collects its children's ends; a job does not depend on it."""


@dataclass(frozen=True)
class Task:
    """One index of one array script."""

    script: str
    array: int
    """1-based number of the array among those of this job."""
    index: int


@dataclass(frozen=True)
class _Job:
    """What a job is, before it has a process; written into its environment, it is found again where
    nobody recorded it."""

    kind: JobKind
    scripts: Mapping[str, str]
    """By name: of a server's instance, or of the blocks that the one process runs."""
    cells: Mapping[str, str] = field(default_factory=dict)
    """Ranges by block; none of a server."""

    def write(self, run_dir: RunDir) -> str:
        return json.dumps({"run": run_dir.identity, **asdict(self)})

    @classmethod
    def read(cls, text: str, run_dir: RunDir) -> _Job | None:
        """Read a job; None where the text is of no job of this run directory."""
        data = parse_json(text.encode()) if text else None
        if not isinstance(data, dict) or data.pop("run", None) != run_dir.identity:
            return None
        return cls(JobKind(data["kind"]), data["scripts"], data["cells"])

    def make_records(self, process: LocalProcess) -> list[JobRecord]:
        """Return the records of the job with this process."""
        # One process runs all blocks, but the ids of their tasks must differ.
        numbers = [f".{n}" if self.cells else "" for n in range(1, len(self.scripts) + 1)]
        return [
            make_record(
                self.kind,
                name,
                f"{process.pid}{number}",
                script,
                cells=tuple(parse_numbers(self.cells[name])) if self.cells else (),
                process=process,
            )
            for number, (name, script) in zip(numbers, self.scripts.items(), strict=True)
        ]


class LocalScheduler(Scheduler):
    """Starts processes, and finds them again in /proc."""

    name = "local"
    queue = "the process table"
    queue_check_s = 0.0
    tells_tasks_apart = False
    cleans_up = False

    def submit(
        self,
        plan: Plan,
        run_dir: RunDir,
        missing: Mapping[str, Sequence[int]],
        servers: Sequence[str],
        on_job: OnJob = lambda job: None,
    ) -> list[JobRecord]:
        """Submit servers and cells, all cells in one job. What this call started ends where a
        process cannot be."""
        submitted: list[JobRecord] = []

        def start(job: _Job, function: Callable[..., Any], *arguments: Any) -> None:
            withheld = list_key_variables(plan.sweep)
            jobs = job.make_records(_start(run_dir, withheld, job, function, *arguments))
            submitted.extend(jobs)
            add_jobs(run_dir, jobs)
            for each in jobs:
                on_job(each)

        try:
            for server in servers:
                # An earlier job's file would be taken for the new one's: its "failed" ends the
                # wait.
                run_dir.endpoint(server).unlink(missing_ok=True)
                script = name_server_script(get_server_name(server))
                log = f"{plan.logs}/{name_server_log(get_server_name(server))}"
                path = str(run_dir.scripts / script)
                job = _Job(JobKind.SERVER, {server: script})
                start(job, exec_script, path, log, *build_server_arguments(server))
            tasks = _list_tasks(plan, run_dir, missing)
            ranges = {
                block.name: format_ranges(missing[block.name])
                for block in plan.blocks
                if missing.get(block.name)
            }
            if tasks:
                job = _Job(
                    JobKind.ARRAY, {name: name_array_script(name) for name in ranges}, ranges
                )
                start(job, run_tasks, tasks, get_throttle(plan), plan.logs, run_dir)
        except BaseException as error:
            known = {job.handle for job in read_jobs(run_dir)}
            begun = [job for job in self.find_jobs(plan, run_dir) if job.handle not in known]
            self.cancel([*submitted, *begun])
            if isinstance(error, OSError):
                raise SubmissionRefused(f"cannot start a process: {error}") from error
            raise
        return submitted

    def find_jobs(self, plan: Plan, run_dir: RunDir) -> list[JobRecord]:
        """Find jobs by their environment, on this machine only."""
        found: dict[str, tuple[LocalProcess, _Job]] = {}
        for pid, environment in _list_environments():
            job = _Job.read(environment.get(RECORDS_VARIABLE, ""), run_dir)
            ticks = read_start_ticks(pid)
            if job is None or ticks is None:
                continue
            token = environment.get(TOKEN_VARIABLE, "")
            process = LocalProcess(pid, ticks, socket.gethostname(), token)
            # What the first process starts has its environment, and is younger.
            if token not in found or (found[token][0].start_ticks or 0) > ticks:
                found[token] = process, job
        oldest_first = sorted(found.values(), key=lambda each: each[0].start_ticks or 0)
        return [record for process, job in oldest_first for record in job.make_records(process)]

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        """Return RUNNING or GONE; UNKNOWN where the job is on another machine."""
        return {job.job_id: find_process_state(_get_process(job)) for job in jobs}

    def cancel(self, jobs: Sequence[JobRecord], grace_s: float = GRACE_S) -> None:
        """Send SIGTERM to the jobs' process groups, and after `grace_s` seconds SIGKILL to what is
        left.

        Raises EmobenchError also where a job was started on another machine.
        """
        for job in jobs:
            state = find_process_state(_get_process(job))
            if state.state == "UNKNOWN":
                raise EmobenchError(f"job {job.job_id}: {state.reason}; cancel it there")
        processes = list(dict.fromkeys(map(_get_process, jobs)))
        for process in processes:
            with suppress(ProcessLookupError):
                if process.pid in find_processes(process):
                    os.killpg(process.pid, signal.SIGTERM)
                else:
                    # Its first process was killed; what is left of it is told one by one.
                    for pid in find_processes(process):
                        os.kill(pid, signal.SIGTERM)
        if _wait_until_gone(processes, grace_s):
            return
        deadline = time.monotonic() + 5
        while left := sorted({pid for process in processes for pid in find_processes(process)}):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise EmobenchError(f"processes {', '.join(map(str, left))} could not be ended")
            time.sleep(0.05)

    def is_of(self, job: JobRecord, run_dir: RunDir) -> bool:
        """Judge by the environment of its processes, which names the run directory."""
        process = _get_process(job)
        if process.host != socket.gethostname():
            return True  # `cancel` says that it cannot be reached from here
        for pid in find_processes(process):
            described = _read_environment(pid).get(RECORDS_VARIABLE, "")
            if described and _Job.read(described, run_dir) is None:
                return False
        return not _leads(process) or process.pid in find_processes(process)

    def set_throttle(self, arrays: Sequence[JobRecord], throttle: int) -> None:
        """Do nothing: the process that runs the cells reads it from the plan (`run_tasks`)."""

    def read_own_job_id(self) -> str:
        return read_local_job_id()


def _list_tasks(plan: Plan, run_dir: RunDir, missing: Mapping[str, Sequence[int]]) -> list[Task]:
    """Return the cells in the order in which they begin: all blocks go on side by side, since their
    servers are there from the start, and a trial's variants stay neighbours."""
    placed: list[tuple[float, Task]] = []
    array = 0
    for block in plan.blocks:
        if cells := sorted(missing.get(block.name, ())):
            array += 1
            script = str(run_dir.scripts / name_array_script(block.name))
            first: dict[tuple[str, str, int], int] = {}
            for place, cell in enumerate(plan.cells[number] for number in cells):
                trial = first.setdefault((cell.env, cell.agent_strategy, cell.trial), place)
                task = Task(script, array, cell.number - block.first_cell)
                placed.append((trial / len(cells), task))
    return [task for _, task in sorted(placed, key=lambda each: each[0])]


def _get_process(job: JobRecord) -> LocalProcess:
    if job.process is None:
        raise ValueError(f"job {job.job_id} is Slurm's")
    return job.process


def find_process_state(process: LocalProcess) -> JobState:
    """Return the state of the first process of a local job."""
    if process.host != socket.gethostname():
        return JobState("UNKNOWN", f"it was started on {process.host or 'another machine'}")
    return JobState("RUNNING", node=process.host) if _leads(process) else JobState("GONE")


def _leads(process: LocalProcess) -> bool:
    """Return whether the process is there, and is the one that was started."""
    return process.start_ticks is not None and read_start_ticks(process.pid) == process.start_ticks


def _list_environments() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the environment of every other process of this machine that this user may look at.

    A program that renames itself may have overwritten its own.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if environment := _read_environment(int(entry.name)):
            yield int(entry.name), environment


def _read_environment(pid: int) -> dict[str, str]:
    """Return a process's environment; empty where the process is gone, or somebody else's."""
    try:
        pairs = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def find_processes(process: LocalProcess) -> list[int]:
    """Return every living process of a local job, its first one included."""
    leads = _leads(process) and _read_environment(process.pid).get(TOKEN_VARIABLE) == process.token
    token = f"{TOKEN_VARIABLE}={process.token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        if read_start_ticks(pid) is None:
            continue
        try:
            # A program that renames itself may have overwritten its environment.
            same_session = leads and os.getsid(pid) == process.pid
            if same_session or token in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return found


def _wait_until_gone(processes: Sequence[LocalProcess], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(find_processes(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _start(
    run_dir: RunDir,
    withheld: Collection[str],
    described: _Job,
    function: Callable[..., Any],
    *arguments: Any,
) -> LocalProcess:
    """Start a job, without the variables `withheld`; what finds its process again."""
    from submitit import LocalExecutor
    from submitit.local.local import LocalJob

    class DetachedExecutor(LocalExecutor):  # type: ignore[misc]
        """Starts the job in a session of its own, with the environment it needs."""

        def _submit_command(self, command: str) -> Any:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "submitit.local._local", str(self.folder)],
                env=_build_environment(command, token, withheld) | {RECORDS_VARIABLE: records},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            _started.append(process)
            return LocalJob(folder=self.folder, job_id=str(process.pid), process=process)

    token, records = secrets.token_hex(16), described.write(run_dir)
    python = f"{shlex.quote(sys.executable)} -P"
    job = DetachedExecutor(run_dir.submitit, python=python).submit(function, *arguments)
    pid = int(job.job_id)
    return LocalProcess(pid, read_start_ticks(pid), socket.gethostname(), token)


def _build_environment(command: str, token: str, withheld: Collection[str]) -> dict[str, str]:
    # Within an interactive Slurm job its variables would be taken for the local job's.
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in withheld and not name.startswith("SLURM_")
    }
    return {
        **kept,
        TOKEN_VARIABLE: token,
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_COMMAND": command,
        "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
        "SUBMITIT_LOCAL_TIMEOUT_S": str(TEN_YEARS_MIN * 60),
        "SUBMITIT_LOCAL_SIGNAL_DELAY_S": "30",
        "SUBMITIT_LOCAL_WITH_SHELL": "",
        "SUBMITIT_STDERR_TO_STDOUT": "",
    }


def exec_script(script: str, log: str, *arguments: str) -> None:
    """Turn this process into `bash script arguments...`; its output goes to <log>_<job id>.out."""
    die_with_parent(signal.SIGTERM)
    job_id = os.environ["SUBMITIT_LOCAL_JOB_ID"]
    descriptor = os.open(f"{log}_{job_id}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    # submitit ignores or handles these, and ignoring is inherited.
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    os.execvp("bash", ["bash", script, *arguments])


def run_tasks(
    tasks: Sequence[Task], throttle: int, logs: str, run_dir: RunDir | None = None
) -> dict[str, int]:
    """Run every task, at most `throttle` at a time; return the exit code by '<array>_<index>'.

    Where the plan of `run_dir` gets another throttle meanwhile, that one holds from then on.
    On a signal no further task starts, and the running ones are ended.
    """
    stop = StopRequest()
    waiting = deque(tasks)
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    with stop.on_signals():
        die_with_parent(signal.SIGTERM)
        seen = read_stamp(run_dir.plan) if run_dir else None
        while (waiting or running) and not stop.is_set():
            if run_dir and (present := read_stamp(run_dir.plan)) != seen:
                seen = present
                with suppress(EmobenchError):
                    throttle = get_throttle(load_plan(run_dir))
            while waiting and len(running) < throttle and not stop.is_set():
                task = waiting.popleft()
                running[f"{task.array}_{task.index}"] = _start_task(task, logs)
            _collect(running, codes)
            time.sleep(0.05)
        _end_tasks(running, codes)
    return codes


def _end_tasks(running: dict[str, subprocess.Popen[bytes]], codes: dict[str, int]) -> None:
    """Ask tasks to end, and kill those that take too long."""
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + TASK_GRACE_S
    while running and time.monotonic() < deadline:
        _collect(running, codes)
        time.sleep(0.05)
    for process in running.values():
        process.kill()
        process.wait()


def _collect(running: dict[str, subprocess.Popen[bytes]], codes: dict[str, int]) -> None:
    for name, process in list(running.items()):
        if (code := process.poll()) is not None:
            codes[name] = code
            del running[name]


def _start_task(task: Task, logs: str) -> subprocess.Popen[bytes]:
    array_id = f"{os.environ['SUBMITIT_LOCAL_JOB_ID']}.{task.array}"
    environment = {
        **os.environ,
        "SLURM_ARRAY_JOB_ID": array_id,
        "SLURM_ARRAY_TASK_ID": str(task.index),
    }
    # The name that Slurm would give it; the script tells the run of it.
    with Path(logs, f"run_{array_id}_{task.index}.log").open("ab") as log:
        return subprocess.Popen(
            ["bash", task.script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
