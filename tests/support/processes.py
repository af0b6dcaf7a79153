"""Read /proc, and wait for conditions with a deadline."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")


PATIENCE_S = 240.0
"""How long to wait for what is certain to come, however loaded the machine is."""


def until(
    condition: Callable[[], object], what: str, seconds: float = PATIENCE_S, poll: float = 0.02
) -> None:
    """Return once `condition()` is true; TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up after {seconds:g} s: {what}")
        time.sleep(poll)


def pids() -> Iterator[int]:
    """Every process of the machine at this moment, zombies included."""
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def comm(pid: int) -> str:
    """The command's name (15 characters at most); empty where the process is gone or a zombie."""
    try:
        name, _, rest = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return ""
    return "" if rest.split()[0] in "ZX" else name.partition("(")[2]


def parent(pid: int) -> int:
    """The parent's pid; 0 where the process is gone."""
    try:
        stat = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def command_line(pid: int) -> str:
    """The arguments joined by spaces; empty where the process is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def has_environment(pid: int, setting: str) -> bool:
    """Whether the process was started with `setting` ("NAME=value") in its environment."""
    try:
        return setting.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def environment_names(pid: int) -> set[str]:
    """Names of the variables the process was started with; empty where it is gone."""
    try:
        settings = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return set()
    return {setting.partition(b"=")[0].decode(errors="replace") for setting in settings}


@contextlib.contextmanager
def changed_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Give this process exactly these variables for the length of the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def stopped_cells(run_dir: Path) -> Iterator[None]:
    """Stop the processes of a run's cells for the length of the block: its conversations last."""
    found = [
        pid
        for pid in pids()
        if "emobench.run" in (line := command_line(pid)) and str(run_dir) in line
    ]
    assert found, f"no cell of {run_dir} runs"
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def end(targets: Mapping[int, str], seconds: float = 5.0) -> None:
    """TERM, then KILL, the processes of `targets` (pid to command name).

    A pid whose command is another by now is left alone; a zombie counts as gone.
    """

    def remaining() -> list[int]:
        return [pid for pid, name in targets.items() if comm(pid) == name]

    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in remaining():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(TimeoutError):
            until(lambda: not remaining(), "processes to end", seconds)
