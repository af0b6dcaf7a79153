"""Means over episodes or turns, shares among them, with intervals clustered by task.

Trials (and turns) of a task are correlated, so an interval that took them for independent would be
too narrow: the task is the unit. Wilson's plain interval is for counts where each trial stands
alone.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

from emobench.analysis.stats.estimates import (
    FEW,
    FEW_EVENTS,
    FEW_FAILURES,
    FEW_SUCCESSES,
    FEW_TASKS,
    Interval,
    Mean,
    describe_size,
)
from emobench.analysis.stats.intervals import (
    LEVEL,
    score_interval,
    standard_error,
    t_interval,
)
from emobench.analysis.stats.units import Arm, Flags, Floats, Ints, Sample, add_up, sum_by_task

UNIT = (0.0, 1.0)
CLUSTERED = "95 % interval clustered by task"
ONE_TASK = "one task: nothing says how much tasks differ"


def mean_reward(what: str, arm: Arm) -> Mean:
    """Return the mean over tasks of a variant's mean rewards: each task counts once, as in a
    difference, however many trials it has. Tasks without a scored trial drop out.

    In a `stack` of groups a task's value is the mean over its groups.
    """
    scored = arm.scored
    missing = int(arm.missing.sum())
    names, places, groups = np.unique(scored.tasks, return_inverse=True, return_counts=True)
    label = f"{what}, {describe_size(names.size, scored.n.tolist())}, {CLUSTERED}"
    if not names.size:
        return Mean(label, None, 0, missing, 0, None, None, None, _explain_no_mean(missing))
    values = add_up(scored.means, places) / groups
    mean, error = float(values.mean()), standard_error(values)
    # As many episodes as would, spread evenly over the tasks, say as much.
    even = names.size**2 / float((add_up(1 / scored.n, places) / groups**2).sum())
    return Mean(
        label=label,
        value=mean,
        episodes=int(scored.n.sum()),
        missing=missing,
        tasks=names.size,
        interval=score_interval(mean, error, names.size, even),
        t=t_interval(mean, error, names.size, UNIT),
        reason="" if names.size > 1 else ONE_TASK,
        notes=mark_few(
            add_up(scored.successes, places) > 0,
            add_up(scored.n - scored.successes, places) > 0,
        ),
    )


def mean_per_episode(what: str, arm: Arm) -> Mean:
    """Return the mean over episodes, so that tasks with more trials weigh more: what a run under
    way has reached. It stands beside no difference."""
    scored = arm.scored
    label = f"{what}, {describe_size(scored.n.size, scored.n.tolist())}, {CLUSTERED}"
    notes = mark_few(scored.successes > 0, scored.successes < scored.n) if scored.n.size else ()
    missing = int(arm.missing.sum())
    return _estimate_mean(label, scored.total, scored.n, bounds=UNIT, missing=missing, notes=notes)


def mean_of_sums(total: float, n: int) -> float | None:
    """Return the mean of `n` rewards that add up to `total`; None for n = 0."""
    return total / n if n else None


def outcome_rate(what: str, events: Floats, n: Ints) -> Mean:
    """Return the share of episodes with an outcome, from the counts by task (n > 0)."""
    return _estimate_share(f"{what}, {describe_size(n.size, n.tolist())}, {CLUSTERED}", events, n)


def sample_share(what: str, sample: Sample) -> Mean:
    """Return the share of conversations or turns with something; each value is 0 or 1."""
    _, events, n = sum_by_task(sample)
    return _estimate_share(_label_sample(what, n), events, n)


def sample_mean(what: str, sample: Sample, bounds: tuple[float, float] | None = None) -> Mean:
    """Return the mean over conversations or turns; `bounds` are those of a single value."""
    _, total, n = sum_by_task(sample)
    notes: tuple[str, ...] = (FEW_TASKS,) if n.size < FEW else ()
    if bounds == UNIT:
        notes = mark_few(total > 0, total < n)
    return _estimate_mean(_label_sample(what, n), total, n, bounds=bounds, notes=notes)


def cluster_error(total: Floats, n: Ints) -> float:
    """Return cluster-robust standard error of sum(total) / sum(n), a cluster a task.

    Variance G/(G-1) * sum over tasks of (total - n * mean)^2 / N^2 (Liang and Zeger 1986; CR1, as
    statsmodels' OLS on a constant with cov_type='cluster'). 0 below two tasks.
    """
    tasks, episodes = n.size, int(n.sum())
    if tasks < 2:
        return 0.0
    residuals = total - n * (total.sum() / episodes)
    return float(np.sqrt(tasks / (tasks - 1) * (residuals**2).sum()) / episodes)


def mark_few(success: Flags, failure: Flags) -> tuple[str, ...]:
    """Say where the interval holds less well: few tasks, or few of them with a success (failure).

    `success` and `failure` say of each task whether it has at least one.
    """
    if success.size < FEW:
        return (FEW_TASKS,)
    notes = [FEW_SUCCESSES] if success.sum() < FEW else []
    return (*notes, FEW_FAILURES) if failure.sum() < FEW else tuple(notes)


def wilson(events: int, n: int, level: float = LEVEL) -> Interval | None:
    """Return Wilson's score interval (J. Amer. Statist. Assoc. 22, 1927) of a rate; None for n = 0.

    Raises ValueError unless 0 <= events <= n.
    """
    if not 0 <= events <= n:
        raise ValueError(f"no rate of {events} events in {n} trials")
    if not n:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = events / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    width = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At the ends the exact bound is 0 or 1; rounding must not move it.
    return Interval(0.0 if events == 0 else centre - width, 1.0 if events == n else centre + width)


def _label_sample(what: str, n: Ints) -> str:
    return f"{what}, {int(n.sum())} of {n.size} tasks, {CLUSTERED}" if n.size else what


def _explain_no_mean(missing: int) -> str:
    return "no scored episode" if missing else "no episode"


def _estimate_share(label: str, events: Floats, n: Ints) -> Mean:
    happened, episodes = round(float(events.sum())), int(n.sum())
    notes = [FEW_TASKS] if n.size < FEW else []
    if episodes and min(happened, episodes - happened) < FEW:
        notes.append(FEW_EVENTS)
    return _estimate_mean(label, events, n, bounds=UNIT, events=happened, notes=tuple(notes))


def _estimate_mean(
    label: str,
    total: Floats,
    n: Ints,
    *,
    bounds: tuple[float, float] | None,
    missing: int = 0,
    events: int | None = None,
    notes: tuple[str, ...] = (),
) -> Mean:
    """Return the mean from sums by task, n > 0. Tasks with more trials weigh more, as episodes
    do."""
    tasks, episodes = int(n.size), int(n.sum())
    mean = mean_of_sums(float(total.sum()), episodes)
    if mean is None:
        reason = _explain_no_mean(missing)
        return Mean(label, None, 0, missing, 0, None, None, events, reason, notes)
    error = cluster_error(total, n)
    t = t_interval(mean, error, tasks, bounds)
    return Mean(
        label=label,
        value=mean,
        episodes=episodes,
        missing=missing,
        tasks=tasks,
        interval=score_interval(mean, error, tasks, episodes) if bounds == UNIT else t,
        t=t,
        events=events,
        reason="" if tasks > 1 else ONE_TASK,
        notes=notes,
    )
