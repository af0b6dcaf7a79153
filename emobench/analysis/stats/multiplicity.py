"""Adjusted p-values: Holm for the variants of a group, Benjamini-Hochberg for exploration."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm 1979 (Scand. J. Statist. 6): controls the chance of any false claim.

    None counts in the family as a p of 1: a variant without data must not ease the others' test.
    """
    family = len(p_values)
    order = _sort_ascending(p_values)
    adjusted: list[float | None] = [None] * family
    worst = 0.0
    for rank, (p, index) in enumerate(order):
        worst = max(worst, min(1.0, (family - rank) * p))
        adjusted[index] = worst
    return adjusted


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Benjamini and Hochberg 1995 (J. R. Stat. Soc. B 57): controls the share of
    false claims.

    For tables labelled exploratory only. None counts in the family as a p of 1.
    """
    family = len(p_values)
    order = _sort_ascending(p_values)
    adjusted: list[float | None] = [None] * family
    best = 1.0
    for rank in range(len(order), 0, -1):
        p, index = order[rank - 1]
        best = min(best, p * family / rank)
        adjusted[index] = best
    return adjusted


def _sort_ascending(p_values: Sequence[float | None]) -> list[tuple[float, int]]:
    for p in p_values:
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, not at {p}")
    return sorted((p, index) for index, p in enumerate(p_values) if p is not None)
