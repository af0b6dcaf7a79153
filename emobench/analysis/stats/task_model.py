"""How hard tasks are, and what a variant does to them: the model by which power is computed.

A task's chance of success under control is Beta distributed, with a given mean and second moment. A
variant moves its logit by -shift + spread z, with z standard normal and one for each task: tasks
differ in how much they lose, and those that always or never succeed lose little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import comb, lgamma, log

import numpy as np

from emobench.analysis.stats.units import Floats

SPREAD = 0.5
"""Standard deviation over tasks of a variant's effect, in logits, where nothing has measured it."""
MOST_SPREAD = 3.0
FARTHEST = 14.0
"""Logits beyond which a task always or never succeeds (a chance of one in a million)."""
POINTS = 48
NORMAL = np.linspace(-3, 3, 9)
NORMAL_WEIGHTS = np.exp(-(NORMAL**2) / 2) / np.exp(-(NORMAL**2) / 2).sum()


@dataclass(frozen=True)
class Difficulty:
    """How hard a group's tasks are: the first two moments of their chance of success; and how much
    a variant's effect differs between them."""

    pass_1: float
    pass_2: float
    source: str
    spread: float = SPREAD
    """Of the effect over tasks, a standard deviation on the logit scale."""
    spread_source: str = "assumed"

    @property
    def within(self) -> float:
        """E[p(1-p)], the variance of one trial of a given task."""
        return max(self.pass_1 - self.pass_2, 0.0)

    @property
    def between(self) -> float:
        """Var(p), the variance between tasks."""
        return max(self.pass_2 - self.pass_1**2, 0.0)


PUBLISHED: Mapping[str, Difficulty] = {
    "airline": Difficulty(0.420, 0.273, "published gpt-4o, tau-bench"),
    "retail": Difficulty(0.604, 0.491, "published gpt-4o, tau-bench"),
}
"""pass^1 and pass^2 of gpt-4o with tool calling, from tau-bench's README."""


@lru_cache(maxsize=256)
def place_tasks(pass_1: float, pass_2: float) -> tuple[Floats, Floats]:
    """Return logits of the tasks' chance of success and their weights, which add up to 1, by the
    trapezoid rule on the logit scale."""
    within, between = max(pass_1 - pass_2, 0.0), max(pass_2 - pass_1**2, 0.0)
    if between < 1e-9 or not 0 < pass_1 < 1:
        chance = min(max(pass_1, 1e-6), 1 - 1e-6)
        return np.array([log(chance / (1 - chance))]), np.ones(1)
    total = max(within / between, 1e-3)
    a, b = pass_1 * total, (1 - pass_1) * total

    def log_density(logit: Floats) -> Floats:
        return a * logit - total * np.logaddexp(0, logit) - lgamma(a) - lgamma(b) + lgamma(total)

    wide = np.linspace(-FARTHEST, FARTHEST, 4001)
    height = log_density(wide)
    reached = wide[height > height.max() - 30]
    logits = np.linspace(reached[0], reached[-1], POINTS + 1)
    weights = np.exp(log_density(logits)) * (logits[1] - logits[0])
    # What lies beyond the ends: the tails of the density fall like exp(a x) and exp(-b x).
    weights[0] = weights[0] / 2 + np.exp(log_density(logits[:1])[0]) / a
    weights[-1] = weights[-1] / 2 + np.exp(log_density(logits[-1:])[0]) / b
    return logits, weights / weights.sum()


def move_chances(logits: Floats, shift: float, spread: float) -> Floats:
    """Return the chances of success under a variant (tasks x `NORMAL`)."""
    moved = logits[:, None] - shift + spread * NORMAL
    return np.asarray(1 / (1 + np.exp(-np.clip(moved, -500, 500))), dtype=np.float64)


@lru_cache(maxsize=4096)
def find_shift(difficulty: Difficulty, drop: float) -> float | None:
    """Return the shift, in logits, that lowers the mean reward by `drop`; None where control has no
    such mean to lose, or to gain."""
    logits, weights = place_tasks(difficulty.pass_1, difficulty.pass_2)
    mean = float(weights @ (1 / (1 + np.exp(-logits))))
    if not drop < mean or not mean - drop < 1:
        return None
    low, high = -60.0, 60.0
    for _ in range(50):
        middle = (low + high) / 2
        moved = move_chances(logits, middle, difficulty.spread) @ NORMAL_WEIGHTS
        low, high = (middle, high) if mean - float(weights @ moved) < drop else (low, middle)
    return high


def variance_of_effect(difficulty: Difficulty, drop: float) -> float:
    """Return the variance over tasks of a variant's effect on the chance of success; 0 for a drop
    that there cannot be."""
    shift = find_shift(difficulty, drop)
    if shift is None:
        return 0.0
    logits, weights = place_tasks(difficulty.pass_1, difficulty.pass_2)
    gaps = move_chances(logits, shift, difficulty.spread) - (1 / (1 + np.exp(-logits)))[:, None]
    share = weights[:, None] * NORMAL_WEIGHTS
    return float((share * gaps**2).sum() - (share * gaps).sum() ** 2)


@lru_cache(maxsize=1024)
def distribute_gaps(difficulty: Difficulty, trials: int, drop: float) -> Floats | None:
    """Return the chances that a task has -trials, ..., trials successes more under the variant than
    under control; None where there can be no such drop."""
    shift = find_shift(difficulty, drop)
    if shift is None:
        return None
    logits, weights = place_tasks(difficulty.pass_1, difficulty.pass_2)
    control = _count_successes(1 / (1 + np.exp(-logits)), trials)
    treated = _count_successes(move_chances(logits, shift, difficulty.spread), trials)
    joint = (control * weights[:, None]).T @ np.einsum("tzk,z->tk", treated, NORMAL_WEIGHTS)
    gaps = np.array([np.trace(joint, offset) for offset in range(-trials, trials + 1)])
    return np.asarray(gaps / gaps.sum(), dtype=np.float64)


def _count_successes(chances: Floats, trials: int) -> Floats:
    """Return the chances of 0 to `trials` successes, along a last axis."""
    counts = np.arange(trials + 1)
    ways = np.array([float(comb(trials, int(count))) for count in counts])
    p = chances[..., None]
    return np.asarray(ways * p**counts * (1 - p) ** (trials - counts), dtype=np.float64)
