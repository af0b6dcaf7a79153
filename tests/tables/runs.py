"""Run directories with the episodes that real runs would give them: hashes that follow from the
content, and prompts by variant and task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emobench.config.identity import cell_content, content_hash
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.tables.collection import Request, collect_into
from tests.report.factory import append, episode, make_run


def real_episode(run_dir: RunDir, cell: Cell, task: int, outcome: str, **changed: Any) -> Any:
    plan = load_plan(run_dir)
    prompt = f"{plan.sweep.user_strategy} {cell.env} {cell.variant} {task}"
    line = episode(cell, task, outcome, messages=6, **changed)
    line["episode"] = content_hash(cell_content(plan.sweep, cell, plan.benchmark), task)
    line["user_prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest()
    line["variant_sha256"] = plan.sweep.variants[cell.variant].sha256
    return line


def full_run(path: Path, **options: Any) -> RunDir:
    """A run in which every third episode failed and the last task of a cell has no result."""
    run_dir = make_run(path, **{"variants": ("control", "anger"), "tasks": 4, **options})
    for cell in load_plan(run_dir).cells:
        last = len(cell.tasks) - 1
        lines = [
            real_episode(
                run_dir,
                cell,
                task,
                "infra_error"
                if place == last
                else ("failed" if (place + cell.trial) % 3 == 0 else "solved"),
            )
            for place, task in enumerate(cell.tasks)
        ]
        append(run_dir, cell, lines)
    return run_dir


def change_sweep(run_dir: RunDir, **changed: Any) -> None:
    """Make the plan one of another sweep."""
    plan = load_plan(run_dir)
    save_plan(run_dir, plan.model_copy(update={"sweep": plan.sweep.model_copy(update=changed)}))


def change_plan(run_dir: RunDir, **changed: Any) -> None:
    save_plan(run_dir, load_plan(run_dir).model_copy(update=changed))


def rewrite(run_dir: RunDir, cells: Sequence[int], **changed: Any) -> None:
    """Change every record of some cells."""
    for number in cells:
        path = run_dir.cell(number).episodes
        records = [{**json.loads(line), **changed} for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))


def collected(folder: Path, *run_dirs: RunDir, **options: Any) -> dict[str, Any]:
    paths = tuple(run_dir.path for run_dir in run_dirs)
    return collect_into(Request(paths, (), None, folder, **options))


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}
