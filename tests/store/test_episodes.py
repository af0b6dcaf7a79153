"""The episode store: one writer, whole lines, and any prefix of its file is recoverable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emobench.core.run_dir import CellPaths
from emobench.store.episodes import CellBusy, EpisodeStore


def record(task: int, outcome: str = "solved", attempt: int = 1) -> dict[str, Any]:
    return {"task_id": task, "outcome": outcome, "attempt": attempt, "traj": ["é\n\u2028" * task]}


def test_episodes_come_back(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(3))
        store.append(record(1, "failed"))
    with EpisodeStore(paths) as store:
        assert store.finished() == {1, 3}
        assert store.records[3] == record(3)


def test_an_infrastructure_error_is_replaced_and_a_result_is_not(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths) as store:
        store.append(record(1, "infra_error", attempt=3))
        assert store.finished() == set()
        assert store.attempts[1] == 3
        store.append(record(1, "failed", attempt=4))
        store.append(record(1, "solved", attempt=5))
    with EpisodeStore(paths) as store:
        assert store.records[1]["outcome"] == "failed"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0), tail=st.binary(max_size=5))
def test_any_prefix_is_recoverable(tmp_path: Path, cut: int, tail: bytes) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir(exist_ok=True)
    lines = [json.dumps(record(task), ensure_ascii=False).encode() + b"\n" for task in range(4)]
    data = b"".join(lines)
    cut %= len(data) + 1
    tail = tail.replace(b"\n", b"")
    paths.episodes.write_bytes(data[:cut] + tail)
    whole = sum(len(b"".join(lines[: n + 1])) <= cut for n in range(4))
    with EpisodeStore(paths) as store:
        assert store.finished() == set(range(whole))
        store.append(record(9))
    with EpisodeStore(paths) as store:
        assert store.finished() == {*range(whole), 9}


def test_a_damaged_line_in_the_middle_costs_that_line_only(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.folder.mkdir()
    good = [json.dumps(record(task)) for task in (0, 2)]
    paths.episodes.write_text(f'{good[0]}\n{{"task_id": 1, "out\n[]\n{good[1]}\n')
    with EpisodeStore(paths) as store:
        assert store.finished() == {0, 2}


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    with EpisodeStore(paths), pytest.raises(CellBusy, match="another process"):
        EpisodeStore(paths).__enter__()
    with EpisodeStore(paths):
        pass


def test_a_cell_whose_file_cannot_be_opened_is_not_held(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    paths.episodes.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        EpisodeStore(paths).__enter__()
    paths.episodes.rmdir()
    with EpisodeStore(paths) as store:
        store.append(record(1))


WRITER = """
import sys
from pathlib import Path
from emobench.store.episodes import EpisodeStore
from emobench.core.run_dir import CellPaths
with EpisodeStore(CellPaths(Path(sys.argv[1]))) as store:
    for task in range(10**6):
        store.append({"task_id": task, "outcome": "solved", "traj": ["x" * 5000]})
        print(task, flush=True)
"""


def test_kill_9_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    paths = CellPaths(tmp_path / "0")
    for reports in (1, 7, 20):
        paths.episodes.unlink(missing_ok=True)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(paths.folder)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(reports):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        last = int(rest[-1]) if rest else last
        with EpisodeStore(paths) as store:
            assert store.finished() >= set(range(last + 1))
