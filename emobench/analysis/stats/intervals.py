"""95 % intervals for a mean over independent tasks.

Three are used, and what they cover is measured (docs/statistics.md):

- Student t over tasks.
- Wilson's score interval (Wilson 1927) with an effective sample size and t quantiles, for shares
  and means within 0 to 1: Korn and Graubard 1998 (Survey Methodology 24) have the effective size,
  Dean and Pagano 2015 (J. Survey Stat. Methodol. 3) the comparison. Near 0 and 1 it holds where
  the t interval is far too narrow, and it has a width where nothing varies.
- Symmetric bootstrap-t over tasks (Hall 1988, Ann. Statist. 16, 927; Efron and Tibshirani 1993,
  ch. 12). Chosen over percentile, BCa and the equal-tailed bootstrap-t because those cover
  85 to 93 % of few tasks or of rare differences, and this one 94 % or more.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import numpy as np

from emobench.analysis.stats.estimates import Interval
from emobench.analysis.stats.student import t_quantile
from emobench.analysis.stats.units import Floats

LEVEL = 0.95
RESAMPLES = 4_999
SEED = 20_261_121
TINY = 1e-12
"""Below this a variance is rounding, not variation."""


def standard_error(values: Floats) -> float:
    """Return the standard error of the mean of independent values; 0 below two of them."""
    return float(values.std(ddof=1) / sqrt(values.size)) if values.size > 1 else 0.0


def t_interval(
    mean: float,
    error: float,
    tasks: int,
    bounds: tuple[float, float] | None,
    level: float = LEVEL,
) -> Interval | None:
    """Return mean +- t(tasks - 1) * error within `bounds`; None below two tasks or without an
    error."""
    if tasks < 2 or error < TINY:
        return None
    width = t_quantile(tasks - 1, level) * error
    return _clip(mean - width, mean + width, bounds)


def score_interval(mean: float, error: float, tasks: int, episodes: float) -> Interval | None:
    """Return Wilson's interval at the sample size of independent episodes with this standard error.

    That size is mean (1 - mean) / error^2 and at most `episodes`. Where nothing varies it is the
    number of tasks, as if a task's trials were one. None below two tasks.
    """
    if tasks < 2:
        return None
    spread = mean * (1 - mean)
    size = float(tasks) if error < TINY or spread < TINY else min(spread / error**2, episodes)
    z = t_quantile(tasks - 1, LEVEL)
    scale = 1 + z * z / size
    centre = (mean + z * z / (2 * size)) / scale
    width = z * sqrt(max(spread, 0.0) / size + z * z / (4 * size * size)) / scale
    return _clip(centre - width, centre + width, (0.0, 1.0))


def bootstrap_interval(
    values: Floats, bounds: tuple[float, float] | None, *, seed: int = SEED
) -> Interval | None:
    """Return the symmetric bootstrap-t: mean +- error * quantile of |mean* - mean| / error*.

    None below two tasks, where nothing varies, and where more than 5 % of the resamples have no
    spread of their own: then too few tasks differ for the method.
    """
    if values.size < 2 or standard_error(values) < TINY:
        return None
    return bootstrap_intervals(values[:, None], bounds, seed=seed)[0]


def bootstrap_intervals(
    values: Floats, bounds: tuple[float, float] | None, *, seed: int = SEED
) -> list[Interval | None]:
    """Return `bootstrap_interval` of each column (tasks x statistics), all from the same
    resamples."""
    tasks = values.shape[0]
    if tasks < 2:
        return [None] * values.shape[1]
    halves = compute_half_widths(values, RESAMPLES, seed)
    varies = values.std(axis=0, ddof=1) / sqrt(tasks) >= TINY
    return [
        _clip(mean - half, mean + half, bounds) if some and np.isfinite(half) else None
        for mean, half, some in zip(
            values.mean(axis=0).tolist(), halves.tolist(), varies.tolist(), strict=True
        )
    ]


def compute_half_widths(values: Floats, resamples: int, seed: int) -> Floats:
    """Return half the symmetric bootstrap-t interval of each column (tasks x samples); infinite
    where it is undefined."""
    tasks = values.shape[0]
    centred = values - values.mean(axis=0)
    errors = np.sqrt((centred**2).sum(axis=0) / (tasks * (tasks - 1)))
    weights = draw_resampling_weights(tasks, resamples, seed)
    shifts = weights @ centred
    variances = np.maximum(weights @ centred**2 - shifts**2, 0.0) / (tasks - 1)
    spread = np.sqrt(variances)
    flat = spread <= TINY + 1e-7 * errors
    shifts = np.abs(shifts)
    ratios = np.divide(shifts, spread, out=np.full(shifts.shape, np.inf), where=~flat)
    ratios[flat & (shifts <= TINY + 1e-7 * errors)] = 0.0
    rank = int(np.ceil(LEVEL * (resamples + 1))) - 1
    return np.asarray(np.partition(ratios, rank, axis=0)[rank] * errors, dtype=np.float64)


@lru_cache(maxsize=8)
def draw_resampling_weights(tasks: int, resamples: int, seed: int) -> Floats:
    """Return how often each task is drawn in each resample, as a share (resamples x tasks)."""
    draws = np.random.default_rng([seed, tasks]).multinomial(
        tasks, np.full(tasks, 1 / tasks), size=resamples
    )
    weights: Floats = draws / tasks
    weights.setflags(write=False)
    return weights


def _clip(low: float, high: float, bounds: tuple[float, float] | None) -> Interval:
    if bounds is None:
        return Interval(low, high)
    return Interval(max(low, bounds[0]), min(high, bounds[1]))
