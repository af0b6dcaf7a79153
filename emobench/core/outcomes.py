"""How an episode ended, and an episode as statistics see it."""

from __future__ import annotations

from dataclasses import dataclass

INFRA_ERROR = "infra_error"
OUTCOMES = (
    "solved",
    "failed",
    "agent_error",
    "max_steps",
    "context_overflow",
    "user_error",
    INFRA_ERROR,
)
CONTROL = "control"
SUCCESS = 1 - 1e-6
"""tau-bench's own threshold of a solved task."""


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

    @property
    def group(self) -> tuple[str, str, str]:
        """Variants are compared within one (environment, assistant, agent strategy)."""
        return (self.env, self.assistant, self.agent_strategy)

    @property
    def task(self) -> tuple[str, int]:
        return (self.env, self.task_id)
