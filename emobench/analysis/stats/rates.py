"""Rates of rare things: Wilson's interval for independent trials, and the outcomes of a variant.

Trials of a task are correlated, so the outcomes' intervals are Wilson's at the effective sample
size (`intervals.score_interval`). The plain one is for counts where each trial stands alone.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from emobench.analysis.stats.estimates import FEW, FEW_TASKS, Mean
from emobench.analysis.stats.intervals import LEVEL
from emobench.analysis.stats.means import mean_over_episodes
from emobench.analysis.stats.metrics import Interval
from emobench.analysis.stats.units import Floats, Ints

FEW_EVENTS = f"fewer than {FEW} events"


def wilson(events: int, n: int, level: float = LEVEL) -> Interval | None:
    """Wilson's score interval (J. Amer. Statist. Assoc. 22, 1927) of a rate; None for n = 0.

    Raises ValueError unless 0 <= events <= n.
    """
    if not 0 <= events <= n:
        raise ValueError(f"no rate of {events} events in {n} trials")
    if not n:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = events / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    width = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # At the ends the exact bound is 0 or 1; rounding must not move it.
    return Interval(
        0.0 if events == 0 else max(0.0, centre - width),
        1.0 if events == n else min(1.0, centre + width),
    )


def outcome_rate(what: str, events: Floats, n: Ints) -> Mean:
    """The share of episodes with an outcome, from the counts by task (n > 0)."""
    found = mean_over_episodes(
        what,
        events,
        n,
        with_success=int((events > 0).sum()),
        with_failure=int((events < n).sum()),
    )
    notes = [FEW_TASKS] if found.tasks < FEW else []
    if found.episodes and min(events.sum(), found.episodes - events.sum()) < FEW:
        notes.append(FEW_EVENTS)
    return Mean(**{**vars(found), "notes": tuple(notes)})
