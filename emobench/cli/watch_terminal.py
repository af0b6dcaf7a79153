"""Drawing on a terminal with curses: only what changed is sent, and the old screen comes back."""

from __future__ import annotations

import curses
import locale
import os
import time
from typing import TYPE_CHECKING

from emobench.cli.watch_screen import Line, screen

if TYPE_CHECKING:
    from emobench.runs.watching.watch import Watch

COLORS = {"good": curses.COLOR_GREEN, "warn": curses.COLOR_YELLOW, "bad": curses.COLOR_RED}
QUIT = (ord("q"), ord("Q"), 3)


class Unusable(Exception):
    """This terminal cannot be drawn on."""


def run(watch: Watch, interval_s: float) -> None:
    """Show looks until the run is over or q is pressed. Raises Unusable, KeyboardInterrupt."""
    if os.environ.get("TERM", "dumb") == "dumb":
        raise Unusable("TERM is dumb")
    locale.setlocale(locale.LC_ALL, "")
    try:
        # The first look may take seconds; an error of it belongs on the ordinary screen.
        watch.look()
        window = curses.initscr()
    except curses.error as error:
        raise Unusable(str(error)) from None
    try:
        _prepare(window)
        _loop(window, watch, interval_s)
    finally:
        curses.endwin()


def _prepare(window: curses.window) -> None:
    curses.noecho()
    curses.cbreak()
    window.keypad(True)
    try:
        curses.curs_set(0)
        curses.start_color()
        curses.use_default_colors()
        for number, color in enumerate(COLORS.values(), start=1):
            curses.init_pair(number, color, -1)
    except curses.error:
        pass  # a terminal without colours, or one whose cursor cannot be hidden


def _loop(window: curses.window, watch: Watch, interval_s: float) -> None:
    while True:
        _draw(window, watch)
        if watch.over:
            return
        if _wait(window, watch, interval_s):
            return
        watch.look()


def _wait(window: curses.window, watch: Watch, seconds: float) -> bool:
    """Wait for the next look, redrawing where the window's size changes; True: q was pressed."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        window.timeout(max(1, round(left * 1000)))
        key = window.getch()
        if key in QUIT:
            return True
        if key == curses.KEY_RESIZE:
            _draw(window, watch)
    return False


def _draw(window: curses.window, watch: Watch) -> None:
    if watch.state is None:
        return
    height, width = window.getmaxyx()
    window.erase()
    for number, line in enumerate(screen(watch.state, width, height)):
        _put(window, number, line)
    window.refresh()


def _put(window: curses.window, row: int, line: Line) -> None:
    column = 0
    for text, style in line:
        try:
            window.addstr(row, column, text, _attribute(style))
        except UnicodeEncodeError:
            window.addstr(row, column, text.encode("ascii", "replace").decode())
        except curses.error:
            return  # the last cell of the last line is drawn, but the cursor has nowhere to go
        column += len(text)


def _attribute(style: str) -> int:
    if style == "bold":
        return curses.A_BOLD
    if style == "dim":
        return curses.A_DIM
    if style in COLORS and curses.has_colors():
        return curses.color_pair(list(COLORS).index(style) + 1)
    return curses.A_BOLD if style == "bad" else curses.A_NORMAL
