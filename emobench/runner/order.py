"""In which order a cell's conversations begin: the longest first, so that none is left over while
the servers have nothing else to do. Order never enters an episode's identity or content."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from emobench.benchmarks.tasks import Task, load_env
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.summaries import read_summary

CELLS_READ = 16
"""Summaries of other cells that are read at most: more of them tell little more."""
ESTIMATE_WEIGHT = 0.5
"""What the estimate counts beside one measured conversation (docs/performance.md)."""


def sort_longest_first(
    plan: Plan, run_dir: RunDir, cell: Cell, tasks: Collection[int]
) -> list[int]:
    """Return the tasks in the order in which the cell begins them: as they are, where it has one
    conversation at a time, since these take the same time in any order.

    Raises InvalidInput if no benchmark is installed.
    """
    if plan.sweep.concurrency == 1:
        return list(tasks)
    known = load_env(cell.env).tasks
    lengths = predict_lengths(
        {task: known[task] for task in tasks}, list(_read_measured(plan, run_dir, cell))
    )
    return sorted(tasks, key=lambda task: -lengths[task])


def predict_lengths(
    tasks: Mapping[int, Task], measured: Sequence[Mapping[int, int]]
) -> dict[int, float]:
    """Return how long each conversation gets, where a usual one takes 1.

    `measured` has the tokens by task of other cells. Each cell's are taken relative to what was
    estimated for its tasks, since some variants talk more than others.
    """
    estimates = {number: estimate_length(task) for number, task in tasks.items()}
    sums = dict.fromkeys(tasks, 0.0)
    counts = dict.fromkeys(tasks, 0)
    for tokens in measured:
        shared = estimates.keys() & tokens.keys()
        if total := sum(tokens[number] for number in shared):
            scale = sum(estimates[number] for number in shared) / total
            for number in shared:
                sums[number] += tokens[number] * scale
                counts[number] += 1
    return {
        number: (ESTIMATE_WEIGHT * estimate + sums[number]) / (ESTIMATE_WEIGHT + counts[number])
        for number, estimate in estimates.items()
    }


def estimate_length(task: Task) -> float:
    """Return how long the conversation on a task gets, where a usual one takes 1.

    A linear fit to the tokens and calls of published conversations (docs/performance.md). What the
    ground truth only reads says nothing: assistants look up what they like.
    """
    return 0.42 + 0.15 * len(task.write_actions) + 0.088 * len(task.instruction) / 100


def _read_measured(plan: Plan, run_dir: RunDir, cell: Cell) -> Iterator[Mapping[int, int]]:
    """Yield the tokens by task of the nearest cells of the same assistant, env and strategy, those
    before the cell first."""
    others = [each.number for each in plan.cells if each.group == cell.group]
    others.remove(cell.number)
    others.sort(key=lambda number: (number > cell.number, abs(number - cell.number)))
    for number in others[:CELLS_READ]:
        summary = read_summary(run_dir, number)
        if summary is not None and summary.tokens_by_task:
            yield summary.tokens_by_task
