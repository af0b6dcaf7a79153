"""The results in one of tau-bench's files, as far as it is whole, one at a time in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.core.errors import InvalidInput, Problem
from emobench.core.sweep import Env
from emobench.store.episodes import number

CHUNK = 2**20
POLICY = re.compile(r"\b(retail|airline) agent policy", re.I)


def results_in(path: Path, on_end: Callable[[int, bool], None]) -> Iterator[dict[str, Any]]:
    """The whole results of a file, as far as it can be read, one at a time in memory.

    At the end `on_end` gets (whole elements that are no results, whether the file was cut off).
    Raises InvalidInput where the file is absent or no list.
    """
    try:
        stream = path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(path))) from None
    decoder, damaged = json.JSONDecoder(), 0
    with stream:
        text = stream.read(CHUNK).lstrip("\ufeff \t\r\n")
        if not text.startswith("["):
            raise no_results_file(path)
        place, more = 1, CHUNK
        while True:
            place = _skip(text, place)
            if text.startswith("]", place):
                break
            try:
                element, place = decoder.raw_decode(text, place)
            except (ValueError, RecursionError):
                chunk = stream.read(more)
                text, place, more = text[place:] + chunk, 0, 2 * more
                if not chunk:
                    break
                continue
            more = CHUNK
            if _is_result(element):
                yield element
            else:
                damaged += 1
        # A list that nobody closed was cut off, also where that was between two results.
        on_end(damaged, not text.startswith("]", place))


def check_env(path: Path, result: dict[str, Any], env: Env) -> None:
    task, count = result["task_id"], TASK_COUNTS[env]
    first = result["traj"][0] if result["traj"] else {}
    policy = POLICY.search(str(first.get("content"))[:2000]) if isinstance(first, dict) else None
    if policy is not None and policy[1].lower() != env:
        raise InvalidInput(
            Problem(
                f"task {task} is a conversation of {policy[1].lower()}, not of {env}",
                file=str(path),
                key="--env",
                hint=f"give --env {policy[1].lower()}",
            )
        )
    if not 0 <= task < count:
        raise InvalidInput(
            Problem(
                f"task {task}: {env} has the test tasks 0 to {count - 1}",
                file=str(path),
                key="--env",
                hint=f"is it another environment's file? --tasks 0-{count - 1} leaves the rest out",
            )
        )


def _is_result(element: object) -> bool:
    if not isinstance(element, dict):
        return False
    task, trial, reward = (element.get(key) for key in ("task_id", "trial", "reward"))
    return (
        type(task) is int
        and type(trial) is int
        and number(reward) is not None
        and isinstance(element.get("info"), dict)
        and isinstance(element.get("traj"), list)
    )


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n,":
        place += 1
    return place


def no_results_file(path: Path) -> InvalidInput:
    return InvalidInput(
        Problem(
            "no results file of tau-bench",
            file=str(path),
            allowed="a JSON list of {task_id, reward, info, traj, trial}, or a run directory",
        )
    )
