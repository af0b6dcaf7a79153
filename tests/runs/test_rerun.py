"""Episodes that are set aside run again, and what they were stays on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.status import build_run_status
from emobench.runs.submission import find_missing_cells
from emobench.store.episodes import EpisodeStore
from tests.support.runs import append, make_run, real_episode
from tests.support.studies import Study

OUTCOMES = ("agent_error", "solved", "infra_error", "failed")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """Two cells of four tasks, as a finished run leaves them but for one infrastructure error."""
    run_dir = make_run(tmp_path / "run", variants=("control", "anger"), tasks=4, trials=1)
    for cell in load_plan(run_dir).cells:
        lines = [real_episode(run_dir, cell, task, OUTCOMES[task]) for task in cell.tasks]
        if cell.number:
            # Of a task with a later line too nothing may be left that would count instead.
            lines.insert(0, real_episode(run_dir, cell, 0, "infra_error"))
            lines.append(real_episode(run_dir, cell, 0, "solved", attempt=2))
        append(run_dir, cell, lines)
    return run_dir


def files(run_dir: RunDir) -> dict[str, bytes]:
    paths = (run_dir.path / "cells").rglob("*")
    return {
        str(path): path.read_bytes() for path in paths if path.is_file() and path.name != ".lock"
    }


def rerun(run_dir: RunDir, *arguments: str) -> int:
    return main(["rerun", str(run_dir.path), *arguments])


def test_what_fits_all_options_is_set_aside_and_is_missing(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(run_dir)
    assert rerun(run_dir, "--outcome", "agent_error", "--cell", "1", "--dry-run") == 0
    assert "1 episode of 1 cell" in capsys.readouterr().out
    assert files(run_dir) == before
    assert rerun(run_dir, "--outcome", "agent_error", "--cell", "1", "--task", "0-1") == 0
    said = capsys.readouterr()
    assert "cell 1" in said.out and "1 agent_error: 0" in said.out
    assert "emobench sweep" in said.out
    assert "raises the mean" in said.err
    paths = run_dir.cell(1)
    moved = paths.set_aside.read_bytes().splitlines()
    assert [json.loads(line)["outcome"] for line in moved] == [
        *("infra_error", "agent_error", "solved")
    ]
    left = paths.episodes.read_bytes().splitlines()
    assert sorted(left + moved) == sorted(before[str(paths.episodes)].splitlines())
    assert [json.loads(line)["task_id"] for line in left] == [1, 2, 3]
    assert run_dir.cell(0).episodes.read_bytes() == before[str(run_dir.cell(0).episodes)]
    assert not run_dir.cell(0).set_aside.exists()
    with EpisodeStore(paths) as store:
        assert [(each.attempt, each.outcome) for each in store.earlier[0]] == [
            (1, "agent_error"),
            (2, "solved"),
        ]
        assert store.count_attempts(0) == 2
    results = json.loads(paths.results.read_bytes())
    assert [each["task_id"] for each in results] == [1, 3]


def test_a_cell_that_is_being_run_is_refused_and_nothing_changes(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with EpisodeStore(run_dir.cell(1)):
        before = files(run_dir)
        assert rerun(run_dir, "--outcome", "agent_error") == 2
        assert "another process is running this cell" in capsys.readouterr().err
        assert files(run_dir) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "which episodes?"),
        (("--cell", "7"), "this run has no 7"),
        (("--task", "99"), "this run has no 99"),
        (("--task", "1", "--submit"), "--submit"),
    ],
)
def test_mistakes_are_named_and_nothing_changes(
    run_dir: RunDir,
    arguments: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = load_plan(run_dir)
    monkeypatch.setattr(
        "emobench.core.plan.load_plan", lambda _: plan.model_copy(update={"sweep_file": ""})
    )
    before = files(run_dir)
    assert rerun(run_dir, *arguments) == 2
    assert said in capsys.readouterr().err
    assert files(run_dir) == before


def test_nothing_that_fits_is_said(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert rerun(run_dir, "--outcome", "max_steps") == 0
    assert "no episode fits" in capsys.readouterr().out


def test_a_cell_that_was_done_waits_to_be_submitted(run_dir: RunDir) -> None:
    plan = load_plan(run_dir)
    append(run_dir, plan.cells[0], [real_episode(run_dir, plan.cells[0], 2, "solved")])
    assert [*find_missing_cells(plan, run_dir, [], {})[0].values()] == [[1]]
    assert rerun(run_dir, "--cell", "0", "--task", "3") == 0
    assert [*find_missing_cells(plan, run_dir, [], {})[0].values()] == [[0, 1]]
    assert build_run_status(plan, run_dir, [], {}).cells.waiting == 2


@pytest.mark.parametrize("at_once", [False, True])
def test_they_are_run_again_and_the_new_record_has_the_old_attempts(
    tmp_path: Path, at_once: bool
) -> None:
    study = Study(tmp_path)
    assert study.sweep("--wait").returncode == 0
    before = study.episodes()
    failed = [each for each in before if each["outcome"] != "solved" and each["variant"] == "anger"]
    again, *kept = failed
    options = ["--cell", "1", "--task", str(again["task_id"])] + ["--submit"] * at_once
    result = study.run("rerun", "runs/tiny", *options)
    assert result.returncode == 0, result.stderr
    assert ("submitted 1 cell" in result.stdout) == at_once
    assert at_once or study.status()["cells"]["waiting"] == 1
    result = study.sweep("--wait")
    assert result.returncode == 0, result.stderr
    assert ("submitted 1 of 2 cells" in result.stdout) != at_once
    after = study.episodes()
    new = [each for each in after if each not in before]
    assert [(each["task_id"], each["attempt"]) for each in new] == [(again["task_id"], 2)]
    assert [(each["attempt"], each["outcome"]) for each in new[0]["history"]] == [
        (1, again["outcome"])
    ]
    assert all(each in after for each in [*kept, *(one for one in before if one not in failed)])
    aside = (study.run_dir / "cells/1/set_aside.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in aside] == [again]
    assert study.status()["cells"]["done"] == 2
