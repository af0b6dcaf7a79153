"""Differences paired by task: variant minus control, one assistant minus another, and so on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite

import numpy as np

from emobench.analysis.stats.estimates import (
    FEW,
    FEW_DIFFER,
    FEW_TASKS,
    Difference,
    Mean,
    describe_size,
)
from emobench.analysis.stats.intervals import TINY, bootstrap_interval, standard_error, t_interval
from emobench.analysis.stats.means import CLUSTERED, mean_reward
from emobench.analysis.stats.permutation import sign_flip
from emobench.analysis.stats.student import two_sided
from emobench.analysis.stats.units import (
    Arm,
    Floats,
    Sample,
    align_by_task,
    keep_paired,
    stack,
    subtract_by_task,
    sum_by_task,
)
from emobench.core.outcomes import Group
from emobench.core.wording import pluralise

REWARD_BOUNDS = (-1.0, 1.0)
Groups = Mapping[Group, Mapping[str, Arm]]
"""Rewards by group and variant."""


def paired_difference(
    label: str,
    differences: Floats,
    *,
    left_out: int = 0,
    bounds: tuple[float, float] | None = REWARD_BOUNDS,
    bootstrap: bool = True,
    tests: bool = True,
) -> Difference:
    """Return the mean of the tasks' differences with its intervals and p-values.

    Each task counts once, however many trials it has: the estimand is the mean over tasks, and a
    task with fewer trials is a noisier value of the same kind. Raises ValueError for differences
    that are not finite.
    """
    if not np.isfinite(differences).all():
        raise ValueError("a difference is not finite")
    tasks = int(differences.size)
    if not tasks:
        reason = "no task has a value on both sides"
        return Difference(label, None, 0, left_out, None, None, None, None, "", reason=reason)
    value, error = float(differences.mean()), standard_error(differences)
    p_permutation, how = sign_flip(differences) if tests else (None, "")
    differ = int((np.abs(differences) > TINY).sum())
    t = t_interval(value, error, tasks, bounds)
    resampled = bootstrap_interval(differences, bounds) if bootstrap else None
    return Difference(
        label=label,
        value=value,
        tasks=tasks,
        left_out=left_out,
        t=t,
        bootstrap=resampled,
        p_t=None
        if t is None or not tests
        else max(0.0, 1 - two_sided(abs(value) / error, tasks - 1)),
        p_permutation=p_permutation,
        permutation=how,
        reason=_explain_missing_interval(tasks, t is None, bootstrap and resampled is None),
        notes=_list_notes(tasks, differ, left_out, tests),
        error=error if tasks > 1 else None,
    )


def variant_difference(
    groups: Groups, name: str, baseline: str, *, bootstrap: bool = False, tests: bool = True
) -> Difference:
    """Return the variant's difference from the baseline in mean reward over the tasks of these
    groups."""
    return grouped_difference(
        groups,
        f"difference in mean reward, {name} minus {baseline}",
        (name, baseline),
        lambda arm: arm.means,
        bootstrap=bootstrap,
        tests=tests,
    )


def grouped_difference(
    groups: Groups,
    what: str,
    sides: tuple[str, str],
    values: Callable[[Arm], Floats],
    *,
    bootstrap: bool = False,
    tests: bool = True,
) -> Difference:
    """Return the first side's difference from the second in `values` by task, NaN where undefined.

    A task that several groups share counts once, with the mean of their differences: tasks are the
    clusters, the groups are fixed.
    """
    name, baseline = sides
    both = [(key, group) for key, group in groups.items() if name in group and baseline in group]
    if not both:
        where = "in this group" if len(groups) == 1 else "beside it in any group"
        return make_undefined(what, f"no {baseline} {where}")
    treated, control = (
        {
            (key, task): value
            for key, group in both
            for task, value in zip(
                group[side].tasks.tolist(), values(group[side]).tolist(), strict=True
            )
            if isfinite(value)
        }
        for side in sides
    )
    gaps, left_out = subtract_by_task(treated, control)
    trials = [n for _, group in both for side in sides for n in group[side].n.tolist()]
    label = f"{what}, {describe_size(gaps.size, trials)}, {CLUSTERED}"
    return paired_difference(label, gaps, left_out=left_out, bootstrap=bootstrap, tests=tests)


def paired_means(groups: Groups, name: str, baseline: str) -> tuple[Mean, Mean]:
    """Return the mean rewards of the variant and of the baseline, on the tasks and with the weights
    of `variant_difference`, which is the first minus the second."""
    pairs = [
        (key, keep_paired(group[name], group[baseline]))
        for key, group in groups.items()
        if name in group and baseline in group
    ]
    first, second = (
        mean_reward(
            f"mean reward, {side}, on the tasks paired with {other}",
            stack((key, pair[place]) for key, pair in pairs),
        )
        for place, side, other in ((0, name, baseline), (1, baseline, name))
    )
    return first, second


def sample_difference(
    what: str,
    variant: str,
    treated: Sample,
    control: Sample,
    bounds: tuple[float, float] | None = REWARD_BOUNDS,
) -> Difference:
    """Return the variant's difference from control in a mean over conversations or turns, with t
    and without tests. `bounds` are those of the difference."""
    sides = {"treated": sum_by_task(treated), "control": sum_by_task(control)}
    means = {name: (tasks, total / n) for name, (tasks, total, n) in sides.items()}
    rows, left_out = align_by_task(means, *means)
    return paired_difference(
        f"difference in {what}, {variant} minus control, {pluralise(rows.shape[1], 'task')}, "
        "95 % interval paired by task",
        rows[0] - rows[1],
        left_out=left_out,
        bounds=bounds,
        bootstrap=False,
        tests=False,
    )


def make_undefined(label: str, reason: str) -> Difference:
    """Return a difference that cannot be formed, and why."""
    return Difference(label, None, 0, 0, None, None, None, None, "", reason=reason)


def _explain_missing_interval(tasks: int, no_t: bool, no_bootstrap: bool) -> str:
    if tasks < 2:
        return "one task: nothing says how much tasks differ"
    if no_t:
        return "all tasks have the same difference: it has no interval"
    return "too few tasks differ for an interval by resampling" if no_bootstrap else ""


def _list_notes(tasks: int, differ: int, left_out: int, tests: bool) -> tuple[str, ...]:
    notes = []
    if tasks < FEW:
        notes.append(FEW_TASKS)
    elif differ < FEW:
        notes.append(FEW_DIFFER)
    if tests and differ and 2.0 ** (1 - differ) > 0.05:
        notes.append(
            f"{differ} task{'s differ' if differ > 1 else ' differs'}: "
            f"no permutation p below {2.0 ** (1 - differ):.2g}"
        )
    if left_out:
        notes.append(f"{left_out} task{'s' * (left_out > 1)} left out: a value on one side only")
    return tuple(notes)
