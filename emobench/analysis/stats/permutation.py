"""Sign-flip permutation test of paired differences.

Under the null hypothesis that a task's two sides are exchangeable, its difference is as likely
with either sign. That holds exactly where both sides have the same number of trials, and nearly
where a few are missing. Fisher 1935 (Design of Experiments, section 21); the Monte Carlo p is
(b + 1) / (m + 1), Phipson and Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9), which never is 0.
"""

from __future__ import annotations

from functools import lru_cache
from math import erfc, pi, sqrt

import numpy as np

from emobench.analysis.stats.intervals import SEED
from emobench.analysis.stats.units import Flags, Floats, Ints

EXACT = 14
"""Differences other than 0 up to which all 2^n flips are looked at."""
EXACT_COUNTS = 24
"""The same in counts of differences, for which no list of flips is needed."""
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


def find_small_p(counts: Ints, alpha: float) -> Flags:
    """Return for each row whether its two-sided sign-flip p is at most `alpha`.

    A row says how many tasks differ by -k, ..., k successes, each under k trials. The p is exact
    where at most 24 tasks differ: the distribution of the sum is the Fourier inverse of the product
    of cosines. With more it is Edgeworth's, to the sixth cumulant, for a lattice of step 2.
    """
    trials = counts.shape[1] // 2
    sizes = np.arange(1, trials + 1, dtype=np.float64)
    moved = (counts[:, trials + 1 :] + counts[:, :trials][:, ::-1]).astype(np.float64)
    sums = np.abs((counts[:, trials + 1 :] - counts[:, :trials][:, ::-1]) @ sizes)
    few = moved.sum(axis=1) <= EXACT_COUNTS
    p = np.ones(len(counts))
    if few.any():
        p[few] = _invert_cosines(moved[few], sums[few].astype(np.int64), sizes)
    if not few.all():
        many, total = moved[~few], sums[~few]
        # Smeared evenly over their step of 2, sums of flips have a density.
        variance = many @ sizes**2 + 1 / 3
        fourth = (-2 * (many @ sizes**4) - 2 / 15) / variance**2
        sixth = (16 * (many @ sizes**6) + 16 / 63) / variance**3
        x = (total - 1) / np.sqrt(variance)
        normal = np.array([erfc(value / sqrt(2)) for value in x.tolist()])
        series = fourth / 24 * (x**3 - 3 * x) + sixth / 720 * (x**5 - 10 * x**3 + 15 * x)
        series += fourth**2 / 1152 * (x**7 - 21 * x**5 + 105 * x**3 - 105 * x)
        p[~few] = normal + 2 / sqrt(2 * pi) * np.exp(-(x**2) / 2) * series
    # Powers of two are exact; the inverse of a Fourier transform rounds.
    return np.asarray(p <= alpha + 1e-9, dtype=np.bool_)


def _invert_cosines(moved: Floats, sums: Ints, sizes: Floats) -> Floats:
    """Return P(|sum of flips| >= `sums`), exactly, for each row of counts by size."""
    most = int((moved @ sizes).max())
    if not most:
        return np.ones(len(moved))
    cosines = np.cos(np.outer(sizes, 2 * pi * np.arange(most + 1) / (2 * most + 1)))
    size = np.exp(moved @ np.log(np.maximum(np.abs(cosines), 1e-300)))
    sign = 1 - 2 * ((moved @ (cosines < 0)) % 2)
    chances = np.fft.irfft(size * sign, 2 * most + 1, axis=1)[:, : most + 1]
    above = chances[:, ::-1].cumsum(axis=1)[:, ::-1]
    return np.where(sums > 0, 2 * above[np.arange(len(sums)), sums], 1.0)
