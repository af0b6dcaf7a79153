"""Reading a run directory that is whole, torn, damaged, or being written."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.core.errors import InvalidInput
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.tables.run_results import collect, read_cell
from tests.support.runs import append, episode, fill, make_run, summarise


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "study", variants=("control", "frustration"), tasks=3, trials=1)


def test_an_absent_file_holds_no_episode(run_dir: RunDir) -> None:
    cell = load_plan(run_dir).cells[0]
    assert read_cell(run_dir, cell).file.episodes == ()


def test_a_torn_last_line_is_left_out_and_counted(run_dir: RunDir) -> None:
    cell = load_plan(run_dir).cells[0]
    append(run_dir, cell, [episode(cell, 0), episode(cell, 1)])
    path = run_dir.cell(0).episodes
    whole = path.read_bytes()
    for cut in (1, 5, 400):
        path.write_bytes(whole[:-cut])
        file = read_cell(run_dir, cell).file
        assert [record.task_id for record in file.episodes] == [0]
        assert (file.left_out.torn, file.left_out.damaged) == (1, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b'{"task_id": "0", "outcome": "solved", "trial": 1}',
        b'{"task_id": 0, "outcome": "splendid", "trial": 1}',
        b'{"task_id": 0, "outcome": ["solved"], "trial": 1}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_damaged_line_is_counted_and_the_rest_is_read(run_dir: RunDir, line: bytes) -> None:
    cell = load_plan(run_dir).cells[0]
    path = run_dir.cell(0).episodes
    append(run_dir, cell, [episode(cell, 0)])
    path.write_bytes(line + b"\n" + path.read_bytes())
    file = read_cell(run_dir, cell).file
    assert (len(file.episodes), file.left_out.damaged) == (1, 1)


def test_only_an_infrastructure_error_is_replaced(run_dir: RunDir) -> None:
    cell = load_plan(run_dir).cells[0]
    lines = [
        episode(cell, 0, "infra_error"),
        episode(cell, 0, "solved", attempt=2),
        episode(cell, 0, "failed", attempt=3),
        episode(cell, 1, "failed"),
        episode(cell, 1, "infra_error"),
    ]
    append(run_dir, cell, lines)
    file = read_cell(run_dir, cell).file
    assert [(r.task_id, r.outcome, r.attempt) for r in file.episodes] == [
        (0, "solved", 2),
        (1, "failed", 1),
    ]
    assert (file.left_out.replaced, file.left_out.duplicates) == (1, 2)


def test_a_reward_that_is_no_number_is_missing(run_dir: RunDir) -> None:
    cell = load_plan(run_dir).cells[0]
    append(run_dir, cell, [episode(cell, 0, reward=float("nan")), episode(cell, 1, reward="1")])
    append(run_dir, cell, [episode(cell, 2, "infra_error", reward=1.0)])
    assert [record.reward for record in read_cell(run_dir, cell).file.episodes] == [
        None,
        None,
        None,
    ]


def test_cells_have_the_state_that_their_files_say(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "s", variants=("a", "b", "c", "d", "e"), tasks=2, trials=1)
    cells = load_plan(run_dir).cells
    fill(run_dir, cells[:1])
    append(run_dir, cells[1], [episode(cells[1], 0)])
    summarise(run_dir, cells[1], "running")
    append(run_dir, cells[2], [episode(cells[2], 0), episode(cells[2], 1, "infra_error")])
    summarise(run_dir, cells[3], "failed", exit_reason="endpoint_unavailable")
    found = collect(run_dir).cells
    assert [result.state for result in found] == ["done", "running", "partial", "failed", "missing"]
    assert (found[2].scored, found[2].infra_errors, found[2].expected) == (1, 1, 2)


def test_an_episode_of_another_cell_is_left_out(run_dir: RunDir) -> None:
    control, frustration = load_plan(run_dir).cells
    append(run_dir, control, [episode(control, 0), episode(frustration, 1), episode(control, 99)])
    result = collect(run_dir).cells[0]
    assert [record.task_id for record in result.file.episodes] == [0]
    assert result.file.left_out.foreign == 2


def test_a_folder_without_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        collect(RunDir(tmp_path))
