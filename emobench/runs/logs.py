"""Which files in logs/ belong to a run, and to which of its servers and cells.

Many runs share one folder of logs, so a file is found by its job id: those of jobs.json, and those
of jobs that were submitted by hand and left a word in the run directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from emobench.core.errors import InvalidInput, Problem, suggest_nearest
from emobench.core.plan import (
    USER_SERVER,
    Plan,
    get_server_name,
    list_instances,
    load_plan,
    name_assistant_server,
)
from emobench.core.run_dir import RunDir
from emobench.core.times import to_seconds
from emobench.scheduler.render import name_server_log
from emobench.store.endpoints import describe_privacy, locate_server, read_endpoint
from emobench.store.events import Event, read_events
from emobench.store.jobs import JobKind, JobRecord, list_task_ids, read_jobs
from emobench.store.summaries import read_summary

TAIL_BLOCK = 1 << 16
POLL_S, LOOK_S = 0.5, 2.0
"""How often a followed log is read, and the folder looked at for a newer one."""


KINDS = ("user", "assistant", "server", "cell")


@dataclass(frozen=True)
class Target:
    """A server, or a cell."""

    server: str = ""
    cell: int = -1

    def __str__(self) -> str:
        return f"server {self.server}" if self.server else f"cell {self.cell}"


class LogIndex:
    """The log files of a run as they are at this moment."""

    def __init__(self, plan: Plan, run_dir: RunDir, jobs: Sequence[JobRecord]) -> None:
        self._plan, self._run_dir, self._jobs = plan, run_dir, jobs
        self._arrays = [
            (job, list_task_ids(plan, job)) for job in jobs if job.kind is JobKind.ARRAY
        ]

    def find_logs(self, target: Target) -> list[Path]:
        """Return all log files of the target, the newest job's first."""
        return (
            self.find_server_logs(target.server)
            if target.server
            else self.find_cell_logs(target.cell)
        )

    def find_server_logs(self, server: str) -> list[Path]:
        """Return the logs of all jobs of a server, the newest first; a leased one's are its
        owner's."""
        hidden = describe_privacy(self._run_dir)
        location = None if hidden else locate_server(self._run_dir, server)
        if location and location.lease and location.run_dir.plan.exists():
            owner = location.run_dir
            return LogIndex(load_plan(owner), owner, read_jobs(owner)).find_server_logs(
                location.instance
            )
        ids = {
            job.job_id: job.submitted_at or 0.0
            for job in self._jobs
            if job.kind is JobKind.SERVER and job.name == server
        }
        for job_id, events in self._events.items():
            if events[0].server == server:
                ids.setdefault(job_id, events[0].time)
        if not hidden and (endpoint := read_endpoint(self._run_dir, server)):
            ids.setdefault(endpoint.job_id, to_seconds(endpoint.started) or 0.0)
        prefix = name_server_log(get_server_name(server))
        return self._list_existing((when, f"{prefix}_{job_id}") for job_id, when in ids.items())

    def find_cell_logs(self, cell: int) -> list[Path]:
        """Return the logs of all runs of a cell, the newest first."""
        ids = {tasks[cell]: job.submitted_at or 0.0 for job, tasks in self._arrays if cell in tasks}
        summary = read_summary(self._run_dir, cell)
        if summary is not None and summary.job_id:
            ids.setdefault(summary.job_id, to_seconds(summary.started) or 0.0)
        return self._list_existing((when, f"run_{job_id}") for job_id, when in ids.items())

    def list_targets(self) -> list[Target]:
        """Return every server and cell that has a log, servers first."""
        found = [Target(server=name) for name in list_instances(self._plan.sweep)]
        by_task = {f"run_{task}": cell for _, tasks in self._arrays for cell, task in tasks.items()}
        cells = {by_task[key] for key in self._files if key in by_task}
        for folder in self._run_dir.path.glob("cells/*"):
            # A cell that was submitted by hand is in no record.
            if (
                folder.name.isdigit()
                and int(folder.name) not in cells
                and self.find_cell_logs(int(folder.name))
            ):
                cells.add(int(folder.name))
        found += [Target(cell=cell) for cell in sorted(cells)]
        return [target for target in found if self.find_logs(target)]

    def _list_existing(self, keys: Iterable[tuple[float, str]]) -> list[Path]:
        return [path for _, key in sorted(keys, reverse=True) for path in self._files.get(key, ())]

    @cached_property
    def _events(self) -> dict[str, list[Event]]:
        return read_events(self._run_dir)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Paths by kind and job id; a log that has its name already comes second."""
        found: dict[str, list[Path]] = {}
        try:
            paths = sorted(Path(self._plan.logs).iterdir(), key=lambda p: (len(p.name), p.name))
        except OSError:
            return found
        for path in paths:
            stem, dot, ending = path.name.rpartition(".")
            if ending == "log" and stem.startswith("run_"):
                # run_<array>_<index>, or run_<env>_<strategy>_<model>_<array>_<index>
                key = "run_" + "_".join(stem.split("_")[-2:])
            elif ending == "out" and dot:
                key = stem
            else:
                continue
            found.setdefault(key, []).append(path)
        return found


def find_target(plan: Plan, words: Sequence[str]) -> Target:
    """Find what `user`, `assistant NAME`, `NAME`, `server NAME` or `cell N` means in this run.

    Raises InvalidInput, which names what there is and the nearest.
    """
    kind, *rest = words
    name = rest[0] if rest else ""
    servers = list(list_instances(plan.sweep))
    if not rest and kind not in KINDS and kind in (*plan.sweep.assistants, *servers):
        kind, name = "server", kind
    if len(rest) > 1:
        raise InvalidInput(f"one target at a time, not {' '.join(words)}")
    if kind == "cell":
        if not name.isdigit() or int(name) >= len(plan.cells):
            raise InvalidInput(
                Problem(
                    f"there is no cell {name}".rstrip() if name else "which cell?",
                    allowed=f"0 to {len(plan.cells) - 1}",
                    hint="emobench status --json and the report name the cells",
                )
            )
        return Target(cell=int(name))
    if kind == "user":
        if name:
            raise InvalidInput(f"there is one user server; leave '{name}' out")
        kind, name = "server", USER_SERVER
    elif kind == "assistant":
        assistants = list(plan.sweep.assistants)
        if not name and len(assistants) == 1:
            name = assistants[0]
        if name not in assistants:
            raise _make_unknown_error("assistant", name, assistants)
        kind, name = "server", name_assistant_server(name)
    if kind != "server":
        raise _make_unknown_error("target", kind, (*KINDS, *plan.sweep.assistants))
    if name not in servers and name in plan.sweep.assistants:
        name = name_assistant_server(name)
    if name not in servers:
        if name in (USER_SERVER, *map(name_assistant_server, plan.sweep.assistants)):
            raise InvalidInput(f"{name} is an endpoint that exists already: it has no log here")
        raise _make_unknown_error("server", name, servers)
    return Target(server=name)


def _make_unknown_error(kind: str, name: str, names: Sequence[str]) -> InvalidInput:
    return InvalidInput(
        Problem(
            f"there is no {kind} '{name}'" if name else f"which {kind}?",
            allowed=", ".join(names) or "none",
            hint=suggest_nearest(name, names) if name else "",
        )
    )


def read_tail(path: Path, lines: int) -> tuple[bytes, int]:
    """Return the last `lines` lines, and the offset after them. Raises OSError."""
    with path.open("rb") as stream:
        end = position = stream.seek(0, os.SEEK_END)
        parts: list[bytes] = []
        breaks = 0
        while position > 0 and breaks <= lines:
            start = max(0, position - TAIL_BLOCK)
            stream.seek(start)
            block = stream.read(position - start)
            breaks += block.count(b"\n")
            parts.append(block)
            position = start
        data = b"".join(reversed(parts))
        whole = data.split(b"\n")
        # A line break at the end begins no further line.
        wanted = lines + (1 if whole[-1] == b"" else 0)
        return (b"\n".join(whole[-wanted:]) if lines else b""), end


def follow(
    newest: Callable[[], Path | None],
    target: Target,
    lines: int,
    write: Callable[[bytes], None],
    note: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the end of the newest log, and what is added, until interrupted.

    `note` is told which file it is, and that there is none yet.

    The open file is kept through a rename; another file that becomes the newest (a requeue's, a
    successor's) is gone over to once the old one is read to its end.
    """
    follower = _Follower(write, note)
    said_waiting = False
    looked = float("-inf")
    while True:
        if time.monotonic() - looked >= LOOK_S or follower.path is None:
            looked = time.monotonic()
            path = newest()
            if path is not None:
                follower.go_to(path, lines)
            elif not said_waiting:
                said_waiting = True
                note(f"{target} has no log yet; waiting for it")
        follower.copy()
        sleep(POLL_S)


