"""Conversations for the tests of this folder, from the benchmark's own tasks."""

from __future__ import annotations

from collections.abc import Sequence

from emobench.analysis.transcript.dialogue import Dialogue, Said
from emobench.benchmarks.tasks import TaskText, load_env
from emobench.core.outcomes import Condition

GREETING = "Hi! How can I help you today?"


def task_of(env: str, index: int) -> TaskText:
    return load_env(env).tasks[index]


def dialogue(
    env: str,
    index: int,
    *said: str,
    variant: str = "control",
    stopped: bool = True,
    tools: Sequence[str] = (),
    outcome: str = "failed",
    trial: int = 1,
) -> Dialogue:
    """User and agent in turns, the user first; `tools` were called before the last words."""
    sides = ("user", "agent")
    messages = [Said(sides[place % 2], text) for place, text in enumerate(said)]  # type: ignore[arg-type]
    calls = [Said("tool", name) for name in tools]
    messages[-1:-1] = calls
    return Dialogue(
        condition=Condition(env, "tool-calling", "assistant", variant),
        trial=trial,
        task_id=index,
        episode=f"{env}-{index}-{variant}-{trial}",
        outcome=outcome,
        task=task_of(env, index),
        said=tuple(messages),
        stopped=stopped,
    )
