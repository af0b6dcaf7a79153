"""Episodes are read once each, however they arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.watching.episodes import EpisodeScan
from emobench.store.episodes import Line, read_lines
from tests.support.runs import make_run

NOW = 1_800_000_000.0


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "x", variants=("control", "placebo"), tasks=3, trials=1)


@pytest.fixture
def scan(run_dir: RunDir) -> EpisodeScan:
    return EpisodeScan(load_plan(run_dir), run_dir)


def episode(task: int, outcome: str = "solved", **more: Any) -> str:
    reward = {"infra_error": None, "solved": 1.0}.get(outcome, 0.0)
    record = {
        "task_id": task,
        "assistant": "scripted",
        "env": "retail",
        "agent_strategy": "tool-calling",
        "variant": "control",
        "trial": 1,
        "outcome": outcome,
        "reward": reward,
        "error": None,
        "started": "2027-01-15T07:59:00+00:00",
        "wall_s": 30.0,
        **more,
    }
    return json.dumps(record) + "\n"


def write(run_dir: RunDir, text: str, cell: int = 0, mode: str = "a") -> None:
    run_dir.cell(cell).folder.mkdir(parents=True, exist_ok=True)
    with run_dir.cell(cell).episodes.open(mode) as stream:
        stream.write(text)


def outcomes(scan: EpisodeScan, variant: str = "control") -> dict[str, int]:
    return {name: count for name, count in scan.variants[variant].outcomes.items() if count}


def test_each_line_is_taken_once_and_a_torn_one_when_it_is_whole(
    run_dir: RunDir, scan: EpisodeScan
) -> None:
    write(run_dir, episode(0) + episode(1, "failed") + episode(2)[:40])
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"solved": 1, "failed": 1}
    write(run_dir, episode(2)[40:])
    for _ in range(2):
        scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"solved": 2, "failed": 1}
    assert scan.variants["control"].sums == {
        ("retail", 0): (1, 1, 1.0),
        ("retail", 1): (1, 0, 0.0),
        ("retail", 2): (1, 1, 1.0),
    }
    assert len(scan.recent) == 3
    scan.read({0: False}, None, NOW + 700)
    assert scan.recent == []


def test_an_infrastructure_error_is_replaced_and_a_result_is_not(
    run_dir: RunDir, scan: EpisodeScan
) -> None:
    error = {"type": "Timeout", "message": "no answer\nwithin 600 s"}
    write(run_dir, episode(0, "infra_error", error=error))
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"infra_error": 1}
    assert scan.newest_error is not None
    assert scan.newest_error.where == "cell 0 task 0"
    assert scan.newest_error.text == "a conversation lost a server: no answer within 600 s"
    write(run_dir, episode(0, "failed") + episode(0, "solved"))
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"failed": 1}


def test_what_is_no_episode_of_the_cell_is_passed_over(run_dir: RunDir, scan: EpisodeScan) -> None:
    write(run_dir, "no json\n[]\n\n" + episode(7) + episode(0, variant="placebo") + episode(1))
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"solved": 1}


def test_a_file_that_got_shorter_is_read_anew(run_dir: RunDir, scan: EpisodeScan) -> None:
    write(run_dir, episode(0) + episode(1))
    scan.read({0: False}, None, NOW)
    write(run_dir, episode(0, "failed"), mode="w")
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {"failed": 1}
    run_dir.cell(0).episodes.unlink()
    scan.read({0: False}, None, NOW)
    assert outcomes(scan) == {}


def test_a_look_takes_a_bounded_time(
    run_dir: RunDir, scan: EpisodeScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run_dir, "".join(map(episode, range(3))))
    write(run_dir, "".join(episode(task, variant="placebo") for task in range(3)), cell=1)
    ticks = iter(range(1000))
    looks = 0
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: float(next(ticks)))
        while scan.behind or not looks:
            scan.read({0: True, 1: True}, 2.5, NOW)
            looks += 1
    assert 1 < looks < 7
    assert outcomes(scan) == outcomes(scan, "placebo") == {"solved": 3}


def test_a_cell_that_is_done_is_not_looked_at_again(run_dir: RunDir, scan: EpisodeScan) -> None:
    write(run_dir, episode(0))
    scan.read({0: True}, None, NOW)
    run_dir.cell(0).episodes.unlink()
    scan.read({0: True}, None, NOW)
    assert outcomes(scan) == {"solved": 1}


def test_looking_again_reads_nothing_again(
    run_dir: RunDir, scan: EpisodeScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(run_dir, "".join(map(episode, range(3))))
    write(run_dir, episode(0, variant="placebo"), cell=1)
    settled = {0: True, 1: False}
    scan.read(settled, None, NOW)
    read: list[tuple[Path, int]] = []

    def recorded(path: Path, offset: int) -> Iterator[Line]:
        read.append((path, offset))
        return read_lines(path, offset)

    monkeypatch.setattr("emobench.runs.watching.episodes.read_lines", recorded)
    scan.read(settled, None, NOW)
    assert read == []
    file = run_dir.cell(1).episodes
    length = file.stat().st_size
    write(run_dir, episode(1, variant="placebo"), cell=1)
    scan.read(settled, None, NOW)
    assert read == [(file, length)]
    assert (outcomes(scan), outcomes(scan, "placebo")) == ({"solved": 3}, {"solved": 2})
