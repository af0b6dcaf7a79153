"""Power of a study with data: of its own control, in the gate, the report and the exports alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from emobench.analysis.assessment import assess
from emobench.analysis.planned_power import assess_planned_power, judge_planned_power
from emobench.core.gates import Gates
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.export import export
from emobench.report.sections.summary import write_answers
from emobench.report.sections.trust import build_gate_section, build_power_section
from emobench.report.study import build_study
from tests.support.runs import append, change_plan, change_sweep, episode, make_run


def make_study(path: Path, lost: int, *, solved: bool) -> RunDir:
    """A run of 40 tasks and 2 trials; every `lost`-th task of control ends otherwise than the rest
    (solved, or failed)."""
    run = make_run(path, variants=("control", "anger"), tasks=40, trials=2)
    for cell in load_plan(run).cells:
        outcomes = [solved != (task % lost == 0) for task in cell.tasks]
        append(
            run,
            cell,
            [
                episode(cell, task, "solved" if each else "failed")
                for task, each in zip(cell.tasks, outcomes, strict=True)
            ],
        )
    return run


def test_a_control_that_fails_leaves_nothing_to_find(tmp_path: Path) -> None:
    run = make_study(tmp_path / "x", 20, solved=False)
    (gate,) = (each for each in assess(run).checks.gates if each.gate == "power")
    assert gate.verdict == "failed"
    assert "none at all" in gate.reason
    assert "measured: control, 40 tasks x 2 trials" in gate.reason
    study = build_study(run)
    text = " ".join(line for answer in write_answers(study) for line in answer.lines)
    assert "cannot find even a drop to nothing" in text
    assert "Control's mean is 5 points: no drop can be larger." in text
    (verdict,) = assess_planned_power(run.path).designs
    assert verdict == study.power.designs[0]
    files, _ = export(study, tmp_path / "out")
    (table,) = (file for file in files if file.name == "power.csv")
    (record,) = csv.DictReader(table.open())
    assert (record["pass_1"], record["smallest_drop"]) == ("0.05", "")
    assert record["difficulty_source"] == "measured: control, 40 tasks x 2 trials"


def test_a_control_that_solves_shows_smaller_drops_than_published(tmp_path: Path) -> None:
    run = make_study(tmp_path / "x", 20, solved=True)
    (found,) = assess_planned_power(run.path).designs
    (published,) = judge_planned_power(load_plan(run)).designs
    assert found.smallest is not None
    assert found.smallest < (published.smallest or 0)


@pytest.mark.parametrize("declared", [(), ("smallest_effect", "fidelity.conveyed")])
def test_only_what_stands_in_the_sweep_file_is_called_declared(
    tmp_path: Path, declared: tuple[str, ...]
) -> None:
    run = make_study(tmp_path / "x", 3, solved=True)
    change_plan(run, gates_declared=declared)
    study = build_study(run)
    text = " ".join(line for answer in write_answers(study) for line in answer.lines)
    page = str(build_gate_section(study)) + str(build_power_section(study))
    if declared:
        assert "was declared as 10" in text
        assert "The sweep file declares smallest_effect and fidelity.conveyed; the other" in page
        assert "smallest effect of interest, as declared, would" in page
    else:
        assert "is, by default, 10" in text
        assert "declares no threshold: all are defaults" in page
        assert "smallest effect of interest, a default, would" in page


def test_of_an_earlier_plan_what_is_no_default_was_declared(tmp_path: Path) -> None:
    run = make_study(tmp_path / "x", 3, solved=True)
    plan = json.loads(run.plan.read_text())
    plan.pop("gates_declared", None)
    run.plan.write_text(json.dumps(plan))
    assert assess(run).checks.thresholds_declared == ()
    change_sweep(run, gates=Gates(smallest_effect=0.07))
    assert assess(run).checks.thresholds_declared == ("smallest_effect",)
