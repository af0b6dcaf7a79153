"""pass^k: the chance that k trials of one task all succeed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from emobench.analysis.stats.estimates import Difference, Interval, PassK, describe_size
from emobench.analysis.stats.intervals import bootstrap_intervals, score_interval
from emobench.analysis.stats.means import cluster_error, mark_few
from emobench.analysis.stats.paired import Groups, grouped_difference
from emobench.analysis.stats.units import Floats, Ints, add_up


def pass_k_by_task(successes: Ints, n: Ints, k: int) -> Floats:
    """Return C(c,k) / C(n,k) for each task (arXiv 2406.12045); NaN where n < k: undefined, not 0.

    Raises ValueError unless k >= 1 and 0 <= c <= n.
    """
    if k < 1 or (successes < 0).any() or (successes > n).any():
        raise ValueError(f"no pass^{k} of these counts")
    values = np.where(n >= k, 1.0, np.nan)
    for drawn in range(k):
        values = values * np.maximum(successes - drawn, 0) / np.maximum(n - drawn, 1)
    return values


def pass_k_curve(
    what: str, successes: Ints, n: Ints, ks: Iterable[int], tasks: Ints | None = None
) -> tuple[PassK, ...]:
    """Return pass^k for each k; `what` follows in the label, as in 'pass^2, anger, ...'.

    Entries are tasks, or, with `tasks`, tasks of several groups: then each entry counts once, the
    interval is clustered by the number in `tasks`, and there is none by resampling.
    """
    columns = {k: pass_k_by_task(successes, n, k) for k in ks}
    resampled = _resample(columns) if tasks is None else {}
    if tasks is None:
        tasks = np.arange(n.size)
    return tuple(
        _estimate(f"pass^{k}, {what}", k, values, n, tasks, resampled)
        for k, values in columns.items()
    )


def pass_k_difference(groups: Groups, name: str, baseline: str, k: int) -> Difference:
    """Return the variant's difference from the baseline in pass^k, over the tasks of which both
    have k scored trials."""
    return grouped_difference(
        groups,
        f"difference in pass^{k}, {name} minus {baseline}",
        (name, baseline),
        lambda arm: pass_k_by_task(arm.successes, arm.n, k),
    )


def _resample(columns: Mapping[int, Floats]) -> dict[int, Interval | None]:
    """Return intervals by k. All k that rest on the same tasks share one set of resamples."""
    defined = {k: np.isfinite(values) for k, values in columns.items()}
    found: dict[int, Interval | None] = {}
    for mask in {some.tobytes(): some for some in defined.values()}.values():
        same = [k for k, some in defined.items() if (some == mask).all()]
        values = np.column_stack([columns[k][mask] for k in same])
        found.update(zip(same, bootstrap_intervals(values, (0.0, 1.0)), strict=True))
    return found


def _estimate(
    what: str,
    k: int,
    values: Floats,
    n: Ints,
    tasks: Ints,
    resampled: Mapping[int, Interval | None],
) -> PassK:
    some = np.isfinite(values)
    of = np.unique(tasks[n > 0]).size
    names, places, entries = np.unique(tasks[some], return_inverse=True, return_counts=True)
    total = add_up(values[some], places)
    label = f"{what}, {describe_size(names.size, n[some].tolist())}, 95 % interval over tasks"
    if not names.size:
        return PassK(label, k, None, 0, of, None, None, f"no task has {k} scored trials")
    mean, error = float(values[some].mean()), cluster_error(total, entries)
    bootstrap = resampled.get(k)
    reason = ""
    if names.size < 2:
        reason = "one task: nothing says how much tasks differ"
    elif resampled and bootstrap is None:
        reason = "too few tasks differ for an interval by resampling"
    notes = mark_few(total > 0, total < entries)
    if names.size < of:
        notes = (*notes, f"{of - names.size} of {of} tasks have fewer than {k} trials")
    # A task's trials hold at most n // k draws of k that share no trial.
    interval = score_interval(mean, error, names.size, int((n // k).sum()))
    return PassK(label, k, mean, names.size, of, interval, bootstrap, reason, notes)
