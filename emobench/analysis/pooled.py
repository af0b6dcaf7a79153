"""Each variant over all groups of a run together: what the terminal's table shows.

A task that several groups share is one cluster, and its difference from control is the mean of the
groups' differences. With one group the numbers are those of the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from emobench.analysis.stats.estimates import Difference, Mean, PassK, describe_size
from emobench.analysis.stats.means import CLUSTERED, mean_reward
from emobench.analysis.stats.paired import paired_difference
from emobench.analysis.stats.pass_k import pass_k_curve
from emobench.analysis.stats.units import (
    Arm,
    count_by_task,
    make_frame,
    pool,
    split_arms,
    stack,
    subtract_by_task,
)
from emobench.core.outcomes import CONTROL, Group, Outcome
from emobench.core.sweep import Cell
from emobench.tables.run_results import Collected


@dataclass(frozen=True)
class VariantRow:
    """One variant's results over all groups."""

    variant: str
    planned: int
    """Episodes of the plan."""
    mean: Mean
    passes: tuple[PassK, ...]
    difference: Difference | None
    """From control, without p-values; None for control itself and where there is none."""
    infra_errors: int


def list_variants(cells: Iterable[Cell]) -> list[str]:
    """Return the variants in the order of the plan, control first."""
    names = dict.fromkeys(cell.variant for cell in cells)
    return sorted(names, key=lambda name: name != CONTROL)


def choose_ks(trials: int) -> list[int]:
    """Return the k of pass^k that are shown: 1 to 4, then powers of two, then all trials."""
    return sorted({k for k in (1, 2, 3, 4, 8, 16, 32) if k <= trials} | {trials})


def build_variant_rows(collected: Collected, ks: Sequence[int]) -> list[VariantRow]:
    """Return one row a variant."""
    cells = [result.cell for result in collected.cells]
    observations = collected.list_observations()
    groups = split_arms(count_by_task(make_frame(observations), cells))
    planned: Counter[str] = Counter()
    for cell in cells:
        planned[cell.variant] += len(cell.tasks)
    errors = Counter(each.variant for each in observations if each.outcome == Outcome.INFRA_ERROR)
    names = list_variants(cells)
    parts = {
        name: [(key, group[name]) for key, group in groups.items() if name in group]
        for name in names
    }
    rows = []
    for name in names:
        stacked = stack(parts[name])
        rows.append(
            VariantRow(
                variant=name,
                planned=planned[name],
                mean=mean_reward(f"mean reward, {name}", pool(stacked)),
                passes=pass_k_curve(name, stacked.successes, stacked.n, ks, stacked.tasks),
                difference=_compute_difference(name, parts[name], parts[CONTROL])
                if name != CONTROL and CONTROL in parts
                else None,
                infra_errors=errors[name],
            )
        )
    return rows


def _compute_difference(
    name: str, treated: Sequence[tuple[Group, Arm]], control: Sequence[tuple[Group, Arm]]
) -> Difference:
    gaps, left_out = subtract_by_task(_compute_means(treated), _compute_means(control))
    trials = [count for _, arm in (*treated, *control) for count in arm.n.tolist()]
    return paired_difference(
        f"difference in mean reward, {name} minus {CONTROL}, {describe_size(gaps.size, trials)}, "
        f"{CLUSTERED}",
        gaps,
        left_out=left_out,
        bootstrap=False,
        tests=False,
    )


def _compute_means(parts: Sequence[tuple[Group, Arm]]) -> dict[tuple[Group, int], float]:
    return {
        (group, task): mean
        for group, arm in parts
        for task, mean in zip(arm.tasks.tolist(), arm.means.tolist(), strict=True)
        if np.isfinite(mean)
    }
