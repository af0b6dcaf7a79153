"""A run directory that emobench 0.1 made, before its modules had packages, goes on in this one.

run-0.1.tar.xz: four cells of three tasks, run by commit de182d7 on one machine. Cells 0 and 1 are
done, cell 2 was cut off within its second line, cell 3 never began; what the whole study gave is
in REWARDS. `@FOLDER@` and `@HOST@` stand for where it was made.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.config.variants import load_builtin
from tests.support import commands

ARCHIVE = Path(__file__).with_name("run-0.1.tar.xz")
REWARDS = {
    0: {0: 1.0, 1: 1.0, 2: 0.0},
    1: {0: 1.0, 1: 1.0, 2: 0.0},
    2: {0: 1.0, 1: 1.0, 2: 0.0},
    3: {0: 1.0, 1: 1.0, 2: 0.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The study's folder as it was left, at a place of its own."""
    shutil.unpack_archive(ARCHIVE, tmp_path)
    for file in tmp_path.rglob("*.json*"):
        text = file.read_text().replace("@FOLDER@", str(tmp_path))
        file.write_text(text.replace("@HOST@", socket.gethostname()))
    return tmp_path


def emobench(folder: Path, *arguments: str) -> str:
    run = commands.as_process if arguments[0] == "sweep" else commands.emobench
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(folder: Path, cell: int) -> list[bytes]:
    path = folder / "runs" / "study" / "cells" / str(cell) / "episodes.jsonl"
    return path.read_bytes().splitlines() if path.exists() else []


def rewards(folder: Path) -> dict[int, dict[int, float]]:
    found = {}
    for cell in REWARDS:
        records = [json.loads(line) for line in lines(folder, cell)]
        found[cell] = {record["task_id"]: record["reward"] for record in records}
    return found


def test_it_is_read_and_reported(folder: Path) -> None:
    status = json.loads(emobench(folder, "status", "runs/study", "--json"))
    assert not status["live"]
    assert status["cells"]["done"] == 2
    assert status["episodes"]["outcomes"] == {"solved": 5, "failed": 2}
    emobench(folder, "report", "runs/study")
    assert (folder / "runs" / "study" / "report.html").stat().st_size > 50_000
    emobench(folder, "collect", "runs/study", "--csv")
    table = (folder / "runs" / "study" / "tables" / "episodes.csv").read_text().splitlines()
    assert len(table) == 1 + 7


def test_it_is_resumed_where_it_stopped(folder: Path) -> None:
    if load_benchmark().label != "tau_trait 0.1.1":
        pytest.skip("the run was made with tau_trait 0.1.1")
    kept = {cell: lines(folder, cell) for cell in (0, 1)}
    first = lines(folder, 2)[0]
    emobench(folder, "sweep", "study.yaml", "--wait")
    assert {cell: lines(folder, cell) for cell in (0, 1)} == kept
    assert lines(folder, 2)[0] == first
    assert rewards(folder) == REWARDS
    texts = {json.loads(line)["variant_sha256"] for cell in (1, 3) for line in lines(folder, cell)}
    assert texts == {load_builtin("anger-v1").sha256}


@pytest.mark.parametrize(
    "module",
    ["emobench.run", "emobench.serving.supervise", "emobench.serving.scripted", "emobench.cleanup"],
)
def test_modules_that_queued_scripts_name_can_be_started(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, "--help"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
