"""Whatever shows a p of an unfinished run says that it is interim, and nothing else does."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from emobench.cli.results_table import build_results
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.report.blocks import Table, list_blocks
from emobench.report.drawing import Figure
from emobench.report.export import export
from emobench.report.interim import INTERIM
from emobench.report.render import build_sections
from emobench.report.sections.summary import write_answers
from emobench.report.study import build_study
from tests.support.runs import fill, make_run, page_text


def make(folder: Path, cells_left: int) -> RunDir:
    run_dir = make_run(folder / "run", variants=("control", "anger", "anxiety"), tasks=6, trials=2)
    cells = load_plan(run_dir).cells
    fill(run_dir, cells[: len(cells) - cells_left])
    return run_dir


def marked(run_dir: RunDir) -> set[str]:
    blocks = list_blocks(build_sections(build_study(run_dir)))
    return {
        block.name
        for block in blocks
        if (isinstance(block, Table) and INTERIM in block.notes)
        or (isinstance(block, Figure) and INTERIM in block.caption)
    }


def test_an_unfinished_run_says_so_where_its_p_stand(tmp_path: Path) -> None:
    run_dir = make(tmp_path, cells_left=1)
    study = build_study(run_dir)
    effects = next(each for each in write_answers(study) if each.question.startswith("Does"))
    assert effects.lines[-1] == INTERIM
    assert {"effects", "main", "sensitivity"} <= marked(run_dir)
    assert not {"cost", "pass-k", "gates"} & marked(run_dir)
    assert INTERIM in page_text(run_dir)
    assert "interim" in build_results(run_dir)[1]

    folder = tmp_path / "export"
    export(study, folder)
    assert json.loads((folder / "findings.json").read_text())["interim"] is True
    with (folder / "tables" / "main.csv").open() as file:
        assert {row["interim"] for row in csv.DictReader(file)} == {"true"}
    assert "Interim: the run is unfinished." in (folder / "tables" / "main.tex").read_text()


@pytest.mark.parametrize("cells_left", [0, 6])
def test_a_run_that_is_whole_or_empty_does_not(tmp_path: Path, cells_left: int) -> None:
    study = build_study(make(tmp_path, cells_left))
    assert not any(INTERIM in each.lines for each in write_answers(study))
    if not cells_left:
        assert marked(study.collected.run_dir) == set()
        assert "interim" not in build_results(study.collected.run_dir)[1]
