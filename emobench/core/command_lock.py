"""A lock that one command holds at a time, and that says which one: host, process, since, command.

The lock is the kernel's (flock), on a shared file system the file server's: a process that dies
lets go of it, however it dies. Some parallel file systems keep such locks within one node. So the
file also names its holder, who touches it every `BEAT_S` seconds: a command on another node that
gets the lock all the same, and sees the file being touched, leaves it to the holder.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from emobench.core.errors import EmobenchError
from emobench.core.files import dump_json, open_to_write, parse_json
from emobench.core.ownership import make_folder
from emobench.core.times import now, to_seconds

BEAT_S = 2.0
POLL_S = 0.2


@dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str
    pid: int
    since: str
    """ISO 8601, UTC."""
    command: str

    def __str__(self) -> str:
        moment = to_seconds(self.since)
        since = time.strftime("%H:%M:%S", time.localtime(moment)) if moment else "unknown"
        return f"`{self.command}` (process {self.pid} on {self.host}, since {since})"


class Held(EmobenchError):
    """Another command holds the lock."""


@contextmanager
def hold(
    path: Path,
    what: str,
    patience_s: float,
    on_wait: Callable[[str], None] = lambda text: None,
    beat_s: float = BEAT_S,
) -> Iterator[None]:
    """Hold the lock of the file `path`, whose folder is made; `what` says what its holders do.

    Waits `patience_s` seconds for another holder, and tells `on_wait` so at once. Raises Held,
    which names the holder, and OSError. A folder that was made for the lock and got nothing else
    goes.
    """
    deadline = time.monotonic() + patience_s
    made = not path.parent.exists()
    said = ""
    while True:
        make_folder(path.parent)
        descriptor = open_to_write(path, os.O_RDWR)
        with ExitStack() as on_failure:
            on_failure.callback(os.close, descriptor)
            holder = _find_other_holder(path, descriptor, beat_s)
            if holder is None:
                on_failure.pop_all()
                break
        if time.monotonic() >= deadline:
            raise Held(
                f"{path.parent}: {holder} {what}\n"
                "  nothing was changed; run this again when that command has ended"
            )
        if said != str(holder):
            said = str(holder)
            on_wait(f"waiting for {said}, which {what}")
        time.sleep(POLL_S)
    released = threading.Event()
    beat = threading.Thread(target=_beat, args=(descriptor, released, beat_s), daemon=True)
    try:
        me = Holder(socket.gethostname(), os.getpid(), now(), format_own_command())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, dump_json(me), 0)
        beat.start()
        yield
    finally:
        released.set()
        if beat.ident:
            beat.join()
        os.ftruncate(descriptor, 0)
        if made and list(path.parent.iterdir()) == [path]:
            path.unlink()
            path.parent.rmdir()
        os.close(descriptor)


def format_own_command() -> str:
    """Return this process's command line as a person would write it."""
    program, words = Path(sys.argv[0]), sys.argv[1:]
    name = "emobench" if program.name == "__main__.py" else program.name
    if program.parent.name == "emobench" and program.suffix == ".py":
        name = f"python -m emobench.{program.stem}"
    return f"{name} {shlex.join(words)}".strip()


def _find_other_holder(path: Path, descriptor: int, beat_s: float) -> Holder | str | None:
    """Return who else holds the lock; None where this process has got it."""
    mine = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor) or "another command"
    except OSError:
        mine = False  # no locks on this file system
    if not path.exists() or path.stat().st_ino != os.fstat(descriptor).st_ino:
        return "another command"  # it took the folder away, with the file
    named = _read(descriptor)
    if named is None or (mine and named.host == socket.gethostname()):
        return None  # it was killed, or the kernel had said no
    before, deadline = path.stat().st_mtime_ns, time.monotonic() + 3.5 * beat_s
    while time.monotonic() < deadline:
        time.sleep(beat_s / 4)
        # Over NFS a file's times are only sure to be new when it is opened.
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mtime_ns != before:
                return named
    return None


def _read(descriptor: int) -> Holder | None:
    data = parse_json(os.pread(descriptor, 100_000, 0))
    try:
        return Holder(str(data["host"]), int(data["pid"]), str(data["since"]), str(data["command"]))
    except (KeyError, TypeError, ValueError):
        return None


def _beat(descriptor: int, released: threading.Event, beat_s: float) -> None:
    while not released.wait(beat_s):
        with suppress(OSError):
            os.utime(descriptor)
