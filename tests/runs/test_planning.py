"""A sweep file against a run directory that has results already: what may change and what not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emobench.config.variants import load_builtin
from emobench.core.errors import InvalidInput
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.planning import read_inputs
from emobench.store.jobs import JobKind, add_jobs, make_record
from tests.support.runs import append, episode, real_episode

BASE = """\
name: study
engine: scripted
matrix:
  env: retail
  variant: {variants}
assistants: {{a: {{temperature: {temperature}}}}}
trials: {trials}
tasks: {tasks}
seed: {seed}
concurrency: {concurrency}
"""
DEFAULTS = {
    "variants": "[control, anger]",
    "temperature": 0,
    "trials": 1,
    "tasks": "0-2",
    "seed": 1,
    "concurrency": 2,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(folder: Path, **changes: object) -> tuple[RunDir, Plan]:
    file = folder / "study.yaml"
    file.write_text(BASE.format(**{**DEFAULTS, **changes}))
    inputs = read_inputs(file)
    return inputs.run_dir, inputs.plan()


def with_results(folder: Path, cells: tuple[int, ...] = (0, 1)) -> Plan:
    run_dir, plan = plan_of(folder)
    run_dir.path.mkdir(parents=True)
    save_plan(run_dir, plan)
    for number in cells:
        paths = run_dir.cell(number)
        paths.folder.mkdir(parents=True)
        cell = plan.cells[number]
        lines = [json.dumps(episode(cell, task)) + "\n" for task in range(3)]
        paths.episodes.write_text("".join(lines))
    return plan


def test_the_same_file_gives_the_same_cells(folder: Path) -> None:
    plan = with_results(folder)
    run_dir, again = plan_of(folder)
    assert again == plan
    assert load_plan(run_dir) == plan


def test_added_cells_get_the_next_numbers_and_arrays_of_their_own(folder: Path) -> None:
    plan = with_results(folder)
    _, wider = plan_of(folder, variants="[anxiety, control, anger]", trials=2)
    assert wider.cells[:2] == plan.cells
    assert [cell.variant for cell in wider.cells[2:]] == ["anxiety", "anxiety", "control", "anger"]
    assert [cell.trial for cell in wider.cells[2:]] == [1, 2, 2, 2]
    assert [(b.name, b.first_cell, b.size) for b in wider.blocks] == [("a", 0, 2), ("a_2", 2, 4)]


def test_what_does_not_affect_content_may_change(folder: Path) -> None:
    with_results(folder)
    _, plan = plan_of(folder, concurrency=7, tasks="0-9")
    assert plan.sweep.concurrency == 7
    assert len(plan.cells[0].tasks) == 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 2}, "seed"),
        ({"temperature": 0.7}, "temperature"),
        ({"tasks": "1-2"}, "tasks: retail no longer has 0"),
        ({"variants": "[control]"}, "anger"),
    ],
)
def test_results_that_would_no_longer_belong_are_refused(
    folder: Path, changes: dict[str, object], named: str
) -> None:
    with_results(folder)
    with pytest.raises(InvalidInput) as refused:
        plan_of(folder, **changes)
    message = str(refused.value)
    assert named in message
    assert "study.yaml" in message
    assert "--run-dir" in message


def test_another_benchmark_is_refused(folder: Path) -> None:
    with_results(folder)
    run_dir = RunDir((folder / "runs/study").resolve())
    plan = load_plan(run_dir)
    save_plan(run_dir, plan.model_copy(update={"benchmark": "tau_bench 0.0.0"}))
    with pytest.raises(InvalidInput, match="benchmark"):
        plan_of(folder)


def test_without_results_the_file_may_change_freely(folder: Path) -> None:
    with_results(folder, cells=())
    _, plan = plan_of(folder, seed=5, variants="[anxiety]")
    assert [cell.variant for cell in plan.cells] == ["anxiety"]


def test_a_damaged_plan_is_named(folder: Path) -> None:
    with_results(folder)
    path = folder / "runs/study/plan.json"
    path.write_text(path.read_text().replace('"number": 0', '"number": "zero"'))
    with pytest.raises(InvalidInput, match=r"plan\.json: .*: cells\.0\.number: Input should be a"):
        plan_of(folder)
    path.write_text("[]")
    with pytest.raises(InvalidInput, match=r"it has not the form of a plan"):
        plan_of(folder)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"variant":"control"', '"variant":"bliss"', "variant 'bliss'"),
        ('"first_cell":0', '"first_cell":7', "block 'a' has cells"),
        ('"number":0', '"number":5', "cell 0 has number 5"),
    ],
)
def test_a_plan_that_speaks_of_what_it_does_not_have_is_refused(
    old: str, new: str, said: str, folder: Path
) -> None:
    with_results(folder)
    path = folder / "runs/study/plan.json"
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    cells = text.index('"cells":[')
    path.write_text(text[:cells] + text[cells:].replace(old, new, 1))
    with pytest.raises(InvalidInput, match=rf"plan\.json: this plan cannot be read: .*{said}"):
        plan_of(folder)


def test_thresholds_that_change_after_the_data_say_when(folder: Path) -> None:
    stricter = {"concurrency": "2\ngates: {coverage: 0.99}"}
    assert plan_of(folder)[1].gates_changed == ""
    assert plan_of(folder, **stricter)[1].gates_changed == ""  # no data yet
    with_results(folder)
    run_dir, changed = plan_of(folder, **stricter)
    assert changed.gates_changed
    save_plan(run_dir, changed)
    # Putting them back does not undo it.
    assert plan_of(folder, **stricter)[1].gates_changed == changed.gates_changed
    assert plan_of(folder)[1].gates_changed


def test_a_run_goes_on_with_the_default_that_it_was_begun_with(folder: Path) -> None:
    """It was `check_replies: true` until 0.1.0; a file that says something is obeyed."""
    plan = with_results(folder)
    run_dir = RunDir(folder / "runs" / "study")
    data = json.loads(run_dir.plan.read_text())
    fidelity = data["sweep"]["fidelity"]
    del fidelity["end_at_empty_reply"], fidelity["plain_messages"]
    fidelity["check_replies"] = True
    run_dir.plan.write_text(json.dumps(data))

    said: list[str] = []
    again = read_inputs(folder / "study.yaml").plan(said.append)
    assert again.sweep.fidelity.end_at_empty_reply
    assert again.sweep == load_plan(run_dir).sweep != plan.sweep
    assert len(said) == 1 and "end_at_empty_reply" in said[0]

    file = folder / "study.yaml"
    file.write_text(file.read_text() + "fidelity: {end_at_empty_reply: false}\n")
    with pytest.raises(InvalidInput, match="end_at_empty_reply: was not there, now false"):
        read_inputs(file).plan()


def test_a_run_goes_on_with_the_texts_that_it_was_begun_with(folder: Path) -> None:
    """Its later variants get texts of the same version."""
    plan = with_results(folder)
    run_dir = RunDir(folder / "runs" / "study")
    old = load_builtin("anger-v1").model_copy(update={"name": "anger"})
    variants = {**plan.sweep.variants, "anger": old}
    sweep = plan.sweep.model_copy(update={"variants": variants})
    save_plan(run_dir, plan.model_copy(update={"sweep": sweep}))
    file = folder / "study.yaml"
    file.write_text(file.read_text().replace("anger]", "anger, anxiety]"))

    said: list[str] = []
    again = read_inputs(file).plan(said.append).sweep.variants
    assert again["anger"] == old
    assert again["anxiety"].sha256 == load_builtin("anxiety-v1").sha256
    assert len(said) == 1 and "version 1 of the variants' texts" in said[0]


def with_real_results(folder: Path, **changes: object) -> tuple[RunDir, Plan]:
    """Cells 0 and 1, with one episode each."""
    run_dir, plan = plan_of(folder, **changes)
    run_dir.path.mkdir(parents=True)
    save_plan(run_dir, plan)
    for cell in plan.cells[:2]:
        append(run_dir, cell, [real_episode(run_dir, cell, 1, "solved")])
    return run_dir, plan


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_plan_that_is_lost_is_made_again_from_the_sweep_file(folder: Path, damage: str) -> None:
    run_dir, plan = with_real_results(folder, variants="[control, anger, anxiety]")
    whole = run_dir.plan.read_bytes()
    if damage == "gone":
        run_dir.plan.unlink()
    else:
        run_dir.plan.write_bytes(whole[:-40])
        with pytest.raises(InvalidInput, match="damaged or cut off"):
            load_plan(run_dir)
    told: list[str] = []
    # In another order: the numbers are those of the folders.
    file = folder / "study.yaml"
    file.write_text(file.read_text().replace("control, anger, anxiety", "anxiety, anger, control"))
    again = read_inputs(file).plan(told.append)
    assert again.cells == plan.cells
    assert again.blocks == plan.blocks
    assert len(told) == 1 and "plan.json is gone or cannot be read; made again" in told[0]
    save_plan(run_dir, again)
    assert load_plan(run_dir).cells == plan.cells
    kept = run_dir.plan.with_name("plan.json.damaged")
    assert kept.exists() == (damage != "gone")
    assert damage == "gone" or kept.read_bytes() == whole[:-40]


def test_a_lost_plan_is_made_again_with_the_texts_of_its_episodes(folder: Path) -> None:
    run_dir, plan = plan_of(folder)
    run_dir.path.mkdir(parents=True)
    old = load_builtin("anger-v1").model_copy(update={"name": "anger"})
    sweep = plan.sweep.model_copy(update={"variants": {**plan.sweep.variants, "anger": old}})
    save_plan(run_dir, plan.model_copy(update={"sweep": sweep}))
    for cell in plan.cells[:2]:
        append(run_dir, cell, [real_episode(run_dir, cell, 1, "solved")])
    run_dir.plan.unlink()
    again = read_inputs(folder / "study.yaml").plan()
    assert again.sweep.variants["anger"] == old
    assert again.cells == plan.cells


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, r"cell 0 .* has episodes of other content"),
        ({"variants": "[control]"}, "cell 1 is not in the sweep file"),
    ],
)
def test_a_lost_plan_is_not_made_of_another_sweep_file(
    folder: Path, changes: dict[str, object], said: str
) -> None:
    """New numbers would mix the results of different cells."""
    run_dir, _ = with_real_results(folder)
    run_dir.plan.unlink()
    with pytest.raises(InvalidInput, match=said) as refused:
        plan_of(folder, **changes)
    assert "plan.json" in str(refused.value)


def test_a_lost_plan_is_not_made_again_where_jobs_were_submitted_for_other_cells(
    folder: Path,
) -> None:
    run_dir, _ = with_real_results(folder)
    add_jobs(run_dir, [make_record(JobKind.ARRAY, "a_2", "7", "x.sbatch", cells=(2, 3))])
    run_dir.plan.unlink()
    with pytest.raises(InvalidInput, match="job 7 was submitted for other cells"):
        plan_of(folder)


def test_a_plan_of_a_newer_version_is_refused(folder: Path) -> None:
    with_results(folder)
    path = folder / "runs/study/plan.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(InvalidInput, match="newer version wrote it"):
        plan_of(folder)
