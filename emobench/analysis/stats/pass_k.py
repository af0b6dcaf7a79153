"""pass^k: the chance that k trials of one task all succeed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from emobench.analysis.stats.estimates import Interval, PassK, size
from emobench.analysis.stats.intervals import bootstrap_intervals, score_interval, standard_error
from emobench.analysis.stats.means import marks
from emobench.analysis.stats.units import Floats, Ints


def pass_k_by_task(successes: Ints, n: Ints, k: int) -> Floats:
    """C(c,k) / C(n,k) for each task (arXiv 2406.12045); NaN where n < k: undefined, not 0.

    Raises ValueError unless k >= 1 and 0 <= c <= n.
    """
    if k < 1 or (successes < 0).any() or (successes > n).any():
        raise ValueError(f"no pass^{k} of these counts")
    values = np.ones(n.shape)
    enough = n >= k
    for drawn in range(k):
        left = np.maximum(successes - drawn, 0)
        values = np.divide(values * left, n - drawn, out=values, where=enough)
    values[~enough] = np.nan
    return values


def pass_k(what: str, successes: Ints, n: Ints, k: int) -> PassK:
    """The mean over the tasks with at least k scored trials, each counting once."""
    return pass_k_curve(what, successes, n, (k,))[0]


def pass_k_curve(what: str, successes: Ints, n: Ints, ks: Iterable[int]) -> tuple[PassK, ...]:
    """pass^k for each k; `what` follows in the label, as in 'pass^2, anger, ...'."""
    columns = {k: pass_k_by_task(successes, n, k) for k in ks}
    defined = {k: np.isfinite(values) for k, values in columns.items()}
    resampled: dict[int, Interval | None] = {}
    # All k that rest on the same tasks share one set of resamples.
    for mask in {some.tobytes(): some for some in defined.values()}.values():
        same = [k for k, some in defined.items() if (some == mask).all()]
        values = np.column_stack([columns[k][mask] for k in same])
        resampled.update(zip(same, bootstrap_intervals(values, (0.0, 1.0)), strict=True))
    return tuple(
        _estimate(f"pass^{k}, {what}", k, values, n, resampled[k]) for k, values in columns.items()
    )


def _estimate(what: str, k: int, values: Floats, n: Ints, bootstrap: Interval | None) -> PassK:
    defined = values[np.isfinite(values)]
    tasks, of = int(defined.size), int((n > 0).sum())
    label = f"{what}, {size(tasks, n[n >= k].tolist())}, 95 % interval over tasks"
    if not tasks:
        return PassK(label, k, None, 0, of, None, None, f"no task has {k} scored trials")
    mean, error = float(defined.mean()), standard_error(defined)
    reason = ""
    if tasks < 2:
        reason = "one task: nothing says how much tasks differ"
    elif bootstrap is None:
        reason = "too few tasks differ for an interval by resampling"
    notes = marks(tasks, int((defined > 0).sum()), int((defined < 1).sum()))
    if tasks < of:
        notes = (*notes, f"{of - tasks} of {of} tasks have fewer than {k} trials")
    # A task's trials hold at most n // k draws of k that share no trial.
    interval = score_interval(mean, error, tasks, int((n // k).sum()))
    return PassK(label, k, mean, tasks, of, interval, bootstrap, reason, notes)
