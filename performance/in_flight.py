"""Requests in flight with a server that takes 50 ms for each, and the memory of 256 at a time.

A request is in flight from the moment when its sender hands it to the kernel (which puts it
before the server at once, on one machine) until the server has its answer ready. So whatever a
client wastes between an answer and its next request counts against it, and nothing else. The
steady part begins when the last of the slots has sent its first request, and ends when the first
of them has sent its last: in between every slot has a conversation.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from performance.server import child, scripted_server

LATENCY_MS = 50
CONCURRENCY = 32
MANY = 256
ROUNDS = 3
STOCK_TASKS = 64
"""So that some are waiting while 32 converse."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bodies = str(Path(folder) / "bodies")
        with scripted_server(latency_ms=LATENCY_MS) as server:
            child("ours", server.url, concurrency=CONCURRENCY, record=bodies)
        # Other work on the machine only makes gaps: the best round of each counts.
        ours = max(_measured("ours") for _ in range(ROUNDS))
        bare = max(_measured("bare", bodies=bodies) for _ in range(ROUNDS))
        stock = _measured("stock", tasks=list(range(STOCK_TASKS)))
    print(f"retail, {CONCURRENCY} at a time, server with {LATENCY_MS} ms, requests in flight:")
    for name, figures in (("ours", ours), ("bare loop", bare), ("stock", stock)):
        mean, share, most, rate = figures
        print(
            f"  {name:9} {mean:6.1f} in the mean, 31 or 32 for {share:4.0%} of the time, "
            f"at most {most:.0f}; {rate:4.0f} calls/s"
        )
    print("  target      31.0")
    with scripted_server(latency_ms=500) as server:
        many = child("ours", server.url, concurrency=MANY, cells=3, watch=True)
    print(f"{MANY} at a time in one process (two cells of retail, one of airline), 500 ms:")
    print(f"  most in flight  {_most(many['spans']):6d}")
    print(f"  peak memory     {many['peak_mb']:6.0f} MB  (target 1500)")


def _measured(kind: str, **arguments: Any) -> tuple[float, float, float, float]:
    """Of the steady part: the mean in flight, the share of time with 31 or more, the most, and
    calls a second."""
    with tempfile.TemporaryDirectory() as folder:
        spans = Path(folder) / "spans.json"
        with scripted_server(spans, latency_ms=LATENCY_MS) as server:
            run = child(kind, server.url, concurrency=CONCURRENCY, note_sends=True, **arguments)
        answered = [end for _, end in json.loads(spans.read_text())]
    start, end = _steady(run["sends"])
    levels = list(_levels([sent for sent, _ in run["sends"]], answered, start, end))
    mean = sum(level * seconds for level, seconds in levels) / (end - start)
    share = sum(seconds for level, seconds in levels if level >= CONCURRENCY - 1) / (end - start)
    rate = sum(start <= moment <= end for moment in answered) / (end - start)
    return mean, share, max(level for level, _ in levels), rate


def _steady(sends: Sequence[Any]) -> tuple[float, float]:
    """Begin and end of the steady part."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for moment, thread in sends:
        first.setdefault(thread, moment)
        last[thread] = moment
    # The main thread's (a probe, stock's first environment) are over before the slots begin.
    slots = sorted(first, key=lambda thread: first[thread])[-CONCURRENCY:]
    return max(first[thread] for thread in slots), min(last[thread] for thread in slots)


def _levels(
    sent: Sequence[float], answered: Sequence[float], start: float, end: float
) -> Iterator[tuple[int, float]]:
    """(requests in flight, seconds for which there were so many) between `start` and `end`."""
    level, since = 0, start
    for moment, change in sorted([(at, 1) for at in sent] + [(at, -1) for at in answered]):
        if moment > start:
            yield level, min(moment, end) - since
            since = min(moment, end)
        if moment >= end:
            return
        level += change


def _most(spans: list[Any]) -> int:
    edges = sorted([(began, 1) for began, _, _ in spans] + [(ended, -1) for _, ended, _ in spans])
    most = now = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


if __name__ == "__main__":
    main()
