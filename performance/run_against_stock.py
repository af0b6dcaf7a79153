"""Tasks a second: stock's `run()`, ours, and a bare loop of the same HTTP calls.

Retail, 32 at a time, one scripted server without latency that makes mistakes in some tasks, so
that the rewards which are compared are of both kinds. Other work on the machine only slows a run
down: of several rounds, in turn, the fastest of each kind counts. Exits with 1 where a reward
differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from performance.server import Server, child, scripted_server

TASKS = 115
CONCURRENCY = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stock-tasks", type=int, default=24, metavar="N")
    parser.add_argument("--full", action="store_true", help="stock runs all tasks (2 minutes)")
    parser.add_argument("--rounds", type=int, default=7, help="of ours and the bare loop")
    arguments = parser.parse_args()
    count = TASKS if arguments.full else min(arguments.stock_tasks, TASKS)
    subset = [number * TASKS // count for number in range(count)]
    with scripted_server(mistakes=0.3) as server, tempfile.TemporaryDirectory() as folder:
        bodies = str(Path(folder) / "bodies")
        # The first run warms the server up and records the requests.
        child("ours", server.url, concurrency=CONCURRENCY, record=bodies)
        ours, bare = [], []
        for _ in range(arguments.rounds):
            ours.append(_timed(server, "ours", watch=True))
            bare.append(_timed(server, "bare", bodies=bodies))
        stock = _timed(server, "stock", tasks=subset)
    _print(stock, ours, bare, "all tasks" if arguments.full else f"{count} of {TASKS} tasks")
    return _compare(stock, ours)


def _print(stock: Any, ours: list[Any], bare: list[Any], subset: str) -> None:
    count, calls = len(stock["rewards"]), ours[0]["calls"]
    stock_rate = count / stock["wall_s"]
    our_rate = max(TASKS / run["wall_s"] for run in ours)
    our_cpu = min(run["cpu_s"] / TASKS for run in ours)
    our_calls = max(calls / run["wall_s"] for run in ours)
    conversing = max(calls / _conversing_s(run) for run in ours)
    bare_calls = max(run["calls"] / run["wall_s"] for run in bare)
    print(f"retail, {CONCURRENCY} at a time, server without latency, mistakes in 30 % of tasks:")
    print(
        f"  stock, {subset:16} {stock_rate:7.2f} tasks/s  {stock['cpu_s'] / count:.4f} CPU s/task"
    )
    print(f"  ours, best of {len(ours)}         {our_rate:7.2f} tasks/s  {our_cpu:.4f} CPU s/task")
    print(f"  ours / stock            {our_rate / stock_rate:7.1f}  (at least 50)")
    print(f"  calls a task            {calls / TASKS:7.1f}  stock {stock['served'] / count:.1f}")
    print(f"  bare loop               {bare_calls:7.0f} calls/s")
    print(f"  ours, loading and all   {our_calls:7.0f} calls/s  {our_calls / bare_calls:.2f} of it")
    print(
        f"  ours, first to last call{conversing:7.0f} calls/s  {conversing / bare_calls:.2f} of it"
    )
    server_ms = min(run["server_s"] / run["served"] * 1000 for run in ours)
    bare_ms = min(run["cpu_s"] / run["calls"] * 1000 for run in bare)
    print(f"  CPU ms a call           {our_cpu * 1000 * TASKS / calls:7.2f}  ", end="")
    print(f"bare loop {bare_ms:.2f}, server {server_ms:.2f}")


def _conversing_s(run: Any) -> float:
    """Seconds from the first call of an episode to the end of the last."""
    began = min(began for began, _, _ in run["spans"])
    return float(max(ended for _, ended, _ in run["spans"]) - began)


def _timed(server: Server, kind: str, **arguments: Any) -> Any:
    cpu, calls = server.cpu_s(), server.calls()
    report = child(kind, server.url, concurrency=CONCURRENCY, **arguments)
    report["server_s"] = server.cpu_s() - cpu
    report["served"] = server.calls() - calls
    return report


def _compare(stock: Any, ours: list[Any]) -> int:
    wrong = {
        task: (reward, [run["rewards"].get(task) for run in ours])
        for task, reward in stock["rewards"].items()
        if any(run["rewards"].get(task) != reward for run in ours)
    }
    zeros = sum(reward == 0 for reward in stock["rewards"].values())
    print(f"  rewards compared        {len(stock['rewards']):7d}  ({zeros} of them 0)")
    for task, (reward, others) in sorted(wrong.items(), key=lambda item: int(item[0])):
        print(f"  task {task}: stock {reward}, ours {others}", file=sys.stderr)
    print(f"  rewards that differ     {len(wrong):7d}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
