"""First attempts without a result, whose place a rerun took or will take.

A rerun is one more draw of the same conversation. Where failing conversations are lost more often
than others (long ones that meet a time-out), what is left has been chosen by how it went, and the
effect shrinks unseen. So what was lost first is counted by variant and compared, and the difference
is computed again with each first attempt that was lost as a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emobench.analysis.stats.units import Flags

if TYPE_CHECKING:
    import pandas


def mark_lost(frame: pandas.DataFrame) -> Flags:
    """Return which episodes of a table had a first attempt without a result that counts: it met an
    infrastructure error, or `emobench rerun` set it aside."""
    lost: Flags = ~np.isfinite(frame["reward"].to_numpy(np.float64))
    if "attempt" in frame:
        lost |= frame["attempt"].to_numpy(np.int64) > 1
    return lost


def count_losses(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table with 1 as the reward of an episode whose first attempt was lost, else 0: its
    means are shares of first attempts."""
    return frame.assign(reward=mark_lost(frame).astype(np.float64))


def fail_losses(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Return the table with reward 0 for each episode whose first attempt was lost."""
    return frame.assign(reward=frame["reward"].mask(mark_lost(frame), 0.0))
