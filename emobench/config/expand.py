"""From a sweep to numbered cells and to job arrays. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import product

from emobench.core.plan import CellBlock
from emobench.core.sweep import AgentStrategy, Cell, CellFilter, Env, Sweep

Key = tuple[str, Env, AgentStrategy, str, int]
"""Cell.key: assistant, env, agent strategy, variant, trial."""


def expand(sweep: Sweep) -> list[Cell]:
    """The sweep's cells, numbered from 0.

    In order of assistant, env, agent strategy, trial; a trial's variants are neighbours, so that
    they run side by side on the same servers. `exclude` thins the matrix, `include` adds to it.
    """
    matrix = sweep.matrix
    trials = range(1, sweep.trials + 1)
    keys = dict.fromkeys(
        key
        for key in product(
            matrix.assistant, matrix.env, matrix.agent_strategy, matrix.variant, trials
        )
        if not any(_matches(item, key) for item in sweep.exclude)
    )
    for item in sweep.include:
        axes = (item.assistant, item.env, item.agent_strategy, item.variant, item.trial or trials)
        keys.update(dict.fromkeys(product(*axes)))
    rank_assistant = _ranks(matrix.assistant, (item.assistant for item in sweep.include))
    rank_env = _ranks(matrix.env, (item.env for item in sweep.include))
    rank_strategy = _ranks(matrix.agent_strategy, (item.agent_strategy for item in sweep.include))
    rank_variant = _ranks(matrix.variant, (item.variant for item in sweep.include))

    def place(key: Key) -> tuple[int, ...]:
        assistant, env, strategy, variant, trial = key
        return (
            rank_assistant[assistant],
            rank_env[env],
            rank_strategy[strategy],
            trial,
            rank_variant[variant],
        )

    return [
        _cell(number, key, sweep.tasks[key[1]])
        for number, key in enumerate(sorted(keys, key=place))
    ]


def _matches(item: CellFilter, key: Key) -> bool:
    wanted = (item.assistant, item.env, item.agent_strategy, item.variant, item.trial)
    return all(values is None or value in values for values, value in zip(wanted, key, strict=True))


def _ranks(first: Iterable[str], more: Iterable[Iterable[str]]) -> dict[str, int]:
    names = dict.fromkeys(first)
    for others in more:
        names.update(dict.fromkeys(others))
    return {name: rank for rank, name in enumerate(names)}


def _cell(number: int, key: Key, tasks: tuple[int, ...]) -> Cell:
    assistant, env, strategy, variant, trial = key
    # The parts were validated with the sweep; validating 10,000 cells again takes longer than
    # all the rest.
    return Cell.model_construct(
        number=number,
        assistant=assistant,
        env=env,
        agent_strategy=strategy,
        variant=variant,
        trial=trial,
        tasks=tasks,
    )


def extend(existing: Sequence[Cell], wanted: Sequence[Cell]) -> list[Cell]:
    """The existing cells under their numbers, then the new ones of `wanted` in its order.

    An existing cell takes over the wanted tasks; one that is no longer wanted stays as it is,
    because its number names its folder and its array index.
    """
    tasks = {cell.key: cell.tasks for cell in wanted}
    cells = [
        cell.model_copy(update={"tasks": tasks.pop(cell.key)}) if cell.key in tasks else cell
        for cell in existing
    ]
    number = max((cell.number for cell in cells), default=-1)
    for cell in wanted:
        if cell.key in tasks:
            number += 1
            cells.append(cell.model_copy(update={"number": number}))
    return cells


def blocks_of(
    cells: Iterable[Cell], max_array_size: int, taken_names: Collection[str] = ()
) -> list[CellBlock]:
    """Job arrays: runs of consecutively numbered cells of one assistant.

    A block has at most `max_array_size` cells, array indices 0 to max_array_size-1. Names are
    the assistant's, then <assistant>_2, ...; none of `taken_names` is used again.
    """
    if max_array_size < 1:
        raise ValueError(f"max_array_size is {max_array_size}; at least 1 is needed")
    runs: list[tuple[str, int, int]] = []  # assistant, first cell, size
    for cell in sorted(cells, key=lambda cell: cell.number):
        if runs:
            assistant, first, size = runs[-1]
            follows = assistant == cell.assistant and first + size == cell.number
            if follows and size < max_array_size:
                runs[-1] = (assistant, first, size + 1)
                continue
        runs.append((cell.assistant, cell.number, 1))
    # An assistant called "a_2" keeps its name before "a" takes it for a second block.
    plain = {assistant for assistant, _, _ in runs}
    taken = set(taken_names)
    blocks = []
    for assistant, first, size in runs:
        name, count = assistant, 1
        while name in taken or (name != assistant and name in plain):
            count += 1
            name = f"{assistant}_{count}"
        taken.add(name)
        blocks.append(CellBlock(name=name, assistant=assistant, first_cell=first, size=size))
    return blocks
