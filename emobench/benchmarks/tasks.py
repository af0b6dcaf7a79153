"""The benchmark's tasks: what a user is told, and the ground truth that the reward goes by.

They are read from the benchmark's source, or from a record that noted its own. Importing the
benchmark costs five seconds, because it imports litellm. The task modules are nothing but
literals, so they are parsed, not run. If a release of the benchmark should write them differently,
they are loaded through the adapter instead.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emobench.benchmarks.task_sets import PACKAGES, TASK_COUNTS
from emobench.benchmarks.tools import RESPOND, writes
from emobench.core.errors import InvalidInput, Problem

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
"""Writes of the ground truth (environment, task, action) that the database refuses or that a later
one repeats: leaving them out costs no reward, so no mistake is made with them."""


@dataclass(frozen=True)
class Action:
    """One tool call of the ground truth, or of a script."""

    tool: str
    arguments: dict[str, Any]

    @property
    def writes(self) -> bool:
        return writes(self.tool)

    @property
    def key(self) -> tuple[str, str]:
        """As `ToolCall.key`."""
        return (self.tool, dump_canonical(self.arguments))


@dataclass(frozen=True, eq=False)
class Task:
    """A task of an environment, with its ground truth; `index` is its index in the test split.

    Hashed by identity, as a key of caches.
    """

    env: str
    index: int
    user_id: str
    instruction: str
    actions: tuple[Action, ...]
    """Without what the agent says."""
    outputs: tuple[str, ...]
    """What the agent has to tell the user."""

    @cached_property
    def write_actions(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.writes)

    @property
    def transfer(self) -> bool:
        """The ground truth hands the user over to a human."""
        return any(action.tool.startswith("transfer_to_human") for action in self.actions)


@dataclass(frozen=True)
class EnvTasks:
    """The original tasks of an environment and the names of its tools."""

    env: str
    tasks: tuple[Task, ...]
    tools: frozenset[str]


def dump_canonical(value: object) -> str:
    """Return JSON in which equal values have equal text."""
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    except (RecursionError, ValueError, TypeError):
        return repr(value)[:10_000]


def find_task(env: str, index: int, info: object, benchmark: str) -> Task | None:
    """Return the task of an episode: as its record noted it in `info`, else as the installed
    benchmark has it.

    A conversation that a failure ended has noted none. The installed benchmark stands in only
    where it is `benchmark` ('package version'), the episode's: tasks differ between versions.
    """
    recorded = _read_recorded(env, index, info)
    if recorded is not None:
        return recorded
    known = 0 <= index < TASK_COUNTS.get(env, 0) and benchmark == _find_installed_label()
    return load_env(env).tasks[index] if known else None


def _read_recorded(env: str, index: int, info: object) -> Task | None:
    """Return the task that the record holds; None where any part of the ground truth is missing or
    odd: half of it would accuse."""
    task = info.get("task") if isinstance(info, Mapping) else None
    if not isinstance(task, Mapping) or not isinstance(task.get("actions"), list):
        return None
    actions = []
    for action in task["actions"]:
        if not isinstance(action, Mapping) or not isinstance(action.get("kwargs"), dict):
            return None
        actions.append(Action(str(action.get("name")), action["kwargs"]))
    outputs = task.get("outputs")
    return Task(
        env,
        index,
        str(task.get("user_id") or ""),
        str(task.get("instruction") or ""),
        _drop_replies(actions),
        tuple(map(str, outputs)) if isinstance(outputs, list) else (),
    )


@cache
def _find_installed_label() -> str:
    from emobench.benchmarks.adapter import load_benchmark

    try:
        return load_benchmark().label
    except InvalidInput:
        return "none"


@cache
def load_env(env: str) -> EnvTasks:
    """Read an environment's tasks. Raises InvalidInput if no benchmark is installed."""
    for package in PACKAGES:
        # Only the top-level name: asking for a submodule would import its parents.
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(next(iter(spec.submodule_search_locations))) / "envs" / env
        try:
            return _read_source(env, folder)
        except (OSError, ValueError, KeyError, StopIteration, SyntaxError):
            return _read_adapter(env)
    raise InvalidInput(
        Problem(
            "no tau-bench is installed",
            allowed=" or ".join(PACKAGES),
            hint="pip install tau_trait, or emobench[tau-bench]",
        )
    )


def _read_source(env: str, folder: Path) -> EnvTasks:
    tree = ast.parse((folder / "tasks_test.py").read_text(encoding="utf-8"))
    lists = (node.value for node in tree.body if isinstance(node, ast.Assign))
    found = next(value for value in lists if isinstance(value, ast.List))
    calls = found.elts[: TASK_COUNTS[env]]
    if len(calls) < TASK_COUNTS[env]:
        raise ValueError(f"{env}: {len(calls)} tasks")
    tasks = tuple(_parse_task(env, index, call) for index, call in enumerate(calls))
    stems = {path.stem for path in (folder / "tools").glob("*.py")} - {"__init__"}
    return EnvTasks(env, tasks, frozenset(stems))


def _list_keywords(node: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(node, ast.Call):
        raise ValueError("a task is no call")
    return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}


def _parse_task(env: str, index: int, node: ast.expr) -> Task:
    fields = _list_keywords(node)
    listed = fields["actions"]
    if not isinstance(listed, ast.List):
        raise ValueError("actions are no list")
    actions = map(_list_keywords, listed.elts)
    return Task(
        env,
        index,
        ast.literal_eval(fields["user_id"]),
        ast.literal_eval(fields["instruction"]),
        _drop_replies(
            Action(ast.literal_eval(action["name"]), ast.literal_eval(action["kwargs"]))
            for action in actions
        ),
        tuple(ast.literal_eval(fields["outputs"])),
    )


def _read_adapter(env: str) -> EnvTasks:
    from emobench.benchmarks.adapter import load_benchmark

    benchmark = load_benchmark()
    tasks = tuple(
        Task(
            env,
            index,
            task.user_id,
            task.instruction,
            _drop_replies(Action(action.name, action.kwargs) for action in task.actions),
            tuple(task.outputs),
        )
        for index, task in enumerate(benchmark.load_tasks(env)[: TASK_COUNTS[env]])
    )
    tools = frozenset(tool["function"]["name"] for tool in benchmark.read_tools_info(env))
    return EnvTasks(env, tasks, tools)


def _drop_replies(actions: Iterable[Action]) -> tuple[Action, ...]:
    return tuple(action for action in actions if action.tool != RESPOND)
