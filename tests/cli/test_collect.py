"""emobench collect as people type it: one clear error each, and what was left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.run_dir import RunDir
from emobench.tables.table import load_episodes
from tests.support.runs import change_sweep, full_run
from tests.support.stock_results import result, written


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    return full_run(tmp_path / "runs/study")


def test_a_run(study: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    path = study.cell(0).episodes
    path.write_bytes(path.read_bytes() + b'{"task_id":')
    assert main(["collect", "runs/study"]) == 0
    said = capsys.readouterr().out
    assert (
        "collected 16 of 16 planned episodes and 80 turns of 1 run into runs/study/tables" in said
    )
    assert "4 of them have no reward (outcome infra_error)" in said
    assert "../cells/0/episodes.jsonl: 1 cut off at its end" in said
    assert len(load_episodes(Path("runs/study/tables"))) == 16
    assert main(["collect", "runs/study", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"]["torn"] == 1


def test_result_files(study: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    written(Path("a b.json"), [result(0), result(1)])
    written(Path("c.json"), [result(0, reward=0.0)])
    command = ["collect", "a b.json", "c.json", "--env", "airline", "--variant", "control"]
    assert main(command) == 0
    frame = load_episodes(Path("collected/a-b-c"))
    assert frame["assistant"].value_counts().to_dict() == {"a-b": 2, "c": 1}
    assert main([*command, "--assistant", "m", "--tasks", "0", "-o", "new/folder"]) == 0
    frame = load_episodes(Path("new/folder"))
    assert list(frame[["trial", "reward"]].itertuples(index=False, name=None)) == [(1, 1), (2, 0)]
    assert "1 of another cell, task" in capsys.readouterr().out
    written(Path("doubled.json"), [result(0), result(1)] * 2)
    assert main(["collect", "doubled.json", "--env", "airline", "--variant", "control"]) == 0
    said = capsys.readouterr().out
    assert "collected 2 of 2 planned episodes" in said
    assert "doubled.json: 2 the same as one read before" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no such run directory or results file"),
        (["runs"], "no run directory: it has no plan.json"),
        (["runs"], "it holds run directories: give those, e.g. runs/*"),
        (["stock", "--env", "airline", "--variant", "x"], "give those, e.g. stock/*.json --env"),
        (["taken"], "give the folder that `emobench sweep` made, or tau-bench's"),
        (["runs/study", "nowhere.json"], "nowhere.json: no such run directory"),
        (["r.json"], "--env and --variant must be given"),
        (["r.json", "--env", "airline"], "--variant must be given"),
        (["r.json", "--env", "retail", "--variant", "x/y"], "'x/y' cannot be a name here"),
        (
            ["r.json", "--env", "airline", "--variant", "control", "--assistant", "a", "b"],
            "2 names for 1 file",
        ),
        (["r.json", "--env", "airline", "--variant", "x", "--tasks", "1-"], "'1-' is no number"),
        (["r.json", "--env", "airline", "--variant", "x", "--tasks", "9-2"], "runs backwards"),
        (["r.json", "--env", "airline", "--variant", "x", "--tasks", "9"], "on these tasks"),
        (["foreign.json", "--env", "airline", "--variant", "x"], "no results file of tau-bench"),
        (["runs/study", "--variant", "control"], "run directories say it themselves"),
        (["runs/study", "-o", "taken"], "taken: --output: this is there already"),
        (["runs/study", "-o", "r.json"], "this is there already"),
        (["runs/study", "-o", "runs/study"], "one of the inputs"),
        (["runs/study", "--workers", "0"], "at least one process"),
        (["runs/study", "runs/other"], "study and other do not belong in one table"),
    ],
)
def test_mistakes(
    study: RunDir, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    written(Path("r.json"), [result(0)])
    Path("foreign.json").write_text("{}")
    Path("stock").mkdir()
    written(Path("stock/r.json"), [result(0)])
    Path("taken").mkdir()
    Path("taken/thesis.tex").write_text("x")
    change_sweep(full_run(Path("runs/other")), max_steps=7)
    before = sorted(path for path in Path().rglob("*"))
    assert main(["collect", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("emobench: ")
    assert sorted(path for path in Path().rglob("*")) == before
