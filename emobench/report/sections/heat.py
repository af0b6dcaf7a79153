"""Tasks by variants: where an effect comes from."""

from __future__ import annotations

import math

from emobench.analysis.findings import GroupFinding
from emobench.analysis.stats.units import Arm
from emobench.report.blocks import Cell, Remark, Scalar, Section, Table, heads
from emobench.report.figures.heatmap import Tile, heatmap
from emobench.report.numbers import rate
from emobench.report.sections.common import keys_of, title_of
from emobench.report.study import Study

TITLE = "Tasks"


def heat_section(study: Study, group: GroupFinding, prefix: str) -> Section:
    """A tile a task and variant, the tasks from easy to hard under control."""
    identifier = f"{prefix}tasks"
    arms = study.arms.get(group.key, {})
    variants = [each.variant for each in group.variants if each.variant in arms]
    if not any(int(arms[name].n.sum()) for name in variants):
        return Section(identifier, TITLE, (Remark("No task has a scored trial yet."),))
    by_task = {name: _by_task(arms[name]) for name in variants}
    order = _order(by_task, group.baseline)
    rows = [
        (name, [_tile(name, task, by_task[name].get(task)) for task in order]) for name in variants
    ]
    sorted_by = group.baseline if group.baseline in by_task else "all variants"
    figure = heatmap(
        f"{prefix}tasks",
        f"Mean reward of each task by variant, {title_of(group)}",
        rows,
        [str(task) for task in order],
        axis=f"task, from easy to hard with {sorted_by}",
        caption=f"Mean reward of each task by variant, {title_of(group)}; tasks in the order of "
        f"their mean reward with {sorted_by}. A stroke marks tasks without a scored trial.",
        legend="mean reward of the task's scored trials",
    )
    table = Table(
        f"{prefix}tasks",
        f"Mean reward and scored trials of each task by variant, {title_of(group)}.",
        heads("Task", *variants),
        tuple(
            (Cell(str(task)), *(_cell(by_task[name].get(task)) for name in variants))
            for task in order
        ),
        records=tuple(
            _record(group, name, task, found)
            for name in variants
            for task in order
            if (found := by_task[name].get(task)) is not None
        ),
        folded=True,
        of=figure.name,
    )
    return Section(identifier, TITLE, (figure, table))


_Found = tuple[float, int, int, int]
"""(mean reward, scored trials, successes, missing)."""


def _by_task(arm: Arm) -> dict[int, _Found]:
    columns = (arm.means, arm.n, arm.successes, arm.missing)
    lists = [column.tolist() for column in columns]
    return dict(zip(arm.tasks.tolist(), zip(*lists, strict=True), strict=True))


def _order(by_task: dict[str, dict[int, _Found]], baseline: str) -> list[int]:
    tasks = sorted({task for found in by_task.values() for task in found})

    def ease(task: int) -> tuple[float, float, int]:
        own = by_task.get(baseline, {}).get(task)
        means = [found[task][0] for found in by_task.values() if task in found]
        known = [value for value in means if not math.isnan(value)]
        overall = sum(known) / len(known) if known else -1.0
        base = own[0] if own and not math.isnan(own[0]) else (-1.0 if own else overall)
        return (-base, -overall, task)

    return sorted(tasks, key=ease)


def _tile(variant: str, task: int, found: _Found | None) -> Tile:
    if found is None or math.isnan(found[0]):
        return Tile(None, f"task {task}, {variant}: no scored trial")
    mean, n, successes, missing = found
    lost = f", {missing} missing" if missing else ""
    return Tile(mean, f"task {task}, {variant}: {rate(mean)}, {successes} of {n} solved{lost}")


def _cell(found: _Found | None) -> Cell:
    if found is None or math.isnan(found[0]):
        return Cell("\u2013", state="muted")
    return Cell(rate(found[0]), f"of {found[1]}")


def _record(group: GroupFinding, variant: str, task: int, found: _Found) -> dict[str, Scalar]:
    mean, n, successes, missing = found
    return {
        **keys_of(group, variant),
        "task_id": task,
        "mean_reward": None if math.isnan(mean) else mean,
        "scored_trials": n,
        "successes": successes,
        "missing": missing,
    }
