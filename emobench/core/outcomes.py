"""What an episode is compared by and how it ended: group, condition, outcome, observation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

CONTROL = "control"
SUCCESS = 1 - 1e-6
"""tau-bench's own threshold of a solved task."""


class Outcome(StrEnum):
    """How an episode ended, as files spell it (docs/architecture.md has the boundaries)."""

    SOLVED = "solved"
    FAILED = "failed"
    AGENT_ERROR = "agent_error"
    MAX_STEPS = "max_steps"
    CONTEXT_OVERFLOW = "context_overflow"
    USER_ERROR = "user_error"
    INFRA_ERROR = "infra_error"
    """Missing data, run again; every other outcome is data."""


OUTCOMES: tuple[str, ...] = tuple(outcome.value for outcome in Outcome)
"""As plain strings: names of columns and categories."""


class Group(NamedTuple):
    """Where conversations are comparable: variants are compared within one group."""

    env: str
    agent_strategy: str
    assistant: str

    def to_condition(self, variant: str) -> Condition:
        return Condition(*self, variant)


@dataclass(frozen=True)
class Condition:
    """A variant in its group: variants are compared within one group."""

    env: str
    agent_strategy: str
    assistant: str
    variant: str

    @property
    def group(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)

    @property
    def control(self) -> Condition:
        return replace(self, variant=CONTROL)

    def __str__(self) -> str:
        return f"{self.variant} ({self.env}, {self.agent_strategy}, {self.assistant})"


@dataclass(frozen=True)
class Observation:
    """One episode as the statistics see it."""

    assistant: str
    env: str
    agent_strategy: str
    variant: str
    trial: int
    task_id: int
    outcome: str
    reward: float | None
    """None: missing."""
    attempt: int = 1

    @property
    def group(self) -> Group:
        return Group(self.env, self.agent_strategy, self.assistant)

    @property
    def task(self) -> tuple[str, int]:
        return (self.env, self.task_id)
