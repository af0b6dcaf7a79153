"""What a run writes against what is left of it, and the cost of one more result as they grow."""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from emobench.core.run_dir import RunDir
from emobench.store.episodes import EpisodeRecord, EpisodeStore, format_line, parse_episode
from performance.children import written_bytes
from performance.server import child, scripted_server

SIZES = (100, 1_000, 10_000)
SAMPLES = 50


def main() -> None:
    with scripted_server() as server, tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "episode.json"
        run = child("ours", server.url, concurrency=32, sample=str(sample))
        record = parse_episode(json.loads(sample.read_text()))
    assert record is not None
    print("retail, 115 tasks, bytes:")
    print(f"  written              {run['written']:10d}")
    print(f"  result files left    {run['results']:10d}  (episodes.jsonl {run['episodes']})")
    print(f"  written / results    {run['written'] / run['results']:10.3f}  (target 1.1)")
    size = len(format_line(record))
    print(f"one more result of {size} bytes, median of {SAMPLES}:")
    for count, (bytes_each, ms, cpu_ms) in _growth(record).items():
        print(
            f"  after {count:6d}   {bytes_each:8.0f} bytes written  {cpu_ms:6.3f} ms CPU  "
            f"{ms:6.2f} ms until it is on disk"
        )


def _growth(record: EpisodeRecord) -> dict[int, tuple[float, float, float]]:

    found: dict[int, tuple[float, float, float]] = {}
    sync = os.fsync
    with (
        tempfile.TemporaryDirectory() as folder,
        EpisodeStore(RunDir(Path(folder)).cell(0)) as store,
    ):
        have = 0
        for size in SIZES:
            # What is not measured need not wait for the disk.
            os.fsync = lambda fd: None
            while have < size:
                store.append(replace(record, task_id=have))
                have += 1
            os.fsync = sync
            sync(store._descriptor)
            before, times, cpu = written_bytes(), [], []
            for _ in range(SAMPLES):
                began, used = time.perf_counter(), time.process_time()
                store.append(replace(record, task_id=have))
                times.append(time.perf_counter() - began)
                cpu.append(time.process_time() - used)
                have += 1
            written = (written_bytes() - before) / SAMPLES
            found[size] = (written, median(times) * 1000, median(cpu) * 1000)
    return found


if __name__ == "__main__":
    main()
