"""`emobench watch`, and `emobench sweep --wait`: look at a run again and again until it is over."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from emobench.cli.arguments import add_json, add_run_dir, make_number_type
from emobench.cli.terminal import is_dumb, make_console, quote_path, show
from emobench.core.output import say, say_json, warn

if TYPE_CHECKING:
    from emobench.core.run_dir import RunDir
    from emobench.runs.watching.state import WatchState
    from emobench.runs.watching.watch import Watch

SCREEN_INTERVAL_S, LINE_INTERVAL_S = 2.0, 10.0
KEY_POLL_S = 0.25
"""How soon a key or another size of the window is noticed."""


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
        type=make_number_type(float, lambda s: 0.2 <= s <= 3600, "seconds, from 0.2 to 3600"),
        metavar="S",
        help=f"seconds between looks (default: {SCREEN_INTERVAL_S:g} in a terminal, else "
        f"{LINE_INTERVAL_S:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Return exit code 0: every cell is done (or --once); 1: it ended with missing ones; 130:
    left."""
    from emobench.core.plan import find_run_dir
    from emobench.runs.watching.watch import Watch

    run_dir = find_run_dir(arguments.run_dir)
    watch = Watch(run_dir)
    on_screen = _can_draw() and not arguments.json
    try:
        if arguments.once:
            _look_once(watch, arguments.json)
            return 0
        if on_screen:
            _draw(watch, arguments.interval or SCREEN_INTERVAL_S)
        else:
            follow(
                watch,
                arguments.interval or LINE_INTERVAL_S,
                _print_json if arguments.json else None,
            )
    except KeyboardInterrupt:
        return _say_left(run_dir)
    if watch.state is None or not watch.over:
        return _say_left(run_dir)
    if not arguments.json:
        _show_end(run_dir, watch.state)
    return 0 if watch.state.finished else 1


def wait(run_dir: RunDir, *, quiet: bool = False) -> WatchState:
    """Follow a run to its end on one line, or a line a change; return how it ended."""
    from emobench.runs.watching.watch import Watch

    watch = Watch(run_dir)
    if quiet or not _can_draw():
        return follow(watch, SCREEN_INTERVAL_S, (lambda state: None) if quiet else None)
    from rich.live import Live
    from rich.text import Text

    from emobench.cli.watch_screen import format_line

    with Live(console=make_console(), auto_refresh=False) as live:

        def redraw(state: WatchState) -> None:
            live.update(Text(format_line(state), no_wrap=True, overflow="crop"), refresh=True)

        return follow(watch, SCREEN_INTERVAL_S, redraw)


def follow(
    watch: Watch, interval_s: float, show_state: Callable[[WatchState], None] | None = None
) -> WatchState:
    """Look until the run is over; by default a line is printed where something changed."""
    show_state = show_state or _make_printer()
    while True:
        # Nobody waits for a line as for a screen: all that is there is read.
        show_state(state := watch.look(None))
        if watch.over:
            return state
        time.sleep(interval_s)


def show_results(run_dir: RunDir) -> None:
    """Print the table of results, and what has to stand below it."""
    from emobench.cli.results_table import build_results

    rows, notes = build_results(run_dir)
    show("", rows, notes, "")


def _can_draw() -> bool:
    return sys.stdout.isatty() and not is_dumb()


def _look_once(watch: Watch, as_json: bool) -> None:
    state = watch.look(None)
    if any(row.looks for row in state.servers):
        time.sleep(1.0)  # tokens a second take two looks
        state = watch.look(None)
    if as_json:
        _print_json(state)
    else:
        _show_all(state)


def _draw(watch: Watch, interval_s: float) -> None:
    """Show looks on a screen of their own until the run is over or q is pressed."""
    from rich.live import Live

    from emobench.cli.watch_screen import render_screen

    # The first look may take seconds; an error of it belongs on the ordinary screen.
    state = watch.look()
    terminal = make_console()
    with _keys() as pressed, Live(console=terminal, screen=True, auto_refresh=False) as live:
        while True:
            size = terminal.size
            live.update(render_screen(state, size.width, size.height), refresh=True)
            if watch.over:
                return
            deadline = time.monotonic() + interval_s
            while (left := deadline - time.monotonic()) > 0 and terminal.size == size:
                if pressed(min(left, KEY_POLL_S)) in ("q", "Q"):
                    return
            if left <= 0:
                state = watch.look()


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key, and returns it or nothing."""
    import select
    import termios
    import tty

    if not sys.stdin.isatty():

        def slept(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield slept
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _make_printer() -> Callable[[WatchState], None]:
    from emobench.cli.watch_screen import format_line, list_changes

    last: tuple[object, ...] = ()

    def show_state(state: WatchState) -> None:
        nonlocal last
        if (now := list_changes(state)) != last:
            last = now
            say(format_line(state))

    return show_state


def _show_all(state: WatchState) -> None:
    from emobench.cli.watch_screen import render_screen

    show(render_screen(state, make_console().width))


def _print_json(state: WatchState) -> None:
    from emobench.runs.watching.state import to_json

    say_json(to_json(state))


def _say_left(run_dir: RunDir) -> int:
    place = quote_path(run_dir.path)
    warn(
        f"left; the jobs go on. `emobench watch {place}` looks again, "
        f"`emobench cancel {place}` stops them"
    )
    return 130


def _show_end(run_dir: RunDir, state: WatchState) -> None:
    if not state.finished:
        _show_all(state)
    show_results(run_dir)
    place = quote_path(run_dir.path)
    show(
        f"over: emobench report {place} writes the report"
        if state.finished
        else f"over, with cells missing: emobench status {place} says why"
    )
