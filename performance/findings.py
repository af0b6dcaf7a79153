"""A million made-up episodes, from the files of a run to its findings: time and memory.

`python -m performance.findings [FOLDER] [TRIALS]`: about a gigabyte is written into FOLDER
(default: a temporary one) and removed again; 348 trials, the default, are a million episodes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from performance.synthetic import make_run

TRIALS = 348
LIMIT_S, LIMIT_MB = 120, 4096
"""Targets for all steps together, on two cores."""


@dataclass(frozen=True)
class Measured:
    seconds: float
    cpu: float
    """Seconds of all processes."""
    peak_mb: float
    """Highest sum of the resident sets of all its processes: pages that they share count twice."""


def main() -> None:
    trials = int(sys.argv[2]) if len(sys.argv) > 2 else TRIALS
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        started = time.perf_counter()
        run_dir, episodes = make_run(Path(folder) / "synthetic", trials)
        written = sum(file.stat().st_size for file in run_dir.path.glob("cells/*/*")) / 2**20
        print(
            f"findings of {episodes:,} made-up episodes ({written:,.0f} MB, written in "
            f"{time.perf_counter() - started:.0f} s):",
            flush=True,
        )
        steps = {
            name: measured([sys.executable, "-m", "emobench.cli", *command])
            for name, command in steps_of(run_dir.path)
        }
        for name, step in steps.items():
            print(
                f"  {name:12} {step.seconds:7.1f} s  {step.cpu:7.1f} s CPU  "
                f"peak {step.peak_mb:6.0f} MB"
            )
        seconds = sum(step.seconds for step in steps.values())
        peak = max(step.peak_mb for step in steps.values())
        print(
            f"  {'together':12} {seconds:7.1f} s  (target {LIMIT_S})  peak {peak:6.0f} MB "
            f"(target {LIMIT_MB})"
        )
        tables = sum(file.stat().st_size for file in run_dir.path.glob("tables/*.parquet")) / 2**20
        print(f"  tables       {tables:7.0f} MB")
        shutil.rmtree(run_dir.path)


def steps_of(run_dir: Path) -> list[tuple[str, list[str]]]:
    """The commands that are measured, one after the other."""
    return [
        ("collect", ["collect", str(run_dir)]),
        ("report", ["report", str(run_dir / "tables")]),
    ]


def measured(command: list[str]) -> Measured:
    """Run a command and watch it and its children. Raises CalledProcessError where it fails."""
    before = os.times()
    started = time.perf_counter()
    peak = 0
    done = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, sum(map(_resident, _tree(process.pid))))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    seconds, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    return Measured(seconds, cpu, peak / 2**20)


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found += map(int, children)
    return found


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
