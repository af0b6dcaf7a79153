"""What a task wanted, from its ground truth, and what a conversation wrote instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emobench.benchmarks.tools import writes
from emobench.benchmarks.transcript import Dialogue, ToolCall, canonical


@dataclass(frozen=True)
class Action:
    """One action of the ground truth."""

    tool: str
    arguments: dict[str, Any]

    @property
    def writes(self) -> bool:
        return writes(self.tool)

    @property
    def key(self) -> tuple[str, str]:
        """As `ToolCall.key`."""
        return (self.tool, canonical(self.arguments))


@dataclass(frozen=True)
class Wanted:
    """A task's instruction, its ground-truth actions and what the user was to be told."""

    instruction: str
    actions: tuple[Action, ...]
    outputs: tuple[str, ...]

    @cached_property
    def write_actions(self) -> tuple[Action, ...]:
        return tuple(action for action in self.actions if action.writes)

    @property
    def transfer(self) -> bool:
        return any(action.tool.startswith("transfer_to_human") for action in self.actions)


def wanted(record: Mapping[str, Any]) -> Wanted | None:
    """What the record's task wanted; None where the conversation ended before it was noted."""
    info = record.get("info")
    task = info.get("task") if isinstance(info, dict) else None
    if not isinstance(task, dict) or not isinstance(task.get("actions"), list):
        return None
    actions = []
    for action in task["actions"]:
        if not isinstance(action, dict) or not isinstance(action.get("kwargs"), dict):
            return None
        if (name := str(action.get("name"))) != "respond":
            actions.append(Action(name, action["kwargs"]))
    outputs = task.get("outputs")
    return Wanted(
        str(task.get("instruction") or ""),
        tuple(actions),
        tuple(str(each) for each in outputs) if isinstance(outputs, list) else (),
    )


def outputs_told(record: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each wanted output was told, as the benchmark's reward found it; empty: not asked."""
    info = record.get("info")
    reward = info.get("reward_info") if isinstance(info, dict) else None
    detail = reward.get("info") if isinstance(reward, dict) else None
    told = detail.get("outputs") if isinstance(detail, dict) else None
    return {str(key): bool(value) for key, value in told.items()} if type(told) is dict else {}


@dataclass(frozen=True)
class Writes:
    """Ground truth and conversation, as far as they wrote something else."""

    missing: tuple[Action, ...]
    """Wanted, and never tried with these arguments."""
    unwanted: tuple[ToolCall, ...]
    """Accepted by the benchmark, and not in the ground truth."""

    @property
    def pairs(self) -> Iterator[tuple[Action, ToolCall]]:
        """A missing action and the unwanted call of the same tool that is nearest to it: by the
        number of equal arguments, each call once."""
        left = list(self.unwanted)
        for action in self.missing:
            same = [call for call in left if call.tool == action.tool and call.arguments]
            if same:
                nearest = max(same, key=lambda call: _equal(action, call))
                left.remove(nearest)
                yield action, nearest


def compare_writes(said: Dialogue, task: Wanted) -> Writes:
    """The write calls of a conversation against the task's. A wanted call that the database
    refused counts as done: the ground truth holds a few that it refuses."""
    tried = Counter(call.key for call in said.calls if call.writes)
    missing = []
    for action in task.write_actions:
        if tried[action.key] > 0:
            tried[action.key] -= 1
        else:
            missing.append(action)
    expected = Counter(action.key for action in task.write_actions)
    unwanted = []
    for call in said.calls:
        if not call.writes or call.failed or call.result is None:
            continue
        if expected[call.key] > 0:
            expected[call.key] -= 1
        else:
            unwanted.append(call)
    return Writes(tuple(missing), tuple(unwanted))


def differing(action: Action, call: ToolCall) -> Iterator[tuple[str, list[str], list[str]]]:
    """(argument, values only in the ground truth, values only in the call) where they differ."""
    given = call.arguments or {}
    for name in {**action.arguments, **given}:
        right = Counter(scalars(action.arguments.get(name)))
        wrong = Counter(scalars(given.get(name)))
        if right != wrong:
            yield name, list((right - wrong).elements()), list((wrong - right).elements())


def scalars(value: object) -> Iterator[str]:
    """The texts and numbers in a value, as text, however deep they stand."""
    if isinstance(value, dict):
        for each in value.values():
            yield from scalars(each)
    elif isinstance(value, list):
        for each in value:
            yield from scalars(each)
    elif value is not None:
        yield value if isinstance(value, str) else canonical(value)


def distinctive(value: str) -> bool:
    """Whether finding a value in a text says that it was meant: a name, an id, a phrase; not a
    number of few digits, not "yes"."""
    return (len(value) >= 5 and any(char.isalpha() for char in value)) or len(value) >= 6


def mentions(texts: Iterable[str], value: str) -> bool:
    """Whether a text holds the value as a whole, in whatever case and spacing; a leading # may be
    missing."""
    bare = " ".join(value.casefold().split()).lstrip("#")
    if not bare:
        return False
    pattern = re.compile(rf"(?<![\w]){re.escape(bare)}(?![\w])")
    return any(pattern.search(" ".join(text.casefold().split())) for text in texts)


def _equal(action: Action, call: ToolCall) -> int:
    given = call.arguments or {}
    return sum(
        name in given and canonical(value) == canonical(given[name])
        for name, value in action.arguments.items()
    )
