"""`emobench logs RUN_DIR [user | assistant NAME | server NAME | cell N] [-f] [-n LINES]`."""

from __future__ import annotations

import argparse
import codecs
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.cli.arguments import make_number_type
from emobench.cli.terminal import make_table, shorten_path, show
from emobench.core.errors import EmobenchError
from emobench.core.output import say
from emobench.core.plan import Plan, find_run_dir, load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.logs import KINDS, LogIndex, find_target, follow, read_tail
from emobench.scheduler.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from rich.console import RenderableType

LISTED_CELLS = 30
_COLOUR = re.compile("\x1b\\[[0-9;]*m")

EPILOG = """examples:
  emobench logs                          what there is of the newest run
  emobench logs runs/x user -f           follow the user's server
  emobench logs runs/x qwen3-4b          the end of an assistant's log, by its name
  emobench logs runs/x cell 12 -n 200    the last 200 lines of a cell's
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s [RUN_DIR] [user | [assistant] NAME | server NAME | cell N] [-f] [-n LINES]"
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
    lines = make_number_type(int, lambda value: value >= 0, "a number of lines, 0 or more")
    parser.add_argument("-n", "--lines", type=lines, default=40, help="default: 40")


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0, or 1 where the target has no log yet."""
    words = list(arguments.words)
    named = bool(words) and (words[0] not in KINDS or Path(words[0], "plan.json").exists())
    run_dir = find_run_dir(words.pop(0) if named else None)
    plan = load_plan(run_dir)
    if not words:
        show(*render_index(_read_index(plan, run_dir)))
        return 0
    target = find_target(plan, words)
    files = _read_index(plan, run_dir).find_logs(target)
    if not files and not arguments.follow:
        raise EmobenchError(
            f"{target} has no log yet: its job has not started, or its log is not in {plan.logs}\n"
            "  emobench status says what it waits for; -f waits for the log"
        )
    if arguments.follow:

        def newest() -> Path | None:
            return next(iter(_read_index(plan, run_dir).find_logs(target)), None)

        follow(newest, target, arguments.lines, _make_writer(), _note)
        return 0
    older = f" (and {len(files) - 1} older)" if len(files) > 1 else ""
    _note(f"==> {files[0]}{older}")
    _make_writer()(read_tail(files[0], arguments.lines)[0])
    return 0


def render_index(index: LogIndex) -> Sequence[RenderableType]:
    """Return what there is: kind, file, size and last line."""
    from rich.filesize import decimal

    rows: list[tuple[str, ...]] = []
    targets = index.list_targets()
    cells = [target for target in targets if target.cell >= 0]
    left_out = {target.cell for target in cells[LISTED_CELLS:]}
    for target in targets:
        if target.cell in left_out:
            continue
        for path in index.find_logs(target):
            try:
                last = read_tail(path, 1)[0].decode(errors="replace").strip()[:100]
                size = decimal(path.stat().st_size)
            except OSError as error:
                size, last = "-", str(error.strerror)
            rows.append((str(target), shorten_path(path), size, last))
    if not rows:
        return ["no logs yet: nothing of this run has started"]
    more = f"... and {len(left_out)} more cells: emobench logs RUN_DIR cell N"
    heads = ("server or cell", "file", "size", "last line")
    made = make_table(heads, rows, left=4, elastic=3, one_line=True)
    return [made, more] if left_out else [made]


def _read_index(plan: Plan, run_dir: RunDir) -> LogIndex:
    return LogIndex(plan, run_dir, SCHEDULERS.find_all_jobs(plan, run_dir))


def _make_writer() -> Callable[[bytes], None]:
    """Return what prints a log. Its colours are left out; the lines of a progress bar stand below
    each other."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(data: bytes) -> None:
        text = _COLOUR.sub("", decoder.decode(data)).replace("\r\n", "\n").replace("\r", "\n")
        say(text, end="")

    return write


def _note(text: str) -> None:
    say(text, file=sys.stderr)
