"""A run's plan with the settings of the analysis as its sweep file says them now."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from emobench.config.earlier_defaults import keep_earlier_defaults
from emobench.config.expand import expand
from emobench.config.free_settings import ANALYSIS, select_free_values, take_free_settings
from emobench.config.identity import collect_cell_content, find_differing_keys
from emobench.core.errors import InvalidInput
from emobench.core.gates import list_declared
from emobench.core.plan import Plan, load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep


def load_current_plan(run_dir: RunDir) -> Plan:
    """Return the plan of a run with `ANALYSIS` as its sweep file says it now, and in its
    `settings_changed` what differs from the submission.

    Where the file is gone the plan is as it was submitted; where it cannot be read, or describes
    another study by now, `settings_changed` says so as well. Raises InvalidInput without a plan.
    """
    plan = load_plan(run_dir)
    file = Path(plan.sweep_file)
    if not plan.sweep_file or not file.is_file():
        return plan
    from emobench.config.load import load_sweep

    name = "/".join(file.parts[-2:])

    def keep(why: str) -> Plan:
        note = f"{name} {why}: gates, judge and judged_as are those of the last submission"
        return plan.model_copy(update={"settings_changed": (note,)})

    try:
        sweep = load_sweep(file, cluster=plan.sweep.cluster)
        written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    except (InvalidInput, OSError):
        return keep("cannot be read now (`emobench sweep --dry-run` says why)")
    sweep = keep_earlier_defaults(sweep, plan.sweep)
    if not _is_same_study(plan, sweep):
        return keep("describes another study now")
    taken = take_free_settings(plan.sweep, sweep, ANALYSIS)
    before, after = (select_free_values(each, ANALYSIS) for each in (plan.sweep, taken))
    changes = tuple(f"{line} ({name})" for line in find_differing_keys(before, after))
    update: dict[str, object] = {
        "sweep": taken,
        "settings_changed": changes,
        "gates_declared": list_declared(sweep.gates),
    }
    if taken.gates != plan.sweep.gates and _has_results(plan, run_dir):
        update["gates_changed"] = written.isoformat(timespec="seconds")
    return plan.model_copy(update=update)


def _is_same_study(plan: Plan, sweep: Sweep) -> bool:
    """Return whether each planned cell is still in the sweep, with the content that it had."""
    wanted = {cell.key: cell for cell in expand(sweep)}
    kinds = {cell.key[:-1]: cell for cell in plan.cells}
    return (
        sweep.name == plan.sweep.name
        and all(
            (new := wanted.get(cell.key)) is not None and set(cell.tasks) <= set(new.tasks)
            for cell in plan.cells
        )
        and all(
            collect_cell_content(plan.sweep, cell, "") == collect_cell_content(sweep, cell, "")
            for cell in kinds.values()
        )
    )


def _has_results(plan: Plan, run_dir: RunDir) -> bool:
    return any(run_dir.cell(cell.number).episodes.exists() for cell in plan.cells)
