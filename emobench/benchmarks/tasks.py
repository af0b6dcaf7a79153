"""The benchmark's tasks, read from its source.

Importing the benchmark costs five seconds, because it imports litellm; a server needs none of it.
The task modules are nothing but literals, so they are parsed, not run. If a release of the
benchmark should write them differently, they are loaded through the adapter instead.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.tools import writes
from emobench.core.errors import InvalidInput, Problem

PACKAGES = ("tau_bench", "tau_trait")
"""In order of preference, as in the adapter."""
NO_EFFECT = frozenset(
    {
        ("retail", 12, 4),
        ("retail", 13, 4),
        ("retail", 22, 1),
        ("retail", 64, 6),
        ("retail", 106, 0),
        ("retail", 111, 1),
    }
)
"""Writes of the ground truth (environment, task, act) that the database refuses or that a later
one repeats: leaving them out costs no reward, so no mistake is made with them."""


@dataclass(frozen=True)
class Act:
    """One tool call."""

    name: str
    arguments: dict[str, Any]

    @property
    def writes(self) -> bool:
        return writes(self.name)


@dataclass(frozen=True, eq=False)
class TaskText:
    """What the scripts need of a task; `index` is its index in the test split.

    Hashed by identity, as a key of caches: each is read once.
    """

    env: str
    index: int
    user_id: str
    instruction: str
    acts: tuple[Act, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class EnvTasks:
    """The original tasks of an environment and the names of its tools."""

    env: str
    tasks: tuple[TaskText, ...]
    tools: frozenset[str]


@cache
def load_env(env: str) -> EnvTasks:
    """Raises InvalidInput if no benchmark is installed."""
    for package in PACKAGES:
        # Only the top-level name: asking for a submodule would import its parents.
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(next(iter(spec.submodule_search_locations))) / "envs" / env
        try:
            return _from_source(env, folder)
        except (OSError, ValueError, KeyError, StopIteration, SyntaxError):
            return _from_adapter(env)
    raise InvalidInput(
        Problem(
            "no tau-bench is installed",
            allowed=" or ".join(PACKAGES),
            hint="pip install tau_trait, or emobench[tau-bench]",
        )
    )


def _from_source(env: str, folder: Path) -> EnvTasks:
    tree = ast.parse((folder / "tasks_test.py").read_text(encoding="utf-8"))
    lists = (node.value for node in tree.body if isinstance(node, ast.Assign))
    found = next(value for value in lists if isinstance(value, ast.List))
    calls = found.elts[: TASK_COUNTS[env]]
    if len(calls) < TASK_COUNTS[env]:
        raise ValueError(f"{env}: {len(calls)} tasks")
    tasks = tuple(_task(env, index, call) for index, call in enumerate(calls))
    stems = {path.stem for path in (folder / "tools").glob("*.py")} - {"__init__"}
    return EnvTasks(env, tasks, frozenset(stems))


def _keywords(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Call):
        raise ValueError("a task is no call")
    return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}


def _task(env: str, index: int, node: ast.expr) -> TaskText:
    fields = _keywords(node)
    actions = fields["actions"]
    if not isinstance(actions, ast.List):
        raise ValueError("actions are no list")
    acts = []
    for element in actions.elts:
        action = _keywords(element)
        acts.append(Act(ast.literal_eval(action["name"]), ast.literal_eval(action["kwargs"])))
    return TaskText(
        env,
        index,
        ast.literal_eval(fields["user_id"]),
        ast.literal_eval(fields["instruction"]),
        _executed(acts),
        tuple(ast.literal_eval(fields["outputs"])),
    )


def _from_adapter(env: str) -> EnvTasks:
    from emobench.benchmarks.adapter import load_benchmark

    benchmark = load_benchmark()
    tasks = tuple(
        TaskText(
            env,
            index,
            task.user_id,
            task.instruction,
            _executed([Act(action.name, action.kwargs) for action in task.actions]),
            tuple(task.outputs),
        )
        for index, task in enumerate(benchmark.tasks(env)[: TASK_COUNTS[env]])
    )
    tools = frozenset(tool["function"]["name"] for tool in benchmark.tools_info(env))
    return EnvTasks(env, tasks, tools)


def _executed(acts: list[Act]) -> tuple[Act, ...]:
    return tuple(act for act in acts if act.name != "respond")
