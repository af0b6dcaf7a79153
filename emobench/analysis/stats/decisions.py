"""What a family of comparisons lets be said of each: an effect, or what is excluded where none is.

Whether there is an effect is decided by Holm on the sign-flip p's. Without one there are three
things to say: the effect is smaller than the margin (two one-sided tests, Schuirmann 1987, J.
Pharmacokinet. Biopharm. 15, by Student's t, adjusted by Holm over the same family); its own
interval is clear of 0, but the family's adjustment leaves no claim; or which drops and gains the
data are compatible with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emobench.analysis.stats.estimates import Decision, Difference, Interval, Statement
from emobench.analysis.stats.intervals import LEVEL, TINY, t_interval
from emobench.analysis.stats.multiplicity import holm
from emobench.analysis.stats.paired import REWARD_BOUNDS
from emobench.analysis.stats.student import two_sided

ALPHA = 1 - LEVEL


def decide(found: Sequence[Difference], margin: float, what: str) -> list[Decision]:
    """Return what may be said of each difference in mean reward, all of one family.

    `what` counts the family in words, '4 variants'; `margin` is the smallest effect of interest, a
    share of 1. A difference without data counts in the family, as by `holm`.
    """
    adjusted = holm([each.p_permutation for each in found])
    equivalence = holm([equivalence_p(each, margin) for each in found])
    decisions = []
    for each, p, p_equivalence in zip(found, adjusted, equivalence, strict=True):
        interval = simultaneous_interval(each, len(found), p)
        statement = _choose_statement(each, p, p_equivalence)
        family = f"Holm over {what}"
        decisions.append(Decision(statement, p, family, interval, p_equivalence, margin))
    return decisions


def adjust(found: Difference, decision: Decision) -> Difference:
    """Return the difference with the p-value of its family."""
    return replace(found, p_adjusted=decision.p_adjusted, adjustment=decision.family)


def equivalence_p(found: Difference, margin: float) -> float | None:
    """Return the larger p of the two one-sided t tests against -margin and +margin; None where no
    error is known."""
    if found.value is None or not found.error or found.error < TINY:
        return None
    # The nearer bound has the larger p.
    t = (margin - abs(found.value)) / found.error
    tail = max(0.0, 1 - two_sided(abs(t), found.tasks - 1)) / 2
    return tail if t >= 0 else 1 - tail


def simultaneous_interval(
    found: Difference, family: int, p_adjusted: float | None
) -> Interval | None:
    """Return the interval that holds with 95 % for all of a family at once (Bonferroni, Student t).

    Holm claims more than Bonferroni, and sign flips are no t test; so the interval ends just short
    of 0 where Holm claims an effect, and reaches 0 where it does not.
    """
    if found.value is None or found.error is None:
        return None
    level = 1 - ALPHA / family
    interval = t_interval(found.value, found.error, found.tasks, REWARD_BOUNDS, level)
    if interval is None or p_adjusted is None:
        return interval
    low, high = interval.low, interval.high
    if p_adjusted >= ALPHA:
        return Interval(min(low, 0.0), max(high, 0.0))
    return Interval(low, min(high, -TINY)) if found.value < 0 else Interval(max(low, TINY), high)


def _choose_statement(
    found: Difference, p_adjusted: float | None, p_equivalence: float | None
) -> Statement:
    if found.value is None:
        return "unknown"
    if p_adjusted is not None and p_adjusted < ALPHA:
        return "lower" if found.value < 0 else "higher"
    if p_equivalence is not None and p_equivalence < ALPHA:
        return "equivalent"
    if found.t is None:
        return "unknown"
    return "compatible" if found.t.low <= 0 <= found.t.high else "unadjusted"
