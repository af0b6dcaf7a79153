"""The numbers of the terminal's table, by variant over all groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emobench.analysis.stats.metrics import (
    Difference,
    MeanReward,
    PassK,
    by_variant,
    difference,
    mean_reward,
    outcome_counts,
    pass_hat_k,
)
from emobench.core.outcomes import CONTROL, Group, Observation, Outcome
from emobench.core.sweep import Cell
from emobench.tables.run_results import Collected


@dataclass(frozen=True)
class VariantRow:
    """One variant's results within a group of cells, or over all of them."""

    variant: str
    planned: int
    """Episodes of the plan."""
    mean: MeanReward
    passes: tuple[PassK, ...]
    difference: Difference | None
    """From control; None for control itself and where there is none."""
    outcomes: dict[str, int]

    @property
    def infra_errors(self) -> int:
        return self.outcomes[Outcome.INFRA_ERROR]


def variants_of(cells: Sequence[Cell]) -> list[str]:
    """In the order of the plan, control first."""
    names = list(dict.fromkeys(cell.variant for cell in cells))
    return sorted(names, key=lambda name: name != CONTROL)


def ks_of(trials: int) -> list[int]:
    """The k of pass^k that are shown: 1 to 4, then powers of two, then all trials."""
    return sorted({k for k in (1, 2, 3, 4, 8, 16, 32) if k <= trials} | {trials})


def variant_rows(collected: Collected, group: Group | None = None) -> list[VariantRow]:
    """One row a variant, over the cells of `group` or over all."""
    cells = [result.cell for result in collected.cells]
    observations = collected.observations()
    if group is not None:
        cells = [cell for cell in cells if cell.group == group]
        observations = [item for item in observations if item.group == group]
    variants = variants_of(cells)
    parts = by_variant(observations, variants)
    planned = dict.fromkeys(variants, 0)
    for cell in cells:
        planned[cell.variant] += len(cell.tasks)
    ks = ks_of(collected.plan.sweep.trials)
    control = parts.get(CONTROL)
    return [_row(name, planned[name], parts[name], control, ks) for name in variants]


def _row(
    variant: str,
    planned: int,
    observations: list[Observation],
    control: list[Observation] | None,
    ks: Sequence[int],
) -> VariantRow:
    compared = control is not None and variant != CONTROL
    return VariantRow(
        variant=variant,
        planned=planned,
        mean=mean_reward(observations),
        passes=tuple(pass_hat_k(observations, k) for k in ks),
        difference=difference(observations, control or []) if compared else None,
        outcomes=outcome_counts(observations),
    )
