"""Report, first screen, exports and terminal name the first attempts that were lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from emobench.cli.results_table import build_results
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.export import export
from emobench.report.sections.summary import write_answers
from emobench.report.study import build_study
from tests.support.runs import append, episode, make_run, page_text

TURNED = "turns what is read off"


def make(folder: Path, *, lost: bool) -> RunDir:
    """Control solves 9 of 12 tasks and anger 3; where `lost`, six of anger's failures were solved
    in a second attempt."""
    run_dir = make_run(folder / "run", variants=("control", "anger"), tasks=12, trials=2)
    for cell in load_plan(run_dir).cells:
        lines = []
        for task in range(12):
            again = lost and cell.variant == "anger" and 3 <= task < 9
            solved = task < (9 if cell.variant == "control" else 3) or again
            outcome = "solved" if solved else "failed"
            lines.append(episode(cell, task, outcome, attempt=2 if again else 1))
        append(run_dir, cell, lines)
    return run_dir


def read_first_screen(run_dir: RunDir) -> str:
    return " ".join(line for each in write_answers(build_study(run_dir)) for line in each.lines)


def test_a_rerun_effect_is_named_on_the_first_screen(tmp_path: Path) -> None:
    run_dir = make(tmp_path, lost=True)
    said = read_first_screen(run_dir)
    assert f"{TURNED}: anger (lost first attempts as failures: \u22120.50" in said
    assert "coverage failed for 1 of 2" in said
    text = page_text(run_dir)
    assert "12 of 24" in text and "Share of first attempts lost" in text
    notes = build_results(run_dir)[1]
    assert (
        "first attempts lost: control 0, anger 12; as failures, vs control: anger \u22120.50"
        in notes
    )
    assert "coverage" in notes


def test_exports_hold_the_losses_and_the_reversal(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    export(build_study(make(tmp_path, lost=True)), folder)
    with (folder / "tables" / "lost.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert (rows["anger"]["lost"], rows["anger"]["begun"]) == ("12", "24")
    assert float(rows["anger"]["p_permutation"]) < 0.05
    with (folder / "tables" / "sensitivity.csv").open() as file:
        reverses = {row["rule"]: row["reverses"] for row in csv.DictReader(file)}
    assert reverses == {
        "as failure": "false",
        "worst case": "false",
        "best case": "false",
        "lost first attempts as failures": "true",
    }
    (group,) = json.loads((folder / "findings.json").read_text())["findings"]["groups"]
    assert [each["lost"]["events"] for each in group["variants"]] == [0, 12]


def test_a_run_that_lost_nothing_says_so(tmp_path: Path) -> None:
    run_dir = make(tmp_path, lost=False)
    assert TURNED not in read_first_screen(run_dir)
    assert "no first attempt was lost" in page_text(run_dir)
    assert "first attempts lost" not in build_results(run_dir)[1]
