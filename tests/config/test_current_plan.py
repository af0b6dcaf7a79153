"""Which settings of a changed sweep file a run's analysis goes by."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emobench.config.current_plan import load_current_plan
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.planning import read_inputs

SWEEP = """\
name: study
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 2
tasks: 0-2
gates: {coverage: 0.9}
"""

Changed = Callable[[str, str], Plan]


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(SWEEP)
    inputs = read_inputs(tmp_path / "study.yaml")
    run_dir, plan = inputs.run_dir, inputs.plan()
    run_dir.path.mkdir(parents=True)
    save_plan(run_dir, plan)
    return run_dir


@pytest.fixture
def changed(run_dir: RunDir) -> Changed:
    """Change the sweep file and load the plan."""

    def change(old: str, new: str) -> Plan:
        file = Path("study.yaml")
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        os.utime(file, (1_800_000_000, 1_800_000_000))
        return load_current_plan(run_dir)

    return change


def test_an_unchanged_file_changes_nothing(run_dir: RunDir) -> None:
    assert load_current_plan(run_dir) == load_plan(run_dir)


def test_gates_and_judge_are_those_of_the_file(run_dir: RunDir, changed: Changed) -> None:
    plan = changed("coverage: 0.9}", "coverage: 0.8}\njudge: {server: user}\nthrottle: 1")
    assert plan.sweep.gates.coverage == 0.8
    assert plan.sweep.judge is not None and plan.sweep.judge.server == "user"
    assert "gates.coverage: was 0.9, now 0.8 (" in plan.settings_changed[0]
    assert plan.sweep.throttle == load_plan(run_dir).sweep.throttle, "that takes a submission"
    assert plan.gates_changed == "", "there was no result"
    save_plan(run_dir, plan)
    assert load_plan(run_dir).settings_changed == (), "it is about the file as it was read"


def test_thresholds_changed_after_results_have_the_date_of_the_file(
    run_dir: RunDir, changed: Changed
) -> None:
    run_dir.cell(1).folder.mkdir(parents=True)
    run_dir.cell(1).episodes.touch()
    plan = changed("coverage: 0.9", "coverage: 0.8")
    assert datetime.fromisoformat(plan.gates_changed) == datetime.fromtimestamp(1_800_000_000, UTC)
    assert changed("coverage: 0.8", "coverage: 0.9").gates_changed == "", "put back"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: study", "name: other"),
        ("variant: [control, anger]", "variant: [control]"),
        ("trials: 2", "trials: 1"),
        ("tasks: 0-2", "tasks: 1-3"),
        ("trials: 2", "trials: 2\nseed: 9"),
    ],
)
def test_a_file_of_another_study_is_not_followed(changed: Changed, old: str, new: str) -> None:
    changed("coverage: 0.9", "coverage: 0.8")
    plan = changed(old, new)
    assert plan.sweep.gates.coverage == 0.9
    assert [note.partition("study.yaml ")[2] for note in plan.settings_changed] == [
        "describes another study now: gates, judge and judged_as are those of the last submission"
    ]


def test_a_study_that_grew_is_the_same_study(changed: Changed) -> None:
    plan = changed("trials: 2", "trials: 3\ndescription: larger")
    assert plan.settings_changed[0].startswith('description: was "", now "larger"')
    assert {cell.trial for cell in plan.cells} == {1, 2}


def test_a_file_that_cannot_be_read_costs_no_report(run_dir: RunDir, changed: Changed) -> None:
    plan = changed("coverage: 0.9", "coverage: much")
    assert plan.sweep == load_plan(run_dir).sweep
    assert "cannot be read now" in plan.settings_changed[0]
    Path("study.yaml").unlink()
    assert load_current_plan(run_dir) == load_plan(run_dir)


def test_what_a_variant_is_judged_as_is_said_after_the_run(run_dir: RunDir) -> None:
    file = Path("study.yaml")
    own = "variants: {mild: {text: Be a bit cross.}}\n"
    file.write_text(SWEEP.replace("anger", "mild") + own)
    save_plan(run_dir, read_inputs(file).plan())
    assert load_current_plan(run_dir).sweep.variants["mild"].judged_as is None
    file.write_text(file.read_text().replace("cross.", "cross., judged_as: anger"))
    plan = load_current_plan(run_dir)
    assert plan.sweep.variants["mild"].judged_as == "anger"
    assert plan.settings_changed[0].startswith('judged_as.mild: was unset, now "anger"')
