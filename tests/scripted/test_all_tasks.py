"""Every task is recognised and its ground truth executed, whoever asks in whatever format."""

from __future__ import annotations

import pytest

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.tasks import Task, load_env
from emobench.scripted.assistant import Assistant
from emobench.scripted.lookup import Library
from emobench.scripted.user import PHRASES
from tests.support.tau_loop import PROMPT, REACT_PROMPT, Heard, converse

SUFFIXES = {name: f"\n\nYou are full of {name}." for name in (*PHRASES, "home-made.v2")}


def assert_solved(task: Task, heard: Heard) -> None:
    assert heard.acts == list(task.actions), (task.env, task.index)
    told = " ".join(heard.said).lower().replace(",", "")
    assert all(output.lower() in told for output in task.outputs), (task.env, task.index)
    assert heard.ended


@pytest.mark.parametrize("env", ["retail", "airline"])
@pytest.mark.parametrize(
    ("strategy", "prompt", "variant"),
    [
        ("tool-calling", PROMPT, "control"),
        ("act", PROMPT, "frustration"),
        ("react", REACT_PROMPT, "confusion"),
        ("tool-calling", REACT_PROMPT, "home-made.v2"),
        ("tool-calling", PROMPT, "anger"),
        ("tool-calling", PROMPT, "anxiety"),
        ("react", PROMPT, "placebo"),
    ],
)
def test_ground_truth_is_executed(
    library: Library, env: str, strategy: str, prompt: str, variant: str
) -> None:
    # A rate for the other variants only: their mistakes would show.
    mistakes = dict.fromkeys({"control", *SUFFIXES} - {variant}, 1.0)
    assistant = Assistant(library, mistakes)
    tasks = library.indices[env].source.tasks
    assert len(tasks) == TASK_COUNTS[env]
    for task in tasks:
        suffix = SUFFIXES.get(variant, "")
        heard = converse(task, assistant, strategy, prompt, suffix, SUFFIXES)
        assert_solved(task, heard)
        assert len(heard.user) >= 3


def test_the_conversation_fits_the_step_limit(library: Library) -> None:
    assistant = Assistant(library)
    longest = max(
        converse(task, assistant).steps
        for index in library.indices.values()
        for task in index.source.tasks
    )
    assert longest <= 30


def test_tasks_are_those_of_the_adapter() -> None:
    from emobench.benchmarks.adapter import load_benchmark

    benchmark = load_benchmark()
    for env in TASK_COUNTS:
        read = load_env(env)
        for ours, theirs in zip(read.tasks, benchmark.load_tasks(env), strict=True):
            assert ours.instruction == theirs.instruction
            assert ours.user_id == theirs.user_id
            assert list(ours.outputs) == theirs.outputs
            assert [(act.tool, act.arguments) for act in ours.actions] == [
                (action.name, action.kwargs) for action in theirs.actions
            ]
        names = {tool["function"]["name"] for tool in benchmark.read_tools_info(env)}
        assert names == read.tools


def test_without_the_source_the_adapter_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from emobench.benchmarks import tasks

    def refuse(*_: object) -> None:
        raise ValueError("not literals")

    direct = load_env("airline")
    monkeypatch.setattr(tasks, "_read_source", refuse)
    through = load_env.__wrapped__("airline")
    assert through.tools == direct.tools
    assert [t.actions for t in through.tasks] == [t.actions for t in direct.tasks]
