"""An episode's record as a row of the episodes table and the rows of its turns. Pure functions."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NamedTuple

from emobench.benchmarks.transcript import is_error, read_messages
from emobench.core.outcomes import SUCCESS, Outcome
from emobench.core.plan import Plan
from emobench.core.sweep import Cell
from emobench.tables.columns import ROLES

INT16, INT32, INT64 = 2**15 - 1, 2**31 - 1, 2**63 - 1


class CellFacts(NamedTuple):
    """What the plan says about all episodes of a cell."""

    run: str
    cell: int
    env: str
    agent_strategy: str
    assistant: str
    assistant_model: str
    user_model: str
    user_strategy: str
    variant: str
    trial: int
    file: str


def facts_of(run: str, plan: Plan, cell: Cell, file: str) -> CellFacts:
    sweep = plan.sweep
    return CellFacts(
        run,
        cell.number,
        cell.env,
        cell.agent_strategy,
        cell.assistant,
        sweep.assistants[cell.assistant].model,
        sweep.user.model,
        sweep.user_strategy,
        cell.variant,
        cell.trial,
        file,
    )


def episode_row(
    facts: CellFacts, record: dict[str, Any], offset: int, length: int
) -> tuple[Any, ...]:
    """The values in the order of `columns.EPISODES`; None where there is none."""
    outcome = record["outcome"]
    reward = None if outcome == Outcome.INFRA_ERROR else number(record.get("reward"))
    usage = _usage(record.get("calls"))
    error = record.get("error")
    benchmark = record.get("benchmark")
    return (
        facts.run,
        facts.cell,
        text(record.get("episode")) or "",
        facts.env,
        facts.agent_strategy,
        facts.assistant,
        facts.assistant_model,
        facts.user_model,
        facts.user_strategy,
        facts.variant,
        facts.trial,
        record["task_id"],
        whole(record.get("attempt"), INT16) or 1,
        outcome,
        reward,
        None if reward is None else reward >= SUCCESS,
        whole(record.get("steps"), INT32) or 0,
        whole(record.get("turns"), INT32) or 0,
        whole(record.get("tool_calls"), INT32) or 0,
        number(record.get("wall_s")),
        number(record.get("cost")),
        *usage.tokens,
        usage.think,
        whole(record.get("seed"), INT64),
        _microseconds(record.get("started")),
        text(error.get("type")) if isinstance(error, dict) else None,
        *usage.incarnations,
        text(record.get("variant_sha256")),
        text(record.get("user_prompt_sha256")),
        label_of(benchmark),
        text(record.get("emobench")),
        facts.file,
        offset,
        length,
    )


def turn_rows(
    record: dict[str, Any], agent_strategy: str, with_text: bool
) -> list[tuple[Any, ...]]:
    """One tuple a message, in the order of `columns.OF_MESSAGE`, the text last if it is asked for.

    System prompts are left out; `position` counts them all the same.
    """
    rows: list[tuple[Any, ...]] = []
    for one in read_messages(record.get("traj"), agent_strategy):
        if one.role in ROLES:
            wrong = one.role == "tool" and is_error(one.text)
            size = (len(one.text), len(one.text.split()))
            row = (min(one.place, INT16), one.role, *size, text(one.tool), wrong)
            rows.append((*row, text(one.text) or "") if with_text else row)
    return rows


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole(value: object, largest: int) -> int | None:
    """A whole number within what the column holds, or None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and -largest <= value <= largest else None


def text(value: object) -> str | None:
    """A string that UTF-8 can write, or None. A model can send a lone surrogate."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def label_of(benchmark: object) -> str:
    """'package version', as plans name the benchmark."""
    if not isinstance(benchmark, dict):
        return ""
    return text(f"{benchmark.get('package')} {benchmark.get('version')}") or ""


class _Usage(NamedTuple):
    """What the calls of an episode say together."""

    tokens: tuple[int | None, ...]
    """(prompt, completion) of the user, then of the assistant; None where no server said any."""
    think: bool
    """Reasoning was taken out of a reply."""
    incarnations: tuple[str | None, str | None]
    """Of the user's and the assistant's servers, in the order of their first answers."""


def _usage(calls: object) -> _Usage:
    tokens: list[int | None] = [None] * 4
    names: tuple[dict[str, None], dict[str, None]] = ({}, {})
    think = False
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, dict):
            continue
        role = call.get("role")
        if role not in ("user", "assistant"):
            continue
        first = 0 if role == "user" else 2
        for place, kind in ((first, "prompt_tokens"), (first + 1, "completion_tokens")):
            count = call.get(kind)
            if type(count) is int:
                tokens[place] = (tokens[place] or 0) + count
        name = call.get("incarnation")
        if isinstance(name, str) and name:
            names[first // 2][name] = None
        think = think or bool(call.get("think"))
    user, assistant = (text(" ".join(each)) for each in names)
    return _Usage(tuple(whole(count, INT32) for count in tokens), think, (user, assistant))


def _microseconds(stamp: object) -> int | None:
    """Since 1970, of an ISO time with its offset."""
    if not isinstance(stamp, str):
        return None
    try:
        time = datetime.fromisoformat(stamp)
        return None if time.tzinfo is None else round(time.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        return None
