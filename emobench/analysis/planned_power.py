"""What a planned sweep, or a study with data, can detect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emobench.analysis.effects import list_placebos
from emobench.analysis.stats.power import ALPHA, POWER, PowerVerdict, WantedFrom, judge_power
from emobench.analysis.stats.task_model import Difficulty
from emobench.core.errors import InvalidInput, Problem
from emobench.core.gates import list_declared
from emobench.core.outcomes import Group
from emobench.core.plan import Plan, list_declared_gates
from emobench.core.sweep import Cell, Sweep

if TYPE_CHECKING:
    from emobench.analysis.stats.units import Arm


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
    cells, sweep, wanted_from = _read_design(source)
    pilot = pilot or (source if source.is_dir() else None)
    return judge_power(
        cells,
        sweep.gates.smallest_effect if drop is None else drop,
        wanted_from=wanted_from if drop is None else "command",
        alpha=alpha,
        power=power,
        difficulties=_read_difficulties(pilot) if pilot else None,
        placebos=list_placebos(sweep),
    )


def judge_planned_power(plan: Plan) -> PowerVerdict:
    """Return the power gate of a sweep before its data, with tasks as hard as published."""
    return judge_power(
        plan.cells,
        plan.sweep.gates.smallest_effect,
        wanted_from=tell_where_wanted(plan),
        placebos=list_placebos(plan.sweep),
    )


def judge_power_of_study(plan: Plan, arms: Mapping[Group, Mapping[str, Arm]]) -> PowerVerdict:
    """Return the power gate of a run: its planned design, with tasks as hard as its own control
    found them, group by group; as published, where no conversation of control is scored yet."""
    from emobench.analysis.stats.pilot import estimate_difficulties

    return judge_power(
        plan.cells,
        plan.sweep.gates.smallest_effect,
        wanted_from=tell_where_wanted(plan),
        difficulties=estimate_difficulties(arms),
        placebos=list_placebos(plan.sweep),
    )


def tell_where_wanted(plan: Plan) -> WantedFrom:
    """Return whether the smallest effect of interest stands in the sweep file or is the default."""
    return "sweep file" if "smallest_effect" in list_declared_gates(plan) else "default"


def _read_design(source: Path) -> tuple[Sequence[Cell], Sweep, WantedFrom]:
    """Return the cells and the sweep of a sweep file or of a run, and where its smallest effect of
    interest was said."""
    if source.is_dir():
        from emobench.config.current_plan import load_current_plan
        from emobench.core.run_dir import RunDir

        plan = load_current_plan(RunDir(source.resolve()))
        return plan.cells, plan.sweep, tell_where_wanted(plan)
    from emobench.config.expand import expand
    from emobench.config.load import load_sweep

    sweep = load_sweep(source)
    declared = "smallest_effect" in list_declared(sweep.gates)
    return expand(sweep), sweep, "sweep file" if declared else "default"


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
