"""pass^k: the chance that k trials of one task all succeed."""

from __future__ import annotations

import numpy as np

from emobench.analysis.estimates import PassK, size
from emobench.analysis.intervals import bootstrap_interval, score_interval, standard_error
from emobench.analysis.means import marks
from emobench.analysis.units import Floats, Ints


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
    values = pass_k_by_task(successes, n, k)
    defined = values[np.isfinite(values)]
    tasks, of = int(defined.size), int((n > 0).sum())
    label = f"{what}, {size(tasks, n[n >= k].tolist())}, 95 % interval over tasks"
    if not tasks:
        return PassK(label, k, None, 0, of, None, None, f"no task has {k} scored trials")
    mean, error = float(defined.mean()), standard_error(defined)
    bootstrap = bootstrap_interval(defined, (0.0, 1.0))
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
