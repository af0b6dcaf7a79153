"""`emobench logs RUN_DIR [user | assistant NAME | server NAME | cell N] [-f] [-n LINES]`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.terminal import show, table, typed_path
from emobench.core.errors import EmobenchError, InvalidInput
from emobench.core.plan import Plan, find_run_dir, load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.logs import LogIndex, Target, find_target, tail
from emobench.store.jobs import read_jobs

if TYPE_CHECKING:
    from rich.console import RenderableType

POLL_S = 0.5
LOOK_S = 2.0
"""How often the folder is looked at for a newer file."""
LISTED_CELLS = 30
KINDS = ("user", "assistant", "server", "cell")

EPILOG = """examples:
  emobench logs                          what there is of the newest run
  emobench logs runs/x user -f           follow the user's server
  emobench logs runs/x assistant qwen    the end of an assistant's log
  emobench logs runs/x cell 12 -n 200    the last 200 lines of a cell's
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s [RUN_DIR] [user | assistant NAME | server NAME | cell N] [-f] [-n LINES]"
    )
    parser.description = "The logs of a run: what there is, or the end of one."
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="default: the newest run, and the list of its logs",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="print what is added")
    parser.add_argument("-n", "--lines", type=int, default=40, help="default: 40")


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where the target has no log yet."""
    words = list(arguments.words)
    named = bool(words) and (words[0] not in KINDS or Path(words[0], "plan.json").exists())
    run_dir = find_run_dir(words.pop(0) if named else None)
    plan = load_plan(run_dir)
    if not words:
        show(*listing(_index(plan, run_dir)))
        return 0
    if arguments.lines < 0:
        raise InvalidInput(f"-n {arguments.lines}: give a number of lines, 0 or more")
    target = find_target(plan, words)
    files = _index(plan, run_dir).of(target)
    if not files and not arguments.follow:
        raise EmobenchError(
            f"{target} has no log yet: its job has not started, or its log is not in {plan.logs}\n"
            "  emobench status says what it waits for; -f waits for the log"
        )
    if arguments.follow:
        follow(lambda: next(iter(_index(plan, run_dir).of(target)), None), target, arguments.lines)
        return 0
    older = f" (and {len(files) - 1} older)" if len(files) > 1 else ""
    print(f"==> {files[0]}{older}", file=sys.stderr, flush=True)
    _write(tail(files[0], arguments.lines)[0])
    return 0


def listing(index: LogIndex) -> Sequence[RenderableType]:
    """Return what there is: kind, file, size and last line."""
    from rich.filesize import decimal

    rows: list[tuple[str, ...]] = []
    targets = index.with_logs()
    cells = [target for target in targets if target.cell >= 0]
    left_out = {target.cell for target in cells[LISTED_CELLS:]}
    for target in targets:
        if target.cell in left_out:
            continue
        for path in index.of(target):
            try:
                last = tail(path, 1)[0].decode(errors="replace").strip()[:100]
                size = decimal(path.stat().st_size)
            except OSError as error:
                size, last = "-", str(error.strerror)
            rows.append((str(target), typed_path(path), size, last))
    if not rows:
        return ["no logs yet: nothing of this run has started"]
    more = f"... and {len(left_out)} more cells: emobench logs RUN_DIR cell N"
    heads = ("server or cell", "file", "size", "last line")
    made = table(heads, rows, left=4, elastic=3, one_line=True)
    return [made, more] if left_out else [made]


def follow(
    newest: Callable[[], Path | None],
    target: Target,
    lines: int,
    write: Callable[[bytes], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print the end of the newest log, and what is added, until interrupted.

    The open file is kept through a rename; another file that becomes the newest (a requeue's, a
    successor's) is gone over to once the old one is read to its end.
    """
    put = write or _write
    follower = _Follower(put)
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
                print(f"{target} has no log yet; waiting for it", file=sys.stderr, flush=True)
        follower.copy()
        sleep(POLL_S)


class _Follower:
    """One open log at a time; remembers how far each file was read, by inode."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
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
        replaced = self._last if self._descriptor >= 0 and self._unlinked() else b""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return
        if self._descriptor >= 0:
            os.close(self._descriptor)
        first = self.path is None
        self.path, self._descriptor, self._identity, self._last = path, descriptor, identity, b""
        print(f"==> {path}", file=sys.stderr, flush=True)
        if identity in self._offsets:
            offset = self._offsets[identity]
            if replaced and os.pread(descriptor, len(replaced), offset) == replaced:
                offset += len(replaced)
            self._offsets[identity] = offset
        elif first:
            text, self._offsets[identity] = tail(path, lines)
            self._put(text)
        else:
            self._offsets[identity] = 0

    def copy(self) -> None:
        """Print what was added to the open file."""
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
            self._put(block)

    def _unlinked(self) -> bool:
        try:
            return os.fstat(self._descriptor).st_nlink == 0
        except OSError:
            return True


def _index(plan: Plan, run_dir: RunDir) -> LogIndex:
    return LogIndex(plan, run_dir, read_jobs(run_dir))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
