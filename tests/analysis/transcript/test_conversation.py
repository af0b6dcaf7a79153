"""Records as conversations, and reading those of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emobench.analysis.transcript import conversation as module
from emobench.analysis.transcript.conversation import (
    read_conversations,
    select_with_result,
)
from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.tasks import Action, find_task, load_env
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.tables.run_results import collect
from tests.support.conversations import conversation_of
from tests.support.runs import append, episode, fill, make_run

RECORDED = {
    "user_id": "a_b_1",
    "instruction": "Cancel it.",
    "actions": [
        {"name": "cancel_pending_order", "kwargs": {"order_id": "#W1"}},
        {"name": "respond", "kwargs": {"content": "Done."}},
    ],
    "outputs": [12],
}


def test_a_records_own_task_comes_first() -> None:
    task = find_task("retail", 1, {"task": RECORDED}, load_benchmark().label)
    assert task is not None
    assert (task.env, task.index, task.user_id) == ("retail", 1, "a_b_1")
    assert task.actions == (Action("cancel_pending_order", {"order_id": "#W1"}),)
    assert task.actions == task.write_actions
    assert task.outputs == ("12",)


@pytest.mark.parametrize(
    "task", [None, {}, {"instruction": "x"}, {**RECORDED, "actions": [{"name": "x"}]}]
)
def test_half_a_task_is_none_and_the_same_benchmark_stands_in(task: object) -> None:
    label, info = load_benchmark().label, {"task": task}
    assert find_task("retail", 1, info, label) is load_env("retail").tasks[1]
    for env, index, benchmark in (
        ("retail", 1, ""),
        ("retail", 1, "tau_trait 0"),
        ("retail", 115, label),
        ("retail", -1, label),
        ("telecom", 1, label),
    ):
        assert find_task(env, index, info, benchmark) is None


def test_the_records_version_of_the_benchmark_counts_before_the_plans() -> None:
    label = load_benchmark().label
    line = {"env": "retail", "trial": 1, "task_id": 1, "outcome": "user_error"}
    named = dict(zip(("package", "version"), label.split(" ", 1), strict=True))
    assert (
        conversation_of(line, label).task
        is conversation_of(line | {"benchmark": named}).task
        is not None
    )
    assert conversation_of(line | {"benchmark": {**named, "version": "0"}}, label).task is None
    assert conversation_of(line).task is None


def test_what_a_record_says_besides() -> None:
    calls = [{"role": "user", "think": ["x"]}, {"role": "assistant", "think": ["x"]}, None]
    info = {"reward_info": {"info": {"outputs": {"12": True, "13": False}}}}
    line = {"env": "retail", "trial": 1, "task_id": 1, "outcome": "failed", "info": info}
    found = conversation_of(line | {"calls": calls})
    assert found.think_removed == 1
    assert found.outputs_told == {"12": True, "13": False}
    assert conversation_of(line | {"info": {"reward_info": []}}).outputs_told == {}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = make_run(tmp_path / "study", variants=("control", "anxiety"), tasks=3, trials=2)
    fill(run_dir, load_plan(run_dir).cells[1:])
    cell = load_plan(run_dir).cells[0]
    lines = [episode(cell, task, wall_s=task + 0.5) for task in (2, 0)]
    append(run_dir, cell, [*lines, episode(cell, 1, "infra_error")])
    return run_dir


def test_conversations_are_those_of_their_records(run_dir: RunDir) -> None:
    collected = collect(run_dir)
    read = list(read_conversations(collected.plan, select_with_result(collected)))
    assert len(read) == 11
    for result, record, found in read:
        own = found.record
        assert own.key == result.cell.key
        assert (own.task_id, own.episode, own.outcome, own.wall_s) == (
            record.task_id,
            record.episode,
            record.outcome,
            record.wall_s,
        )


def test_a_sample_takes_the_same_pairs_in_every_variant(run_dir: RunDir) -> None:
    sampled = [
        (result.cell.variant, record.task_id, result.cell.trial)
        for result, record in select_with_result(collect(run_dir), 4)
    ]
    pairs = {name: [each[1:] for each in sampled if each[0] == name] for name, *_ in sampled}
    assert set(pairs["control"]) <= set(pairs["anxiety"])
    assert len(pairs["anxiety"]) == 4


def test_files_are_opened_once_in_any_order_and_few_at_a_time(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = collect(run_dir)
    mixed = sorted(select_with_result(collected), key=lambda pair: pair[1].task_id)
    opened: list[Path] = []
    stock = Path.open

    def count(path: Path, *given: Any, **named: Any) -> Any:
        opened.append(path)
        return stock(path, *given, **named)

    def read() -> list[str]:
        return [each.episode for _, each, _ in read_conversations(collected.plan, mixed)]

    want = [record.episode for _, record in mixed]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", count)
        assert read() == want
    assert len(opened) == len(set(opened)) == 4
    monkeypatch.setattr(module, "OPEN_FILES", 1)
    assert read() == want
