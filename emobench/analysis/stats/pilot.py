"""How hard tasks are, from a pilot's control episodes, for planning the study proper."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emobench.analysis.stats.estimates import FEW, FEW_TASKS, describe_size
from emobench.analysis.stats.pass_k import pass_k_by_task
from emobench.analysis.stats.power import PUBLISHED, Difficulty
from emobench.analysis.stats.units import Arm
from emobench.core.outcomes import CONTROL, Group


def estimate_difficulties(
    groups: Mapping[Group, Mapping[str, Arm]], baseline: str = CONTROL
) -> dict[Group, Difficulty]:
    """Return difficulties by group, from pass^1 and pass^2 of its control; groups without a scored
    one are left out."""
    found = {}
    for key, group in groups.items():
        if baseline in group and group[baseline].n.sum():
            found[key] = estimate_difficulty(group[baseline], key[0])
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
    source = f"pilot: control, {describe_size(tasks, control.n.tolist())}"
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
