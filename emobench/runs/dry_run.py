"""What a submission would do, and what it would change, without doing or changing it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emobench.config.free_settings import describe_changes
from emobench.config.identity import find_differing_keys
from emobench.config.templates import list_template_dirs
from emobench.core.errors import InvalidInput
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.forecast import forecast_plan
from emobench.runs.submission import (
    Todo,
    check_keys,
    check_limits,
    collect_settings,
    decide,
    list_not_taken,
    read_standing_plan,
    write_files,
)
from emobench.scheduler.render import render
from emobench.scheduler.schedulers import SCHEDULERS, Schedulers
from emobench.serving.budget import refuse_if_spent
from emobench.store.forecast import Forecast
from emobench.store.jobs import JobRecord, read_jobs


@dataclass(frozen=True)
class ScriptChange:
    """A script that would not stay as it stands in the run directory."""

    name: str
    what: str
    """new, gone, or changed."""
    lines: Sequence[str] = ()
    """Of a changed one: the lines that go, with '-' before them, and those that come, with '+'."""


@dataclass(frozen=True)
class DryRun:
    """What a submission would do now."""

    paths: Sequence[Path]
    """The plan and the scripts that were written, outside of the run directory."""
    todo: Todo
    unrecorded: Sequence[JobRecord]
    """Jobs of the run in the queue that nobody recorded; they would be."""
    refusal: str
    """Why nothing would be submitted at all; empty: nothing is known that speaks against it."""
    warnings: Sequence[str]
    """How the site's limits would make it slower."""
    changes: Sequence[str]
    """Of the plan that stands, in words; none where there is no plan."""
    not_taken: Sequence[str]
    """Changes of the sweep that would not hold for the jobs in the queue."""
    scripts: Sequence[ScriptChange]
    """Against those that stand; none where there are none."""
    forecast: Forecast
    """What the cells that are not done take."""


def rehearse(plan: Plan, run_dir: RunDir, out: Path, schedulers: Schedulers = SCHEDULERS) -> DryRun:
    """Write the plan and the scripts of a submission into `out`, and say what it would do.

    The scripts are byte for byte those that would be submitted. Raises InvalidInput where they
    cannot be rendered, and OSError.
    """
    texts = render(plan, run_dir, list_template_dirs())
    copy = RunDir(out)
    copy.scripts.mkdir(parents=True, exist_ok=True)
    save_plan(copy, plan)
    paths = [copy.plan, *write_files(texts, copy.scripts)]
    recorded = read_jobs(run_dir)
    unrecorded = schedulers.find_unrecorded(plan, run_dir, recorded)
    todo = decide(plan, run_dir, [*recorded, *unrecorded], schedulers)
    refusal = ""
    warnings: list[str] = []
    try:
        check_keys(plan, run_dir)
        if todo.missing_count or todo.live_count:
            refuse_if_spent(plan, run_dir)
        if todo.submits:
            check_limits(plan, run_dir, todo, warnings.append, schedulers)
    except InvalidInput as error:
        refusal = str(error)
    old = read_standing_plan(run_dir) or plan
    submits = todo.submits
    return DryRun(
        paths=paths,
        todo=todo,
        unrecorded=unrecorded,
        refusal=refusal,
        warnings=warnings,
        changes=_list_plan_changes(old, plan)
        if submits
        else describe_changes(old.sweep, plan.sweep),
        not_taken=[] if submits else list_not_taken(plan, old),
        scripts=_list_script_changes(run_dir, texts) if submits else [],
        forecast=forecast_plan(plan, run_dir),
    )


def _list_plan_changes(old: Plan, new: Plan) -> list[str]:
    lines = find_differing_keys(collect_settings(old), collect_settings(new))
    before, after = ({cell.key for cell in plan.cells} for plan in (old, new))
    for cells, word in ((after - before, "new"), (before - after, "gone")):
        if cells:
            lines.append(f"cells: {len(cells)} {word}")
    return lines


def _list_script_changes(run_dir: RunDir, texts: Mapping[str, str]) -> list[ScriptChange]:
    standing = {path.name: path for path in run_dir.scripts.glob("*") if path.is_file()}
    if not standing:
        return []
    changes = [ScriptChange(name, "new") for name in texts if name not in standing]
    for name, path in sorted(standing.items()):
        if name not in texts:
            changes.append(ScriptChange(name, "gone"))
            continue
        before = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if before != texts[name].splitlines():
            diff = list(difflib.unified_diff(before, texts[name].splitlines(), n=0, lineterm=""))
            lines = [line for line in diff[2:] if not line.startswith("@@")]
            changes.append(ScriptChange(name, "changed", lines))
    return changes
