"""`--wait`: follow a sweep to its end, one line of progress, then the results and the report."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from emobench.cli.status import show
from emobench.core.run_dir import RunDir
from emobench.runs.status import STATES, gather

LOCAL_POLL_S, SLURM_POLL_S = 1.0, 5.0
QUIET_CHECKS = 3
"""Polls without a live job before the sweep counts as over: sacct and files lag behind."""


def follow(run_dir: RunDir, say: Callable[[str], None]) -> int:
    """Print progress until nothing runs any more; returns 0 if every cell is done, else 1."""
    started, quiet, last = time.monotonic(), 0, ""
    on_one_line = sys.stdout.isatty()
    while True:
        status = gather(run_dir)
        line = progress_line(status)
        if on_one_line:
            # A longer line would wrap, and could not be written over.
            width = shutil.get_terminal_size().columns - 1
            text = f"{_clock(time.monotonic() - started)}  {line}"[:width]
            print(f"\r\x1b[2K{text}", end="", flush=True)
        elif line != last:
            say(line)
        last = line
        quiet = 0 if status["live"] else quiet + 1
        if quiet >= (1 if status["finished"] else QUIET_CHECKS):
            break
        time.sleep(LOCAL_POLL_S if status["scheduler"] == "local" else SLURM_POLL_S)
    if on_one_line:
        print()
    _results(run_dir, status, say)
    return 0 if status["finished"] else 1


def progress_line(status: Mapping[str, Any]) -> str:
    """One line: cells, episodes, mean reward by variant."""
    cells, episodes = status["cells"], status["episodes"]
    parts = [f"{cells[name]} {name}" for name in STATES if cells[name]]
    line = f"cells: {', '.join(parts)}  episodes: {episodes['finished']}/{episodes['expected']}"
    means = [
        f"{row['variant']} {row['mean_reward']:.2f}"
        for row in status["variants"]
        if row["mean_reward"] is not None
    ]
    return line + (f"  mean reward: {', '.join(means)}" if means else "")


def _results(run_dir: RunDir, status: Mapping[str, Any], say: Callable[[str], None]) -> None:
    from emobench.cli.results_table import text_table
    from emobench.report.render import build_report

    say("")
    if not status["finished"]:
        say(show(status))
        say("")
    say(text_table(run_dir))
    report = build_report(run_dir)
    say("")
    say(f"report: {report}")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes:02d}:{rest:02d}"
