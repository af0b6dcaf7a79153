"""Each variant over all groups of a run together: what the terminal's table shows.

A task that several groups share is one cluster, and its difference from control is the mean of the
groups' differences. With one group the numbers are those of the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emobench.analysis.effects import list_placebos, pool_groups
from emobench.analysis.stats.estimates import Decision, Difference, Mean, PassK
from emobench.analysis.stats.lost_attempts import fail_losses
from emobench.analysis.stats.means import mean_reward
from emobench.analysis.stats.paired import variant_difference
from emobench.analysis.stats.pass_k import pass_k_curve, pass_k_difference
from emobench.analysis.stats.units import count_by_task, make_frame, split_arms, stack
from emobench.core.outcomes import CONTROL
from emobench.core.sweep import Cell
from emobench.tables.run_results import Collected


@dataclass(frozen=True)
class VariantRow:
    """One variant's results over all groups."""

    variant: str
    planned: int
    """Episodes of the plan."""
    scored: int
    lost: int
    """First attempts that gave no result that counts."""
    missing: int
    """Planned episodes without a reward: infrastructure errors, and those that are not there."""
    mean: Mean
    """On the tasks that the difference is over; on all of its own where there is none."""
    baseline_mean: Mean | None
    """Control's on the same tasks."""
    passes: tuple[PassK, ...]
    difference: Difference | None
    """From control; None for control itself and where there is none."""
    decision: Decision | None
    failed: Difference | None
    """The difference with lost first attempts as failures."""
    pass_differences: tuple[Difference, ...] = ()
    """From control in pass^k, for each k of `passes` from 2 on."""


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
    frame = make_frame(collected.list_observations())
    groups = split_arms(count_by_task(frame, cells))
    failed = split_arms(count_by_task(fail_losses(frame), cells))
    planned: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for result in collected.cells:
        planned[result.cell.variant] += result.expected
        lost[result.cell.variant] += result.lost_attempts
    sweep = collected.plan.sweep
    names = [name for name in list_variants(cells) if name != CONTROL]
    found = pool_groups(groups, CONTROL, names, sweep.gates.smallest_effect, list_placebos(sweep))
    compared = {each.variant: each for each in found}
    rows = []
    for name in list_variants(cells):
        stacked = stack((key, group[name]) for key, group in groups.items() if name in group)
        own = mean_reward(f"mean reward, {name}", stacked)
        difference = as_failures = means = decision = None
        if name in compared:
            pooled = compared[name]
            difference, decision = pooled.difference, pooled.decision
            means = (pooled.paired_mean, pooled.baseline_mean) if difference.tasks else None
            as_failures = variant_difference(failed, name, CONTROL, tests=False)
        rows.append(
            VariantRow(
                variant=name,
                planned=planned[name],
                scored=own.episodes,
                lost=lost[name],
                missing=own.missing,
                mean=means[0] if means else own,
                baseline_mean=means[1] if means else None,
                passes=pass_k_curve(name, stacked.successes, stacked.n, ks, stacked.tasks),
                difference=difference,
                decision=decision,
                pass_differences=tuple(
                    pass_k_difference(groups, name, CONTROL, k)
                    for k in ks
                    if k > 1 and name in compared
                ),
                failed=as_failures,
            )
        )
    return rows
