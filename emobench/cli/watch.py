"""`emobench watch`: look again and again, and show it, until the sweep is over."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from emobench.cli.arguments import add_json, add_run_dir
from emobench.cli.terminal import typed_path
from emobench.cli.watch_screen import block, changes
from emobench.core.errors import InvalidInput
from emobench.core.plan import find_run_dir
from emobench.core.run_dir import RunDir
from emobench.runs.watching.state import WatchState, as_data
from emobench.runs.watching.watch import Watch

SCREEN_INTERVAL_S, PLAIN_INTERVAL_S = 2.0, 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The state of a run: redrawn in a terminal, one line at each change elsewhere. It only "
        "reads: leaving it changes nothing."
    )
    add_run_dir(parser)
    add_json(parser, "one JSON object a look, one a line")
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument(
        "--interval",
        type=float,
        metavar="S",
        help=f"seconds between looks (default: {SCREEN_INTERVAL_S:g} in a terminal, else "
        f"{PLAIN_INTERVAL_S:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0: every cell is done (or --once); 1: it ended with missing ones; 130: Ctrl-C."""
    run_dir = find_run_dir(arguments.run_dir)
    on_screen = sys.stdout.isatty() and not arguments.json and not arguments.once
    interval_s = arguments.interval
    if interval_s is None:
        interval_s = SCREEN_INTERVAL_S if on_screen else PLAIN_INTERVAL_S
    if not 0.2 <= interval_s <= 3600:
        raise InvalidInput(f"--interval {interval_s:g}: give seconds, from 0.2 to 3600")
    watch = Watch(run_dir)
    show = _json if arguments.json else _plain()
    try:
        if arguments.once:
            state = watch.look(None)
            if any(row.looks for row in state.servers):
                time.sleep(1.0)  # tokens a second take two looks
                state = watch.look(None)
            show(state)
            return 0
        if not (on_screen and _on_screen(watch, interval_s)):
            _repeat(watch, interval_s, show)
    except KeyboardInterrupt:
        return _left(run_dir)
    if watch.state is None or not watch.over:
        return _left(run_dir)
    if not arguments.json:
        _ending(run_dir, watch.state)
    return 0 if watch.state.finished else 1


def _repeat(watch: Watch, interval_s: float, show: Callable[[WatchState], None]) -> None:
    while True:
        # Nobody waits for a line as for a screen: all that is there is read.
        show(watch.look(None))
        if watch.over:
            return
        time.sleep(interval_s)


def _on_screen(watch: Watch, interval_s: float) -> bool:
    """False where this terminal cannot be drawn on."""
    try:
        from emobench.cli.watch_terminal import Unusable, run
    except ImportError:  # a Python without curses
        return False
    try:
        run(watch, interval_s)
    except Unusable:
        return False
    return True


def _plain() -> Callable[[WatchState], None]:
    last: tuple[object, ...] = ()

    def show(state: WatchState) -> None:
        nonlocal last
        if (now := changes(state)) != last:
            last = now
            print(block(state), flush=True)

    return show


def _json(state: WatchState) -> None:
    print(json.dumps(as_data(state)), flush=True)


def _left(run_dir: RunDir) -> int:
    place = typed_path(run_dir.path)
    print(
        f"emobench: left; the jobs go on. `emobench watch {place}` looks again, "
        f"`emobench cancel {place}` stops them",
        file=sys.stderr,
    )
    return 130


def _ending(run_dir: RunDir, state: WatchState) -> None:
    from emobench.cli.results_table import text_table

    if not state.finished:
        print(block(state))
    print()
    print(text_table(run_dir))
    place = typed_path(run_dir.path)
    print()
    print(
        f"over: emobench report {place} writes the report"
        if state.finished
        else f"over, with cells missing: emobench status {place} says why"
    )
