"""Sign-flip permutation test of paired differences.

Under the null hypothesis that a task's two sides are exchangeable, its difference is as likely
with either sign. That holds exactly where both sides have the same number of trials, and nearly
where a few are missing. Fisher 1935 (Design of Experiments, section 21); the Monte Carlo p is
(b + 1) / (m + 1), Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9), which never is 0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from emobench.analysis.stats.intervals import SEED
from emobench.analysis.stats.units import Floats

EXACT = 14
"""Differences other than 0 up to which all 2^n flips are looked at."""
DRAWS = 9_999


def sign_flip(differences: Floats, *, seed: int = SEED) -> tuple[float | None, str]:
    """Return two-sided p of the mean difference, and how it was found. None without a
    difference."""
    if not differences.size:
        return None, ""
    moved = differences[differences != 0]
    if moved.size <= EXACT:
        flips = 2 ** int(moved.size)
        return float(exact_p(moved[:, None])[0]), f"exact, {flips} sign flip{'s' * (flips > 1)}"
    # Zeros do not matter, so all contrasts over the same tasks share one set of draws.
    return float(random_p(differences[:, None], seed)[0]), f"{DRAWS} random sign flips"


def exact_p(differences: Floats) -> Floats:
    """Return p by all sign flips, for each column (tasks x samples)."""
    signs = enumerate_signs(differences.shape[0])
    return _count_extreme(signs, differences) / len(signs)


def random_p(differences: Floats, seed: int = SEED) -> Floats:
    """Return p by random sign flips, for each column (tasks x samples)."""
    signs = draw_signs(differences.shape[0], DRAWS, seed)
    return (_count_extreme(signs, differences) + 1) / (DRAWS + 1)


def _count_extreme(signs: Floats, differences: Floats) -> Floats:
    """Return how many flips have a sum at least as far from 0 as the differences' own."""
    # Sums that are equal on paper differ by rounding here.
    slack = 1e-9 * np.abs(differences).sum(axis=0)
    limit = np.abs(differences.sum(axis=0)) - slack
    counts = (np.abs(signs @ differences) >= limit).sum(axis=0)
    return np.asarray(counts, dtype=np.float64)


@lru_cache(maxsize=16)
def enumerate_signs(count: int) -> Floats:
    """Return the flips of `count` differences up to a common sign, which does not change |sum|."""
    rows = np.arange(2 ** max(count - 1, 0))
    bits = (rows[:, None] >> np.arange(count)[None, :]) & 1
    signs = np.where(bits == 1, -1.0, 1.0)
    signs.setflags(write=False)
    return signs


@lru_cache(maxsize=4)
def draw_signs(tasks: int, draws: int, seed: int) -> Floats:
    """Return `draws` random flips of each task's sign (draws x tasks)."""
    bits = np.random.default_rng([seed, tasks, 1]).integers(0, 2, (draws, tasks), dtype=np.int8)
    signs = (2 * bits - 1).astype(np.float64)
    signs.setflags(write=False)
    return signs
