"""A task's ground truth against what a conversation wrote."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from emobench.benchmarks.tasks import Action, Task, dump_canonical
from emobench.benchmarks.transcript import ToolCall, Transcript


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
                nearest = max(same, key=lambda call: _count_equal(action, call))
                left.remove(nearest)
                yield action, nearest


def compare_writes(transcript: Transcript, task: Task) -> Writes:
    """Compare the write calls of a conversation with the task's. A wanted call that the database
    refused counts as done: the ground truth holds a few that it refuses."""
    tried = Counter(call.key for call in transcript.calls if call.writes)
    missing = []
    for action in task.write_actions:
        if tried[action.key] > 0:
            tried[action.key] -= 1
        else:
            missing.append(action)
    expected = Counter(action.key for action in task.write_actions)
    unwanted = []
    for call in transcript.calls:
        if not call.writes or call.failed or call.result is None:
            continue
        if expected[call.key] > 0:
            expected[call.key] -= 1
        else:
            unwanted.append(call)
    return Writes(tuple(missing), tuple(unwanted))


def find_differences(action: Action, call: ToolCall) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (argument, values only in the ground truth, values only in the call) where they
    differ."""
    given = call.arguments or {}
    for name in {**action.arguments, **given}:
        right = Counter(list_scalars(action.arguments.get(name)))
        wrong = Counter(list_scalars(given.get(name)))
        if right != wrong:
            yield name, list((right - wrong).elements()), list((wrong - right).elements())


def list_scalars(value: object) -> Iterator[str]:
    """Yield the texts and numbers in a value, as text, however deep they stand."""
    if isinstance(value, dict):
        for each in value.values():
            yield from list_scalars(each)
    elif isinstance(value, list):
        for each in value:
            yield from list_scalars(each)
    elif value is not None:
        yield value if isinstance(value, str) else dump_canonical(value)


def is_distinctive(value: str) -> bool:
    """Return whether finding a value in a text says that it was meant: a name, an id, a phrase; not
    a number of few digits, not "yes"."""
    return (len(value) >= 5 and any(char.isalpha() for char in value)) or len(value) >= 6


def mentions(texts: Iterable[str], value: str) -> bool:
    """Return whether a text holds the value as a whole, in whatever case and spacing; a leading #
    may be missing."""
    bare = " ".join(value.casefold().split()).lstrip("#")
    if not bare:
        return False
    pattern = re.compile(rf"(?<![\w]){re.escape(bare)}(?![\w])")
    return any(pattern.search(" ".join(text.casefold().split())) for text in texts)


def _count_equal(action: Action, call: ToolCall) -> int:
    given = call.arguments or {}
    return sum(
        name in given and dump_canonical(value) == dump_canonical(given[name])
        for name, value in action.arguments.items()
    )
