"""Conversations for the tests of this folder, from the benchmark's own tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emobench.analysis.transcript.conversation import Conversation, parse_conversation
from emobench.benchmarks.tasks import Task, load_env
from emobench.benchmarks.transcript import STOP, Event, Message, ToolCall, Transcript
from emobench.core.outcomes import Outcome
from emobench.store.episodes import EpisodeRecord, parse_episode

GREETING = "Hi! How can I help you today?"


def task_of(env: str, index: int) -> Task:
    return load_env(env).tasks[index]


def conversation(
    env: str,
    index: int,
    *said: str,
    variant: str = "control",
    stopped: bool = True,
    tools: Sequence[str] = (),
    outcome: str = "failed",
    trial: int = 1,
) -> Conversation:
    """User and agent in turns, the user first; `tools` were called before the last words."""
    events: list[Event] = [
        Message("assistant" if place % 2 else "user", text, place)
        for place, text in enumerate(said)
    ]
    events[-1:-1] = [ToolCall(name, "{}", {}, "", 0) for name in tools]
    if stopped:
        events.append(Message("user", STOP, len(said)))
    return of_events(env, index, events, variant=variant, outcome=outcome, trial=trial)


def of_events(
    env: str,
    index: int,
    events: Sequence[Event],
    *,
    variant: str = "control",
    outcome: str = "failed",
    trial: int = 1,
) -> Conversation:
    record = EpisodeRecord(
        env=env,
        agent_strategy="tool-calling",
        assistant="assistant",
        variant=variant,
        trial=trial,
        task_id=index,
        episode=f"{env}-{index}-{variant}-{trial}",
        outcome=Outcome(outcome),
    )
    return Conversation(record, Transcript(tuple(events), len(events)), task_of(env, index))


def record_of(line: Mapping[str, Any]) -> EpisodeRecord:
    """A line of episodes.jsonl, or as much of one as matters, as a record."""
    found = parse_episode({"task_id": 0, "trial": 1, "outcome": "failed", **line})
    assert found is not None
    return found


def conversation_of(line: Mapping[str, Any], benchmark: str = "") -> Conversation:
    return parse_conversation(record_of(line), benchmark)
