"""Which conversations of a run are meant, and where they stand on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from emobench.analysis.transcript.conversation import (
    Conversation,
    parse_conversation,
    read_conversations,
)
from emobench.analysis.transcript.tally import Summary, summarise
from emobench.core.errors import InvalidInput, Problem, suggest_nearest
from emobench.core.outcomes import CONTROL, OUTCOMES, Group
from emobench.core.plan import Plan
from emobench.core.ranges import format_ranges
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.episodes import EpisodeRecord, Kept, count_lines, make_cell_filter
from emobench.tables.run_results import CellResult, EpisodeSummary, read_cell


@dataclass(frozen=True)
class Selection:
    """What must hold of a conversation; empty: anything."""

    tasks: tuple[int, ...] = ()
    variants: tuple[str, ...] = ()
    assistants: tuple[str, ...] = ()
    envs: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    trials: tuple[int, ...] = ()
    outcomes: tuple[str, ...] = ()
    episode: str = ""
    """How its id begins."""

    def of_variants(self, names: tuple[str, ...]) -> Selection:
        return replace(self, variants=names)

    def check(self, plan: Plan) -> None:
        """Raise InvalidInput that lists what there is, for all that the plan does not have."""
        sweep = plan.sweep
        cells = [cell for cell in plan.cells if not self.envs or cell.env in self.envs]
        tasks = sorted({task for cell in cells for task in cell.tasks})
        problems = [
            *_find_unknown("--env", self.envs, [cell.env for cell in plan.cells]),
            *_find_unknown("--variant", self.variants, list(sweep.variants)),
            *_find_unknown("--assistant", self.assistants, list(sweep.assistants)),
            *_find_unknown("--strategy", self.strategies, [c.agent_strategy for c in plan.cells]),
            *_find_unknown("--outcome", self.outcomes, OUTCOMES),
            *_find_unknown("--trial", self.trials, sorted({cell.trial for cell in plan.cells})),
        ]
        if not problems:
            problems += _find_unknown("--task", self.tasks, tasks)
        if problems:
            raise InvalidInput(problems)

    def list_cells(self, plan: Plan) -> Iterator[Cell]:
        """Yield the cells in which a conversation may match."""
        for cell in plan.cells:
            if (
                _is_in(cell.variant, self.variants)
                and _is_in(cell.assistant, self.assistants)
                and _is_in(cell.env, self.envs)
                and _is_in(cell.agent_strategy, self.strategies)
                and _is_in(cell.trial, self.trials)
                and (not self.tasks or not set(self.tasks).isdisjoint(cell.tasks))
            ):
                yield cell

    def takes(self, record: EpisodeRecord | EpisodeSummary) -> bool:
        """Return whether an episode of such a cell matches."""
        return (
            _is_in(record.task_id, self.tasks)
            and _is_in(record.outcome, self.outcomes)
            and record.episode.startswith(self.episode)
        )


@dataclass(frozen=True)
class Found:
    """A conversation that matches, without its text."""

    result: CellResult
    summary: EpisodeSummary

    @property
    def cell(self) -> Cell:
        return self.result.cell

    @property
    def place(self) -> tuple[Group, int, int]:
        """What a conversation has in common with its counterparts in other variants."""
        return (self.cell.group, self.summary.task_id, self.cell.trial)


def find(run_dir: RunDir, plan: Plan, selection: Selection) -> list[Found]:
    """Return the conversations that match; those of one task and trial stand together, as
    planned."""
    found = [
        Found(result, summary)
        for result in (read_cell(run_dir, cell) for cell in selection.list_cells(plan))
        for summary in result.file.episodes
        if selection.takes(summary)
    ]
    return sorted(found, key=lambda each: (*each.place, each.cell.number))


def find_counterparts(
    run_dir: RunDir, plan: Plan, found: Sequence[Found], variant: str = CONTROL
) -> dict[tuple[Group, int, int], Found]:
    """Return the conversations of `variant` on the same tasks and trials, by place."""
    places = {each.place for each in found}
    same = Selection(
        tasks=tuple({each.summary.task_id for each in found}),
        variants=(variant,),
        assistants=tuple({each.cell.assistant for each in found}),
        envs=tuple({each.cell.env for each in found}),
        strategies=tuple({each.cell.agent_strategy for each in found}),
        trials=tuple({each.cell.trial for each in found}),
    )
    others = find(run_dir, plan, same) if found else []
    return {each.place: each for each in others if each.place in places}


def read(plan: Plan, found: Found) -> Conversation:
    """Return a conversation with its text. Raises OSError where the file is gone."""
    for *_, conversation in read_conversations(plan, [(found.result, found.summary)]):
        return conversation
    raise OSError(f"{found.result.file.path}: changed while it was read")


def read_summaries(
    run_dir: RunDir, plan: Plan, selection: Selection
) -> Iterator[tuple[Group, str, int, Summary]]:
    """Yield what every matching conversation shows, for `Tally`; each file is read once, and no
    transcript outlives its line."""

    def make(record: EpisodeRecord, offset: int, length: int) -> Summary | None:
        if not selection.takes(record):
            return None
        return summarise(parse_conversation(record, plan.benchmark))

    for cell in selection.list_cells(plan):
        kept: dict[int, Kept[Summary | None]] = {}
        count_lines(run_dir.cell(cell.number).episodes, make, kept, make_cell_filter(cell))
        for task, line in sorted(kept.items()):
            if line.made is not None:
                yield cell.group, cell.variant, task, line.made


def _is_in(value: object, wanted: Collection[object]) -> bool:
    return not wanted or value in wanted


def _find_unknown(option: str, given: Iterable[Any], there: Iterable[Any]) -> list[Problem]:
    known = list(dict.fromkeys(there))
    return [
        Problem(
            f"this run has no {value}",
            key=option,
            allowed=", ".join(known) if isinstance(value, str) else format_ranges(known),
            hint=suggest_nearest(value, known) if isinstance(value, str) else "",
        )
        for value in given
        if value not in known
    ]
