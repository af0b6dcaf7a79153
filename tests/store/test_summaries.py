"""`variant_summary.json`: what is written is what every reader gets, and nothing else counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.summaries import CellSummary, read_summary

CELL = Cell(
    number=3,
    assistant="a",
    env="retail",
    agent_strategy="act",
    variant="anger",
    trial=1,
    tasks=(0, 1),
)


def write(run_dir: RunDir, text: str) -> None:
    run_dir.cell(3).folder.mkdir(parents=True)
    run_dir.cell(3).summary.write_text(text)


def test_a_summary_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    data = {"schema": 1, "status": "incomplete", "exit_reason": "interrupted", "seconds": 1.5}
    write(RunDir(tmp_path), json.dumps(data))
    summary = read_summary(RunDir(tmp_path), 3)
    assert summary is not None
    assert (summary.status, summary.exit_reason, summary.has_failed) == (
        "incomplete",
        "interrupted",
        True,
    )
    assert (summary.finished, summary.mean_reward, summary.job_id, summary.probe) == (
        0,
        None,
        None,
        {},
    )
    assert not summary.is_done(CELL)


@pytest.mark.parametrize(
    ("data", "rewards"),
    [
        # Earlier versions wrote the mean of all finished episodes.
        ({"finished": 4, "mean_reward": 0.75}, (4, 3.0)),
        ({"finished": 0, "mean_reward": None}, (0, 0.0)),
        ({"finished": 4, "mean_reward": 0.5, "scored": 2, "reward_sum": 1.0}, (2, 1.0)),
        ({"finished": 1, "mean_reward": None, "scored": 0, "reward_sum": 0}, (0, 0.0)),
    ],
)
def test_the_sums_of_rewards(data: dict[str, Any], rewards: tuple[int, float]) -> None:
    assert CellSummary.model_validate(data).rewards == rewards


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", '{"status": "done", "expe', '{"status": "paused"}', '{"expected": []}'],
)
def test_what_is_no_summary_is_none(tmp_path: Path, text: str) -> None:
    write(RunDir(tmp_path), text)
    assert read_summary(RunDir(tmp_path), 3) is None


def test_no_file_is_no_summary(tmp_path: Path) -> None:
    assert read_summary(RunDir(tmp_path), 3) is None


@pytest.mark.parametrize(
    ("fields", "done"),
    [
        ({"status": "done", "expected": 2}, True),
        ({"status": "done", "expected": 3}, True),
        ({"status": "done", "expected": 1}, False),
        ({"status": "done"}, False),
        ({"status": "running", "expected": 2}, False),
    ],
)
def test_a_cell_to_which_tasks_were_added_is_not_done(fields: dict[str, Any], done: bool) -> None:
    assert CellSummary(**fields).is_done(CELL) is done
