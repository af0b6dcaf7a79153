"""Sign-flip permutation test of paired differences.

Under the null hypothesis that a task's two sides are exchangeable, its difference is as likely
with either sign. That holds exactly where both sides have the same number of trials, and nearly
where a few are missing. Fisher 1935 (Design of Experiments, section 21); the Monte Carlo p is
(b + 1) / (m + 1), Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9), which never is 0.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from emobench.analysis.intervals import SEED
from emobench.analysis.units import Floats

EXACT = 14
"""Differences other than 0 up to which all 2^n flips are looked at."""
DRAWS = 19_999


def sign_flip(differences: Floats, *, seed: int = SEED) -> tuple[float | None, str]:
    """Two-sided p of the mean difference, and how it was found. None without a difference."""
    if not differences.size:
        return None, ""
    moved = differences[differences != 0]
    if moved.size <= EXACT:
        signs, exact = all_signs(int(moved.size)), True
        sums = np.abs(signs @ moved)
    else:
        # Zeros do not matter, so all contrasts over the same tasks share one set of draws.
        signs, exact = random_signs(int(differences.size), DRAWS, seed), False
        sums = np.abs(signs @ differences)
    # Sums that are equal on paper differ by rounding here.
    slack = 1e-9 * float(np.abs(differences).sum())
    extreme = int((sums >= abs(differences.sum()) - slack).sum())
    if exact:
        return extreme / len(signs), f"exact, {2 ** int(moved.size)} sign flips"
    return (extreme + 1) / (DRAWS + 1), f"{DRAWS} random sign flips"


@lru_cache(maxsize=16)
def all_signs(count: int) -> Floats:
    """The flips of `count` differences up to a common sign, which does not change |sum|."""
    rows = np.arange(2 ** max(count - 1, 0))
    bits = (rows[:, None] >> np.arange(count)[None, :]) & 1
    signs = np.where(bits == 1, -1.0, 1.0)
    signs.setflags(write=False)
    return signs


@lru_cache(maxsize=4)
def random_signs(tasks: int, draws: int, seed: int) -> Floats:
    bits = np.random.default_rng([seed, tasks, 1]).integers(0, 2, (draws, tasks), dtype=np.int8)
    signs = (2 * bits - 1).astype(np.float64)
    signs.setflags(write=False)
    return signs
