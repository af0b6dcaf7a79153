"""From a sweep to numbered cells and to job arrays. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import product

from emobench.core.plan import CellBlock
from emobench.core.sweep import AgentStrategy, Cell, CellFilter, Env, Matrix, Sweep

Key = tuple[str, Env, AgentStrategy, str, int]
"""Cell.key: assistant, env, agent strategy, variant, trial."""


def expand(sweep: Sweep) -> list[Cell]:
    """Return the sweep's cells, numbered from 0.

    In order of assistant, env, agent strategy, trial; a trial's variants are neighbours, so that
    they run side by side on the same servers. `exclude` thins the matrix, `include` adds to it.
    """
    trials = range(1, sweep.trials + 1)
    planned = {
        key
        for key in _multiply(sweep.matrix, trials)
        if not any(_matches(item, key) for item in sweep.exclude)
    }
    for item in sweep.include:
        planned.update(_multiply(item, item.trial or trials))
    parts: tuple[Matrix, ...] = (sweep.matrix, *sweep.include)
    assistants = dict.fromkeys(name for part in parts for name in part.assistant)
    envs = dict.fromkeys(env for part in parts for env in part.env)
    strategies = dict.fromkeys(name for part in parts for name in part.agent_strategy)
    variants = dict.fromkeys(name for part in parts for name in part.variant)
    cells: list[Cell] = []
    for assistant, env, strategy, trial, variant in product(
        assistants, envs, strategies, trials, variants
    ):
        if (assistant, env, strategy, variant, trial) in planned:
            # The parts were validated with the sweep; validating 10,000 cells again takes longer
            # than all the rest.
            cell = Cell.model_construct(
                number=len(cells),
                assistant=assistant,
                env=env,
                agent_strategy=strategy,
                variant=variant,
                trial=trial,
                tasks=sweep.tasks[env],
            )
            cells.append(cell)
    return cells


def _multiply(part: Matrix, trials: Iterable[int]) -> Iterable[Key]:
    return product(part.assistant, part.env, part.agent_strategy, part.variant, trials)


def _matches(item: CellFilter, key: Key) -> bool:
    asked = (item.assistant, item.env, item.agent_strategy, item.variant, item.trial)
    return all(values is None or value in values for values, value in zip(asked, key, strict=True))


def extend(existing: Sequence[Cell], wanted: Sequence[Cell]) -> list[Cell]:
    """Return the existing cells under their numbers, then the new ones of `wanted` in its order.

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


def split_into_blocks(
    cells: Iterable[Cell], max_array_size: int, taken_names: Collection[str] = ()
) -> list[CellBlock]:
    """Return job arrays: runs of consecutively numbered cells of one assistant.

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
