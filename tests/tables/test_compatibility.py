"""Runs that do not belong together are refused by key; the same episode counts once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel, ScriptedModel
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Fidelity, Variant
from emobench.tables.collection import Request, collect_into
from emobench.tables.compatibility import open_runs
from emobench.tables.run_results import collect
from emobench.tables.table import load_episodes, load_frame
from tests.support.runs import append, change_plan, change_sweep, full_run, real_episode, rewrite

OTHER = "Speak as if it were late."


def other_text(name: str) -> Variant:
    digest = hashlib.sha256(OTHER.encode()).hexdigest()
    return Variant(name=name, version="2", text=OTHER, sha256=digest)


def variants_changed(run_dir: RunDir) -> None:
    variants = load_plan(run_dir).sweep.variants
    change_sweep(run_dir, variants={**variants, "anger": other_text("anger")})


CHANGES: dict[str, tuple[Callable[[RunDir], None], str]] = {
    "benchmark": (
        lambda r: change_plan(r, benchmark="tau_trait 0.2"),
        'benchmark: "tau_trait 0.1.1" | "tau_trait 0.2"',
    ),
    "tasks": (
        lambda r: change_sweep(r, tasks={"retail": (0, 1, 2, 7)}),
        'tasks.retail: "0-3" | "0-2, 7"',
    ),
    "variant text": (variants_changed, "variants.anger: "),
    "user's model": (
        lambda r: change_sweep(r, user=ScriptedModel(model="other")),
        'user.model: "scripted" | "other"',
    ),
    "user's temperature": (
        lambda r: change_sweep(r, user=ScriptedModel(temperature=0.5)),
        "user.temperature: unset | 0.5",
    ),
    "user's strategy": (
        lambda r: change_sweep(r, user_strategy="react"),
        'user_strategy: "llm" | "react"',
    ),
    "limit on steps": (lambda r: change_sweep(r, max_steps=10), "max_steps: 30 | 10"),
    "repairs": (
        lambda r: change_sweep(r, fidelity=Fidelity(standalone_stop=True)),
        "fidelity.standalone_stop: false | true",
    ),
    "assistant of one name": (
        lambda r: change_sweep(r, assistants={"scripted": OpenAIModel(model="m")}),
        'assistants.scripted.engine: "scripted" | "openai"',
    ),
    "seed of the same cell": (lambda r: change_sweep(r, seed=11), "is in both: seed: 10 | 11"),
    "few-shot examples": (
        lambda r: change_sweep(r, few_shot_sha256={"retail": "b"}),
        'few_shot_sha256.retail: "a" | "b"',
    ),
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunDir, RunDir]:
    return full_run(tmp_path / "one"), full_run(tmp_path / "two")


@pytest.mark.parametrize("name", CHANGES)
def test_runs_that_differ_are_refused_with_the_key(
    pair: tuple[RunDir, RunDir], tmp_path: Path, name: str
) -> None:
    one, two = pair
    change, said = CHANGES[name]
    change_sweep(one, few_shot_sha256={"retail": "a"})
    change_sweep(two, few_shot_sha256={"retail": "a"})
    change(two)
    for together in (
        lambda: load_frame([one, two]),
        lambda: collect_into(Request((one.path, two.path), (), None, tmp_path / "out")),
    ):
        with pytest.raises(InvalidInput) as refused:
            together()
        assert said in str(refused.value)
        assert "one and two do not belong in one table" in str(refused.value)
        assert refused.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_another_prompt_of_the_same_task_is_refused(pair: tuple[RunDir, RunDir]) -> None:
    one, two = pair
    rewrite(two, [0], user_prompt_sha256="f" * 64)
    with pytest.raises(InvalidInput, match=r"prompt differs for retail task 0, variant control"):
        load_frame([one, two])
    rewrite(one, [0], user_prompt_sha256="f" * 64)
    rewrite(one, [3], user_prompt_sha256="f" * 64)
    with pytest.raises(InvalidInput, match=r"in one, [0-9a-f]{12} in one"):
        load_frame([one])


def test_the_same_episode_counts_once_and_a_result_before_an_error(
    pair: tuple[RunDir, RunDir], tmp_path: Path
) -> None:
    one, two = pair
    cell = load_plan(two).cells[0]
    append(two, cell, [real_episode(two, cell, 3, "solved", attempt=2)])
    summary = collect_into(Request((one.path, two.path), (), None, tmp_path / "out"))
    frame = load_episodes(tmp_path / "out")
    assert frame["episode"].is_unique
    assert (len(frame), summary["expected"], summary["episodes"]) == (16, 16, 16)
    # The error of `one` gives way to the result of `two`, and counts as an episode that both have.
    mended = frame[(frame["cell"] == 0) & (frame["task_id"] == 3)].iloc[0]
    assert (mended["run"], mended["outcome"], mended["reward"]) == ("two", "solved", 1.0)
    assert summary["left_out"]["repeated"] == 16
    assert set(frame["run"]) == {"one", "two"}
    # The folder is a run directory with the same episodes.
    merged = collect(RunDir(tmp_path / "out"))
    told = {(o.variant, o.trial, o.task_id, o.outcome) for o in merged.list_observations()}
    columns = frame[["variant", "trial", "task_id", "outcome"]]
    assert told == set(columns.itertuples(index=False, name=None))


def test_a_run_given_twice_is_one_run(pair: tuple[RunDir, RunDir]) -> None:
    one, _ = pair
    pd.testing.assert_frame_equal(load_frame([one, one.path / "cells" / ".."]), load_frame([one]))


def test_other_variants_assistants_and_environments_belong(tmp_path: Path) -> None:
    mistakes: dict[str, Any] = {"mistakes": {"control": 0.1, "anger": 0.2}}
    one = full_run(tmp_path / "one", assistants={"a": ScriptedModel(**mistakes)})
    two = full_run(
        tmp_path / "two",
        variants=("control", "anxiety"),
        envs=("airline",),
        strategies=("react",),
        assistants={"a": ScriptedModel(**mistakes), "b": ScriptedModel(model="b")},
    )
    frame = load_frame([one, two])
    assert len(frame) == 16 + 32
    assert set(frame["assistant"]) == {"a", "b"}
    assert list(frame["variant"].cat.categories) == ["control", "anger", "anxiety"]
    collect_into(Request((one.path, two.path), (), None, tmp_path / "both"))
    plan = load_plan(RunDir(tmp_path / "both"))
    assert len(plan.cells) == len({cell.key for cell in plan.cells}) == 12
    assert sum(block.size for block in plan.blocks) == 12
    assert len(collect(RunDir(tmp_path / "both")).list_observations()) == 48


def test_two_sweeps_of_one_name_are_told_apart(tmp_path: Path) -> None:
    one = full_run(tmp_path / "a/study", variants=("control",))
    two = full_run(tmp_path / "b/study", variants=("anger",))
    assert [run.name for run in open_runs([one.path, two.path])] == [str(one.path), str(two.path)]


def test_a_run_without_episodes_is_an_empty_table(tmp_path: Path) -> None:
    run_dir = full_run(tmp_path / "one")
    for cell in load_plan(run_dir).cells:
        run_dir.cell(cell.number).episodes.unlink()
    frame = load_frame([run_dir])
    assert len(frame) == 0
    assert str(frame["reward"].dtype) == "float64"
    summary = collect_into(Request((run_dir.path,), (), None, tmp_path / "out"))
    assert (summary["episodes"], summary["expected"]) == (0, 16)
    pd.testing.assert_frame_equal(load_episodes(tmp_path / "out"), frame)
