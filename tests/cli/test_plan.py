"""`emobench plan`, and the same table at the end of a dry run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.plan import load_plan
from tests.support.runs import fill, make_run

SWEEP = """\
engine: scripted
matrix: {env: [retail, airline], variant: [control, anger]}
trials: 2
tasks: 0-9
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(SWEEP)
    return path


def test_a_person_reads_figures_with_ranges_and_what_they_rest_on(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "study: 80 episodes to run in 8 cells, on local" in shown
    assert "10: 8 cells, 2 servers\n" in shown
    assert "expected" in shown and "tokens in, assistant" in shown
    assert "tau-bench's published dialogues" in shown
    assert not (file.parent / "runs").exists()


def test_machines_read_the_same_and_a_dry_run_has_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["sweep", str(file), "--dry-run", "--json"]) == 0
    rehearsed = json.loads(capsys.readouterr().out)["forecast"]
    assert (found["sweep"], found["episodes"]) == ("study", 80)
    for key in ("calls", "tokens_in", "tokens_out", "hours", "accelerator_hours", "rests_on"):
        assert found[key] == rehearsed[key]
    assert main(["sweep", str(file), "--dry-run"]) == 0
    assert "80 episodes to run" in capsys.readouterr().out


def test_what_is_left_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / "half")
    cells = load_plan(run_dir).cells
    fill(run_dir, cells[:4])
    assert main(["plan", str(run_dir.path)]) == 0
    shown = capsys.readouterr().out
    assert "24 episodes to run in 4 cells, 24 done before" in shown
    fill(run_dir, cells[4:])
    assert main(["plan", str(run_dir.path)]) == 0
    assert "nothing is left to run" in capsys.readouterr().out


def test_mistakes_have_one_clear_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["absent.yaml"], "absent.yaml: no such file"),
        ([str(file), "--cluster", "nowhere"], "no cluster profile"),
        ([str(file), "--pilot", "runs/nothing"], "no run directory"),
        ([str(make_run(file.parent / "run").path), "--cluster", "cuda"], "for a sweep file"),
    ):
        assert main(["plan", *words]) == 2
        assert said in capsys.readouterr().err


def test_it_starts_without_pandas_numpy_and_litellm(file: Path) -> None:
    code = (
        "import sys; from emobench.cli.main import main; main(['plan', 'study.yaml']); "
        "print(sorted({'pandas', 'numpy', 'scipy', 'litellm'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
