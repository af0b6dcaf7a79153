"""What else a variant changes: outcomes, length, tokens, time. Descriptive and exploratory.

A longer conversation may be why an emotional user's task fails, and it may be a mere companion:
these are consequences of the variant, so no result is corrected for them or selected by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emobench.analysis.stats.units import KEYS, Sums
from emobench.core.outcomes import OUTCOMES, Group, Outcome

if TYPE_CHECKING:
    import pandas

MEDIATORS = {
    "steps": "agent steps",
    "turns": "turns",
    "tool_calls": "tool calls",
    "wall_s": "seconds",
    "user_prompt_tokens": "user's prompt tokens",
    "user_completion_tokens": "user's completion tokens",
    "assistant_prompt_tokens": "assistant's prompt tokens",
    "assistant_completion_tokens": "assistant's completion tokens",
    "cost": "cost",
}
"""Columns of the table of episodes, with what they hold, each a mean per conversation."""
SCORED_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome != Outcome.INFRA_ERROR)

Columns = dict[Group, dict[str, dict[str, Sums]]]
"""Sums over episodes by group, variant and column; tasks without an episode are left out."""


def sum_columns(frame: pandas.DataFrame, names: Sequence[str] = tuple(MEDIATORS)) -> Columns:
    """Return sums by unit of the columns that `frame` has, over scored episodes; and, under each
    outcome's name, how many of them had it."""
    reward = frame["reward"].to_numpy(dtype=np.float64, na_value=np.nan)
    scored = frame[np.isfinite(reward)]
    work = scored[list(KEYS)].copy()
    present = [name for name in names if name in frame.columns]
    for name in present:
        work[name] = scored[name].to_numpy(dtype=np.float64, na_value=np.nan)
    if "outcome" in frame.columns:
        outcome = scored["outcome"]
        for name in SCORED_OUTCOMES:
            work[name] = (outcome == name).to_numpy(dtype=np.float64)
        present += SCORED_OUTCOMES
    grouped = work.groupby(list(KEYS), observed=True, sort=True)[present]
    sums, counts = grouped.sum().reset_index(), grouped.count().reset_index()
    found: Columns = {}
    parts = sums.groupby([*Group._fields, "variant"], observed=True, sort=False).indices
    for key, places in parts.items():
        env, strategy, assistant, variant = (str(item) for item in key)
        tasks = sums["task_id"].to_numpy(np.int64)[places]
        columns_of = found.setdefault(Group(env, strategy, assistant), {}).setdefault(variant, {})
        for name in present:
            n = counts[name].to_numpy(np.int64)[places]
            total = sums[name].to_numpy(np.float64)[places]
            columns_of[name] = (tasks[n > 0], total[n > 0], n[n > 0])
    return found
