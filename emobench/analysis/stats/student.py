"""Quantiles of Student's t for whole degrees of freedom, without scipy.

Finite series of Abramowitz and Stegun 26.7.3 and 26.7.4, inverted by bisection.
"""

from __future__ import annotations

from functools import lru_cache
from math import atan, cos, pi, sin, sqrt


def two_sided(t: float, df: int) -> float:
    """Return P(|T| < t) for t >= 0 and df >= 1."""
    theta = atan(t / sqrt(df))
    cosine = cos(theta)
    odd = df % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, df - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    series = sin(theta) * total
    return 2 / pi * (theta + series) if odd else series


@lru_cache(maxsize=1024)
def t_quantile(df: int, level: float = 0.95) -> float:
    """Return the t with P(|T| < t) = level. Raises ValueError outside df >= 1, 0 < level < 1."""
    if df < 1 or not 0 < level < 1:
        raise ValueError(f"no quantile for df={df}, level={level}")
    low, high = 0.0, 1.0
    while two_sided(high, df) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if two_sided(middle, df) < level:
            low = middle
        else:
            high = middle
    return high
