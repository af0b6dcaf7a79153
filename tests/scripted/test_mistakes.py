from __future__ import annotations

import pickle
from collections import Counter
from typing import Any

import pytest

from emobench.benchmarks.tasks import NO_EFFECT, Action, Task
from emobench.scripted.assistant import Assistant
from emobench.scripted.lookup import Library
from emobench.scripted.script import MISTAKES, Script, write_faithful, write_mistaken
from tests.support.tau_loop import converse

ANGRY = "You are full of anger."


class Database:
    """The benchmark's own tools on a fresh copy of its data."""

    def __init__(self, env: str) -> None:
        from emobench.benchmarks.adapter import load_benchmark

        benchmark = load_benchmark()
        self.frozen = pickle.dumps(benchmark.import_module(f"envs.{env}.data").load_data())
        tools = benchmark.import_module(f"envs.{env}.tools").ALL_TOOLS
        self.tools = {tool.get_info()["function"]["name"]: tool for tool in tools}

    def after(self, acts: tuple[Action, ...]) -> Any:
        data = pickle.loads(self.frozen)
        for act in acts:
            # A tool's error is an observation to tau-bench, and so is an unknown tool.
            try:
                self.tools[act.tool].invoke(data=data, **act.arguments)
            except Exception:
                continue
        return data


def solves(script: Script, task: Task, database: Database, expected: Any) -> bool:
    said = script.closing
    if any(act.writes for act in script.acts):
        said += script.confirm
    said = said.lower().replace(",", "")
    told = all(output.lower() in said for output in task.outputs)
    return told and bool(database.after(script.acts) == expected)


@pytest.mark.parametrize("env", ["retail", "airline"])
def test_every_mistake_costs_the_reward(library: Library, env: str) -> None:
    """By the benchmark's own database; every fifth task, and those with odd ground truths."""
    database = Database(env)
    odd = {index for name, index, _ in NO_EFFECT if name == env}
    for task in library.indices[env].source.tasks:
        if task.index % 5 and task.index not in odd:
            continue
        expected = database.after(task.actions)
        assert solves(write_faithful(task), task, database, expected)
        scripts = [made for make in MISTAKES if (made := make(task, "key")) is not None]
        for script in [*scripts, write_mistaken(task, "key")]:
            assert script.mistake
            assert not solves(script, task, database, expected), (task.index, script.mistake)


def test_all_kinds_occur(library: Library) -> None:
    kinds = Counter(
        write_mistaken(task, f"key/{task.index}").mistake
        for index in library.indices.values()
        for task in index.source.tasks
    )
    assert set(kinds) == {
        "skip_write",
        "wrong_argument",
        "give_up",
        "unknown_tool",
        "wrong_output",
        "unasked_write",
    }


def failures(library: Library, assistant: Assistant, suffix: str, seed: int | None) -> list[int]:
    tasks = library.indices["retail"].source.tasks
    failed = []
    for task in tasks:
        heard = converse(
            task, assistant, suffix=suffix, variants={"control": "", "anger": ANGRY}, seed=seed
        )
        assert heard.ended
        told = " ".join(heard.said).lower().replace(",", "")
        right = heard.acts == list(task.actions)
        if not right or not all(output.lower() in told for output in task.outputs):
            failed.append(task.index)
    return failed


def test_rates_differ_by_variant_and_seeds_move_them(library: Library) -> None:
    assistant = Assistant(library, {"anger": 0.5}, seed=3)
    assert failures(library, assistant, "", 1) == []
    angry = failures(library, assistant, f"\n{ANGRY}", 1)
    assert 35 <= len(angry) <= 80  # 57.5 expected, 5.4 standard deviation
    assert failures(library, Assistant(library, {"anger": 0.5}, seed=3), f"\n{ANGRY}", 1) == angry
    assert failures(library, assistant, f"\n{ANGRY}", 2) != angry
    assert failures(library, Assistant(library, 0.5, seed=4), f"\n{ANGRY}", 1) != angry


def test_one_rate_for_all(library: Library) -> None:
    everything = failures(library, Assistant(library, 1.0), "", None)
    assert len(everything) == len(library.indices["retail"].source.tasks)
