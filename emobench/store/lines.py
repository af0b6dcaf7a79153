"""Which lines of an episodes.jsonl count: one a task, and an account of the rest.

A file may be cut off anywhere, and may be growing while it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from emobench.core.outcomes import OUTCOMES, Outcome

T = TypeVar("T")


@dataclass(frozen=True)
class LineCounts:
    """What was left out of one file."""

    replaced: int = 0
    """Infrastructure errors that a later line of the same task replaced."""
    duplicates: int = 0
    """Later lines of a task that had a result already."""
    damaged: int = 0
    """Whole lines that are no episode."""
    torn: int = 0
    """1 where the last line has no end: a write that was cut off or is going on."""
    foreign: int = 0
    """Episodes of another cell, task set, variant text or benchmark."""
    repeated: int = 0
    """Episodes that another run has too, with the same content; they count once."""

    def __bool__(self) -> bool:
        return any(vars(self).values())


class Kept(NamedTuple):
    """The line that counts for a task so far."""

    path: Path
    outcome: str
    made: Any


def count_lines(
    path: Path,
    make: Callable[[dict[str, Any], int, int], T],
    kept: MutableMapping[int, Kept],
    belongs: Callable[[dict[str, Any]], bool] = lambda _: True,
) -> LineCounts:
    """Add what counts of `path` to `kept`, by task: the first line that is no infrastructure error,
    or else the last one. `make(record, offset, length)` turns such a line into what is kept.

    `kept` may hold lines of an earlier file of the same cell. An absent file has no lines. Raises
    OSError on a bad disk.
    """
    replaced = duplicates = damaged = torn = foreign = repeated = offset = 0
    try:
        stream = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return LineCounts()
    with stream:
        for line in stream:
            start, offset = offset, offset + len(line)
            if not line.endswith(b"\n"):
                torn = 1
                continue
            record = episode_of(line)
            if record is None:
                damaged += bool(line.strip())
                continue
            if not belongs(record):
                foreign += 1
                continue
            task, outcome = record["task_id"], record["outcome"]
            earlier = kept.get(task)
            if earlier is not None:
                same_file = earlier.path == path
                if earlier.outcome != Outcome.INFRA_ERROR:
                    duplicates += same_file
                    repeated += not same_file
                    continue
                replaced += same_file
                repeated += not same_file
            kept[task] = Kept(path, outcome, make(record, start, len(line)))
    return LineCounts(replaced, duplicates, damaged, torn, foreign, repeated)


def episode_of(line: bytes) -> dict[str, Any] | None:
    """The line as a record, or None where it is no episode."""
    data = parse(line)
    if not isinstance(data, dict):
        return None
    outcome = data.get("outcome")
    if type(data.get("task_id")) is not int or type(data.get("trial")) is not int:
        return None
    return data if isinstance(outcome, str) and outcome in OUTCOMES else None


def parse(text: bytes) -> Any:
    """JSON as a value, or None where it is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # What orjson refuses and a record may hold: a lone surrogate from a model, NaN.
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
