"""Requests in flight with a server that takes 50 ms for each, and the memory of 256 at a time.

The steady part begins when the last slot got its first episode and ends when no task is left to
begin; in between every slot has a conversation. A request is in flight from its caller's send
until its answer, in the mean over time. For stock much of that is waiting for its own process:
what the server sees of it is calls a second times 50 ms.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.server import child, scripted_server

LATENCY_MS = 50
CONCURRENCY = 32
MANY = 256
STOCK_TASKS = 64
"""So that some are waiting while 32 converse."""


def main() -> None:
    with scripted_server(latency_ms=LATENCY_MS) as server, tempfile.TemporaryDirectory() as folder:
        bodies = str(Path(folder) / "bodies")
        child("ours", server.url, concurrency=CONCURRENCY, record=bodies)
        ours = child("ours", server.url, concurrency=CONCURRENCY, watch=True)
        bare = child("bare", server.url, concurrency=CONCURRENCY, bodies=bodies)
        stock = child(
            "stock", server.url, concurrency=CONCURRENCY, watch=True, tasks=list(range(STOCK_TASKS))
        )
    print(f"retail, {CONCURRENCY} at a time, server with {LATENCY_MS} ms:")
    for name, run in (("ours", ours), ("stock", stock)):
        in_flight, rate = _steady(run["spans"], CONCURRENCY)
        print(
            f"  {name:6} {in_flight:6.1f} requests in flight, {rate:5.0f} calls/s; "
            f"all of it {len(run['rewards']) / run['wall_s']:5.1f} tasks/s"
        )
    print("  target     31")
    print(f"  bare loop of the same calls{bare['calls'] / bare['wall_s']:12.0f} calls/s")
    with scripted_server(latency_ms=500) as server:
        many = child("ours", server.url, concurrency=MANY, cells=3, watch=True)
    print(f"{MANY} at a time in one process (two cells of retail, one of airline), 500 ms:")
    print(f"  most in flight  {_most(many['spans']):6d}")
    print(f"  peak memory     {many['peak_mb']:6.0f} MB  (target 1500)")


def _steady(spans: list[Any], slots: int) -> tuple[float, float]:
    """While all slots had an episode: mean of the requests in flight, and calls a second."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for began, ended, thread in spans:
        first[thread] = min(began, first.get(thread, began))
        last[thread] = max(ended, last.get(thread, ended))
    # A thread makes no further call when there is no further task for it.
    start, end = sorted(first.values())[slots - 1], min(last.values())
    covered = sum(max(0.0, min(ended, end) - max(began, start)) for began, ended, _ in spans)
    calls = sum(start <= ended <= end for _, ended, _ in spans)
    return covered / (end - start), calls / (end - start)


def _most(spans: list[Any]) -> int:
    edges = sorted([(began, 1) for began, _, _ in spans] + [(ended, -1) for _, ended, _ in spans])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
