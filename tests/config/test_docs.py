"""The reference pages are complete, and their examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.config.expand import expand
from emobench.config.reference import TABLES, insert_tables
from emobench.config.templates import find_shipped_sweeps
from emobench.core.sweep import Fidelity
from performance.repairs_against_stock import ROWS
from tests.support.sweep_files import load

DOCS = find_shipped_sweeps().parent / "docs"
SWEEP_PAGE = (DOCS / "sweep-file.md").read_text("utf-8")
CLUSTER_PAGE = (DOCS / "clusters.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", SWEEP_PAGE, flags=re.DOTALL)


def test_the_tables_are_what_the_models_say() -> None:
    for page in (SWEEP_PAGE, CLUSTER_PAGE):
        assert page == insert_tables(page), "python -m emobench.config.reference writes them"
    marks = re.findall(r"<!-- table (\w+) -->", SWEEP_PAGE + CLUSTER_PAGE)
    assert sorted(marks) == sorted(TABLES)


def test_every_key_is_documented() -> None:
    for model in TABLES.values():
        for name, field in model.model_fields.items():
            assert field.description or name == "engine", f"{model.__name__}.{name}"
            assert f"| `{name}` |" in SWEEP_PAGE + CLUSTER_PAGE or name == "engine"


def test_each_repair_is_listed_with_its_default() -> None:
    page = (DOCS / "fidelity.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (on|\*\*off\*\*) \|", page, re.MULTILINE)
    assert {name: default == "on" for name, default in listed} == Fidelity().model_dump()
    assert len(listed) == len(Fidelity.model_fields)


def test_the_effects_of_the_repairs_are_those_that_the_program_measures() -> None:
    """The figures too: each row has as many conversations as the program holds."""
    page = (DOCS / "fidelity.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]*?) \| (\d+) \| \d+ \|", page, re.MULTILINE)
    measured = [(row.what, len(row.odd) * len(TASK_COUNTS) * row.tasks) for row in ROWS]
    assert [(what, int(n)) for what, n in rows] == measured


def test_the_first_example_is_a_whole_file(tmp_path: Path) -> None:
    assert len(expand(load(tmp_path, BLOCKS[0]))) == 2 * 2 * 5 * 4


@pytest.mark.parametrize("tasks", BLOCKS[2].splitlines())
def test_task_examples(tmp_path: Path, tasks: str) -> None:
    text = (
        "engine: scripted\ntrials: 1\nmatrix: {env: [retail, airline], variant: control}\n" + tasks
    )
    assert load(tmp_path, text).tasks


def test_exclude_and_include_examples(tmp_path: Path) -> None:
    study = {**yaml.safe_load(BLOCKS[0]), **yaml.safe_load(BLOCKS[3])}
    keys = {cell.key for cell in expand(load(tmp_path, yaml.safe_dump(study, sort_keys=False)))}
    # react is excluded for the only assistant, and two of four trials of airline.
    assert len(keys) == 5 * 4 + 5 * 2 + 1
    assert ("Qwen3-4B", "retail", "act", "control", 1) in keys


def test_model_examples(tmp_path: Path) -> None:
    study = {**yaml.safe_load(BLOCKS[0]), **yaml.safe_load(BLOCKS[4])}
    assert list(load(tmp_path, yaml.safe_dump(study, sort_keys=False)).assistants) == [
        "small",
        "hosted",
    ]


def test_every_sentence_on_security_has_its_test() -> None:
    page = (DOCS / "security.md").read_text("utf-8").partition("## What is tested")[2]
    rows = [line for line in page.splitlines() if "::" in line]
    assert rows
    for row in rows:
        file = ""
        for named, test in re.findall(r"`([^`:]*)::(\w+)`", row):
            file = named or file
            text = (DOCS.parent / file).read_text("utf-8")
            assert re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE), row
