"""What a task wanted, for records that ended before they noted it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from emobench.benchmarks.ground_truth import Action, Wanted, wanted
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.core.errors import InvalidInput
from emobench.core.plan import Plan


def task_of(record: Mapping[str, Any], plan: Plan) -> Wanted | None:
    """From the record; else from the installed benchmark, where it is the one of the plan."""
    own = wanted(record)
    if own is not None:
        return own
    env, task = record.get("env"), record.get("task_id")
    if env not in TASK_COUNTS or type(task) is not int or not 0 <= task < TASK_COUNTS[env]:
        return None
    return _installed(str(env), task) if plan.benchmark == _label() else None


@cache
def _label() -> str:
    from emobench.benchmarks.adapter import load_benchmark

    try:
        return load_benchmark().label
    except InvalidInput:
        return ""


@cache
def _installed(env: str, task: int) -> Wanted:
    from emobench.benchmarks.tasks import load_env

    text = load_env(env).tasks[task]
    actions = tuple(Action(act.name, act.arguments) for act in text.acts)
    return Wanted(text.instruction, actions, text.outputs)