class _Follower:
    """One open log at a time; remembers how far each file was read, by inode."""

    def __init__(self, write: Callable[[bytes], None], note: Callable[[str], None]) -> None:
        self._write, self._note = write, note
        self.path: Path | None = None
        self._descriptor = -1
        self._identity = (0, 0)
        self._offsets: dict[tuple[int, int], int] = {}
        self._last = b""
        """What was read of the open file, up to a limit: a requeued run's begun log is copied to
        the end of the one it continues."""

    def go_to(self, path: Path, lines: int) -> None:
        """Read `path` from here on; the same file under another name is no change."""
        try:
            status = path.stat()
        except OSError:
            return
        identity = (status.st_dev, status.st_ino)
        if identity == self._identity:
            self.path = path
            return
        self.copy()
        replaced = self._last if self._descriptor >= 0 and self._is_unlinked() else b""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
        first = self.path is None
        self.path, self._descriptor, self._identity, self._last = path, descriptor, identity, b""
        self._note(f"==> {path}")
        if identity in self._offsets:
            offset = self._offsets[identity]
            if replaced and os.pread(descriptor, len(replaced), offset) == replaced:
                offset += len(replaced)
            self._offsets[identity] = offset
        elif first:
            text, self._offsets[identity] = read_tail(path, lines)
            self._write(text)
        else:
            self._offsets[identity] = 0

    def copy(self) -> None:
        """Write what was added to the open file."""
        while self._descriptor >= 0:
            offset = self._offsets[self._identity]
            try:
                if os.fstat(self._descriptor).st_size < offset:
                    offset = 0  # it was emptied
                block = os.pread(self._descriptor, 1 << 16, offset)
            except OSError:
                return  # the file system is away; it is read on when it is back
            self._offsets[self._identity] = offset + len(block)
            if not block:
                return
            self._last = (self._last + block)[-(1 << 20) :]
            self._write(block)

    def _is_unlinked(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink == 0
        except OSError:
            return True
