"""Episodes that are to be run again: which they are, and setting them aside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from emobench.core.errors import InvalidInput, Problem
from emobench.core.outcomes import Outcome
from emobench.core.plan import Plan
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.episodes import EpisodeStore, make_cell_filter, read_results
from emobench.store.summaries import write_files


@dataclass(frozen=True)
class Choice:
    """Which episodes; an empty part takes all."""

    outcomes: Collection[Outcome] = ()
    cells: Collection[int] = ()
    tasks: Collection[int] = ()


@dataclass(frozen=True)
class ChosenEpisodes:
    """Those of one cell."""

    cell: Cell
    outcomes: Mapping[int, Outcome]
    """By task."""


def choose_episodes(plan: Plan, run_dir: RunDir, choice: Choice) -> list[ChosenEpisodes]:
    """Return the episodes on disk that `choice` takes, by cell; changes nothing.

    Raises InvalidInput where the plan has no such cell or task.
    """
    tasks = {task for cell in plan.cells for task in cell.tasks}
    _refuse_unknown("--cell", set(choice.cells), range(len(plan.cells)))
    _refuse_unknown("--task", set(choice.tasks), tasks)
    chosen = []
    for cell in plan.cells:
        if choice.cells and cell.number not in choice.cells:
            continue
        results = read_results(run_dir.cell(cell.number).episodes, cell)
        outcomes = {
            task: results[task].outcome
            for task in cell.tasks
            if task in results
            and (not choice.tasks or task in choice.tasks)
            and (not choice.outcomes or results[task].outcome in choice.outcomes)
        }
        if outcomes:
            chosen.append(ChosenEpisodes(cell, outcomes))
    return chosen


def set_aside(run_dir: RunDir, chosen: Sequence[ChosenEpisodes]) -> None:
    """Move the episodes from `episodes.jsonl` to `set_aside.jsonl`: their cells' next run lacks
    them, and runs them again.

    Raises CellBusy, with nothing changed, where one of the cells is being run; OSError where the
    disk refuses: nothing is lost then.
    """
    for each in chosen:
        with _open_store(run_dir, each.cell):
            pass
    for each in chosen:
        with _open_store(run_dir, each.cell) as store:
            now = {task: record.outcome for task, record in store.records.items()}
            store.set_aside([task for task, was in each.outcomes.items() if now.get(task) is was])
            write_files(store, each.cell)


def _open_store(run_dir: RunDir, cell: Cell) -> EpisodeStore:
    return EpisodeStore(run_dir.cell(cell.number), make_cell_filter(cell))


def _refuse_unknown(option: str, given: set[int], there: Collection[int]) -> None:
    if unknown := given.difference(there):
        raise InvalidInput(
            Problem(
                f"this run has no {format_ranges(unknown)}",
                key=option,
                allowed=format_ranges(there),
            )
        )
