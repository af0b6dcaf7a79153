"""Mean reward, and the share of an outcome, clustered by task."""

from __future__ import annotations

import numpy as np

from emobench.analysis.stats.estimates import (
    FEW,
    FEW_FAILURES,
    FEW_SUCCESSES,
    FEW_TASKS,
    Mean,
    size,
)
from emobench.analysis.stats.intervals import score_interval, t_interval
from emobench.analysis.stats.units import Floats, Ints


def cluster_error(total: Floats, n: Ints) -> float:
    """Cluster-robust standard error of sum(total) / sum(n), a cluster a task.

    Variance G/(G-1) * sum over tasks of (total - n * mean)^2 / N^2 (Liang and Zeger 1986; CR1, as
    statsmodels' OLS on a constant with cov_type='cluster'). 0 below two tasks.
    """
    tasks, episodes = n.size, int(n.sum())
    if tasks < 2:
        return 0.0
    residuals = total - n * (total.sum() / episodes)
    return float(np.sqrt(tasks / (tasks - 1) * (residuals**2).sum()) / episodes)


def mean_over_episodes(
    what: str,
    total: Floats,
    n: Ints,
    *,
    missing: int = 0,
    with_success: int,
    with_failure: int,
) -> Mean:
    """`total` and `n` by task, n > 0. Tasks with more trials weigh more, as episodes do.

    `with_success` and `with_failure`: tasks with at least one of each, for the marks.
    """
    tasks, episodes = int(n.size), int(n.sum())
    label = f"{what}, {size(tasks, n.tolist())}, 95 % interval clustered by task"
    if not episodes:
        reason = "no scored episode" if missing else "no episode"
        return Mean(label, None, 0, missing, 0, None, None, reason)
    mean = float(total.sum() / episodes)
    error = cluster_error(total, n)
    return Mean(
        label=label,
        value=mean,
        episodes=episodes,
        missing=missing,
        tasks=tasks,
        interval=score_interval(mean, error, tasks, episodes),
        t=t_interval(mean, error, tasks, (0.0, 1.0)),
        reason="" if tasks > 1 else "one task: nothing says how much tasks differ",
        notes=marks(tasks, with_success, with_failure),
    )


def marks(tasks: int, with_success: int, with_failure: int) -> tuple[str, ...]:
    """Where the interval holds less well: few tasks, or few with an event."""
    notes = []
    if tasks < FEW:
        notes.append(FEW_TASKS)
    else:
        notes += [FEW_SUCCESSES] if with_success < FEW else []
        notes += [FEW_FAILURES] if with_failure < FEW else []
    return tuple(notes)


def mean_reward(what: str, total: Floats, successes: Ints, n: Ints, missing: Ints) -> Mean:
    """The mean reward of one variant from its units; tasks without a scored trial drop out."""
    some = n > 0
    return mean_over_episodes(
        what,
        total[some],
        n[some],
        missing=int(missing.sum()),
        with_success=int((successes[some] > 0).sum()),
        with_failure=int((successes[some] < n[some]).sum()),
    )
