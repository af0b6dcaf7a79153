"""How hard tasks are and how much effects differ between them, as a study's own data say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import sqrt

import numpy as np

from emobench.analysis.stats.estimates import FEW, FEW_TASKS, describe_size
from emobench.analysis.stats.pass_k import pass_k_by_task
from emobench.analysis.stats.task_model import (
    MOST_SPREAD,
    PUBLISHED,
    Difficulty,
    find_shift,
    variance_of_effect,
)
from emobench.analysis.stats.units import Arm
from emobench.core.outcomes import CONTROL, Group


def estimate_difficulties(
    groups: Mapping[Group, Mapping[str, Arm]], baseline: str = CONTROL
) -> dict[Group, Difficulty]:
    """Return difficulties by group, from pass^1 and pass^2 of its control, with the spread of its
    variants' effects; groups without a scored control are left out."""
    found = {}
    for key, group in groups.items():
        if baseline in group and group[baseline].n.sum():
            hard = estimate_difficulty(group[baseline], key[0])
            others = [arm for name, arm in group.items() if name != baseline]
            found[key] = estimate_spread(hard, group[baseline], others)
    return found


def estimate_difficulty(control: Arm, env: str) -> Difficulty:
    """Return unbiased moments of the tasks' chance of success: means of c/n and of C(c,2)/C(n,2).

    Where no task has two trials, the second is taken so that the share of variance between tasks
    is the published one of `env`. It is kept between pass_1^2 and pass_1, where moments can lie.
    """
    first = pass_k_by_task(control.successes, control.n, 1)
    second = pass_k_by_task(control.successes, control.n, 2)
    pass_1 = float(np.nanmean(first))
    tasks = int(np.isfinite(first).sum())
    source = f"measured: control, {describe_size(tasks, control.n.tolist())}"
    if np.isfinite(second).any():
        pass_2 = float(np.nanmean(second))
    else:
        known = PUBLISHED[env]
        share = known.between / (known.between + known.within)
        pass_2 = pass_1**2 + share * pass_1 * (1 - pass_1)
        source += ", one trial a task: differences between tasks as published"
    if tasks < FEW:
        source += f" ({FEW_TASKS})"
    return Difficulty(pass_1, min(max(pass_2, pass_1**2), pass_1), source)


def estimate_spread(hard: Difficulty, control: Arm, variants: Iterable[Arm]) -> Difficulty:
    """Return `hard` with the spread at which effects vary over tasks as the variants' do.

    The variance of a variant's effect is that of the tasks' differences less what their trials
    explain, without bias; the spread's square is the mean over variants. It takes 10 tasks with two
    trials on both sides; without, the spread stays as assumed.
    """
    squares = []
    for treated in variants:
        _, mine, its = np.intersect1d(control.tasks, treated.tasks, return_indices=True)
        keep = (control.n[mine] > 1) & (treated.n[its] > 1)
        if keep.sum() < FEW:
            continue
        n, m = control.n[mine][keep], treated.n[its][keep]
        p, q = control.successes[mine][keep] / n, treated.successes[its][keep] / m
        noise = float((p * (1 - p) / (n - 1) + q * (1 - q) / (m - 1)).mean())
        wanted = float((q - p).var(ddof=1)) - noise
        drop = float((p - q).mean())
        if find_shift(hard, drop) is not None:
            squares.append(_find_spread(hard, drop, wanted) ** 2)
    if not squares:
        return hard
    return replace(hard, spread=sqrt(sum(squares) / len(squares)), spread_source="measured")


def _find_spread(hard: Difficulty, drop: float, variance: float) -> float:
    """Return the spread that gives a drop this variance over tasks, between 0 and the most."""
    low, high = 0.0, MOST_SPREAD
    while high - low > 0.01:
        middle = (low + high) / 2
        enough = variance_of_effect(replace(hard, spread=middle), drop) >= variance
        low, high = (low, middle) if enough else (middle, high)
    return (low + high) / 2
