"""An episode's record as a row of the episodes table and the rows of its turns. Pure functions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from emobench.benchmarks.transcript import is_error, read_messages
from emobench.core.outcomes import SUCCESS
from emobench.core.plan import Plan
from emobench.core.sweep import Cell
from emobench.store.calls import ROLES as CALLERS
from emobench.store.calls import count_usage
from emobench.store.episodes import INT16, INT32, EpisodeRecord, parse_text, parse_whole
from emobench.tables.columns import ROLES


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


def collect_facts(run: str, plan: Plan, cell: Cell, file: str) -> CellFacts:
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


def build_episode_row(
    facts: CellFacts, record: EpisodeRecord, offset: int, length: int
) -> tuple[Any, ...]:
    """Return the values in the order of `columns.EPISODES`; None where there is none."""
    usage = _count_usage(record.calls)
    reward = record.reward
    return (
        facts.run,
        facts.cell,
        record.episode,
        facts.env,
        facts.agent_strategy,
        facts.assistant,
        facts.assistant_model,
        facts.user_model,
        facts.user_strategy,
        facts.variant,
        facts.trial,
        record.task_id,
        record.attempt,
        record.outcome.value,
        reward,
        None if reward is None else reward >= SUCCESS,
        record.steps,
        record.turns,
        record.tool_calls,
        record.wall_s,
        record.cost,
        *usage.tokens,
        *usage.costs,
        any(usage.think),
        *usage.think,
        *usage.empty,
        record.seed,
        _to_microseconds(record.started),
        record.error.type or None if record.error else None,
        *usage.incarnations,
        record.variant_sha256,
        record.user_prompt_sha256,
        record.benchmark.label if record.benchmark else "",
        record.emobench,
        facts.file,
        offset,
        length,
    )


def build_turn_rows(
    record: EpisodeRecord, agent_strategy: str, with_text: bool
) -> list[tuple[Any, ...]]:
    """Return one tuple a message, in the order of `columns.OF_MESSAGE`, the text last if it is
    asked for.

    System prompts are left out; `position` counts them all the same.
    """
    rows: list[tuple[Any, ...]] = []
    for place, role, content, tool, _ in read_messages(record.traj, agent_strategy):
        if role in ROLES:
            wrong = role == "tool" and is_error(content)
            name = parse_text(tool) if tool else None
            position = place if place < INT16 else INT16
            row = (position, role, len(content), len(content.split()), name, wrong)
            rows.append((*row, parse_text(content) or "") if with_text else row)
    return rows


class _Usage(NamedTuple):
    """What the calls of an episode say together."""

    tokens: tuple[int | None, ...]
    """(prompt, completion) of the user, then of the assistant; None where no server said any."""
    costs: tuple[float | None, ...]
    """US dollars of the user's calls and of the assistant's; None where none is known."""
    think: tuple[int, int]
    """Replies of the user and of the assistant that reasoning was taken out of."""
    empty: tuple[int, int]
    """Those that had nothing else in them, or nothing at all."""
    incarnations: tuple[str | None, str | None]
    """Of the user's and the assistant's servers, in the order of their first answers."""


def _count_usage(calls: list[dict[str, Any]]) -> _Usage:
    names: tuple[dict[str, None], dict[str, None]] = ({}, {})
    think, empty = [0, 0], [0, 0]
    for call in calls:
        role = call.get("role")
        if role not in CALLERS:
            continue
        name = call.get("incarnation")
        if isinstance(name, str) and name:
            names[role == "assistant"][name] = None
        think[role == "assistant"] += bool(call.get("think"))
        empty[role == "assistant"] += bool(call.get("empty"))
    used = count_usage(calls)
    both = [used[role] for role in CALLERS]
    tokens = [count for each in both for count in (each.prompt_tokens, each.completion_tokens)]
    user, assistant = names
    return _Usage(
        tuple([parse_whole(count, INT32) for count in tokens]),
        tuple([each.cost for each in both]),
        (think[0], think[1]),
        (empty[0], empty[1]),
        (parse_text(" ".join(user)), parse_text(" ".join(assistant))),
    )


def _to_microseconds(stamp: str | None) -> int | None:
    """Return microseconds since 1970 of an ISO time with its offset."""
    if stamp is None:
        return None
    try:
        time = datetime.fromisoformat(stamp)
        return None if time.tzinfo is None else round(time.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        return None
