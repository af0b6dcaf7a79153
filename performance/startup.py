"""How long the command line takes to answer, and a cell to begin.

Each number is the best of several processes; a bare interpreter's start is part of all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from performance.server import environment, scripted_server

TIMES = 7
IMPORTS = "; ".join(
    ["from emobench.benchmarks.adapter import load_benchmark", "benchmark = load_benchmark()"]
    + [
        f"benchmark.import_module('{name}')"
        for name in (
            "envs.retail",
            "envs.user",
            "agents.tool_calling_agent",
            "agents.few_shot_agent",
        )
    ]
)
STOCK_IMPORTS = "import {0}.run, {0}.envs.retail, {0}.agents.tool_calling_agent"


def main() -> None:
    from emobench.benchmarks.adapter import load_benchmark

    # As stock is imported: with litellm, which does not look for prices on the network.
    stock = f"import os; os.environ['LITELLM_LOCAL_MODEL_COST_MAP'] = 'True'; {STOCK_IMPORTS}"
    print(f"start, best of {TIMES}, in seconds:")
    for name, command in (
        ("python -c pass", ["-c", "pass"]),
        ("import emobench", ["-c", "import emobench"]),
        ("emobench --help", ["-m", "emobench.cli", "--help"]),
        ("the benchmark, as stock imports it", ["-c", stock.format(load_benchmark().package)]),
        ("the benchmark, as we import it", ["-c", IMPORTS]),
    ):
        times = TIMES if "stock" not in name else 2
        taken = min(_run([sys.executable, *command]) for _ in range(times))
        target = "  (target 0.3)" if "emobench" in name else ""
        print(f"  {name:36} {taken:6.3f}{target}")
    with scripted_server() as server:
        cell = min(_cell_without_its_episode(server.url) for _ in range(TIMES))
    print(f"  {'a cell, begin and end, no episode':36} {cell:6.3f}")
    print(f"  {'  beyond the import of the benchmark':36} {cell - taken:6.3f}  (target 1.5)")


def _run(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())
    return time.perf_counter() - started


def _cell_without_its_episode(url: str) -> float:
    """Seconds of `emobench.run` on one task, without the conversation."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "emobench.run", "--env", "retail", "--tasks", "0"]
        command += ["--model", "scripted", "--model-base-url", url, "--run-dir", folder]
        taken = _run(command)
        record = json.loads((Path(folder) / "cells/0/episodes.jsonl").read_text())
    return taken - float(record["wall_s"])


if __name__ == "__main__":
    main()
