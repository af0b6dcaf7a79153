"""Frames of episodes for the tests of the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from emobench.analysis.stats.units import Arm, make_frame
from emobench.core.outcomes import Observation

if TYPE_CHECKING:
    import pandas

Rewards = Mapping[int, Sequence[float | None]]


def observations(
    rewards: Rewards, variant: str = "control", assistant: str = "a", env: str = "retail"
) -> list[Observation]:
    """One observation a reward, by task; None is an infrastructure error."""
    return [
        Observation(
            assistant=assistant,
            env=env,
            agent_strategy="react",
            variant=variant,
            trial=trial,
            task_id=task,
            outcome="infra_error" if value is None else "solved" if value == 1 else "failed",
            reward=value,
        )
        for task, values in rewards.items()
        for trial, value in enumerate(values, start=1)
    ]


def frame(**variants: Rewards) -> pandas.DataFrame:
    """One group with these variants."""
    return make_frame(
        item for name, rewards in variants.items() for item in observations(rewards, name)
    )


def random_rewards(
    seed: int, tasks: int, trials: int, share: float = 1.0, missing: float = 0.0
) -> dict[int, list[float | None]]:
    """Correlated 0/1 rewards; tasks have the same difficulty whatever the seed."""
    chance = np.random.default_rng(5).beta(0.8, 0.8, tasks) * share
    draw = np.random.default_rng(seed)
    return {
        task: [
            None if draw.random() < missing else float(draw.random() < chance[task])
            for _ in range(trials)
        ]
        for task in range(tasks)
    }


def arm(rewards: Rewards) -> Arm:
    kept = {
        task: [value for value in values if value is not None] for task, values in rewards.items()
    }
    return Arm(
        np.array(list(kept), dtype=np.int64),
        np.array([len(values) for values in kept.values()], dtype=np.int64),
        np.array([sum(value == 1 for value in values) for values in kept.values()], dtype=np.int64),
        np.array([sum(values) for values in kept.values()], dtype=np.float64),
        np.array([len(rewards[task]) - len(kept[task]) for task in kept], dtype=np.int64),
    )
