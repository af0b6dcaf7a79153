"""What a planned sweep, or a run like a pilot, can detect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emobench.analysis.stats.power import (
    ALPHA,
    POWER,
    Difficulty,
    PowerVerdict,
    judge_power,
)
from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import Group
from emobench.core.sweep import Cell


def assess_planned_power(
    source: Path,
    *,
    drop: float | None = None,
    pilot: Path | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> PowerVerdict:
    """Return what the design of a sweep file, or of a run directory, detects.

    `drop` is the one of interest, a share of 1; by default the source's own `smallest_effect`. The
    tasks are as hard as `pilot`, or the run itself, found them; else as published. Raises
    InvalidInput where the source cannot be read, or the pilot has no scored control.
    """
    cells, wanted = _read_design(source)
    pilot = pilot or (source if source.is_dir() else None)
    return judge_power(
        cells,
        wanted if drop is None else drop,
        alpha=alpha,
        power=power,
        difficulties=_read_difficulties(pilot) if pilot else None,
    )


def _read_design(source: Path) -> tuple[list[Cell], float]:
    """Return the cells of a sweep file or of a run, and the smallest effect of interest it
    declares."""
    if source.is_dir():
        from emobench.config.current_plan import load_current_plan
        from emobench.core.run_dir import RunDir

        plan = load_current_plan(RunDir(source.resolve()))
        return list(plan.cells), plan.sweep.gates.smallest_effect
    from emobench.config.expand import expand
    from emobench.config.load import load_sweep

    sweep = load_sweep(source)
    return expand(sweep), sweep.gates.smallest_effect


def _read_difficulties(pilot: Path) -> Mapping[Group, Difficulty]:
    """Return how hard a run found its tasks. Raises InvalidInput where it has no scored control."""
    from emobench.analysis.stats.pilot import estimate_difficulties
    from emobench.analysis.stats.units import count_by_task, split_arms
    from emobench.tables.table import load_tables

    found = estimate_difficulties(split_arms(count_by_task(load_tables(pilot).episodes)))
    if not found:
        raise InvalidInput(
            Problem(
                "no scored episode of control, so nothing says how hard the tasks are",
                file=str(pilot),
                hint="give the sweep file instead: published figures then stand in",
            )
        )
    return found
