from __future__ import annotations

import time
from pathlib import Path

import pytest

from emobench.config.expand import expand, extend, split_into_blocks
from emobench.core.sweep import Cell, Sweep
from tests.support.sweep_files import load

TEXT = """\
engine: scripted
matrix:
  env: [retail, airline]
  agent_strategy: [tool-calling, react]
  variant: [control, anger, anxiety]
trials: 2
tasks: {retail: 0-2, airline: [1]}
assistants: {a: {}, b: {}}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return load(tmp_path, TEXT)


def test_the_product_in_order_with_variants_as_neighbours(sweep: Sweep) -> None:
    cells = expand(sweep)
    assert [cell.number for cell in cells] == list(range(2 * 2 * 2 * 3 * 2))
    assert len({cell.key for cell in cells}) == len(cells)
    assert [cell.title for cell in cells[:4]] == [
        "retail/tool-calling/control/a/trial 1",
        "retail/tool-calling/anger/a/trial 1",
        "retail/tool-calling/anxiety/a/trial 1",
        "retail/tool-calling/control/a/trial 2",
    ]
    assert [cell.assistant for cell in cells] == ["a"] * 24 + ["b"] * 24
    assert {cell.env: cell.tasks for cell in cells} == {"retail": (0, 1, 2), "airline": (1,)}
    assert all(Cell.model_validate(cell.model_dump()) == cell for cell in cells)


def test_exclude_matches_every_given_key_and_include_adds_no_duplicate(tmp_path: Path) -> None:
    more = (
        "exclude: [{env: airline, agent_strategy: react}, {variant: [anger, anxiety], trial: 2}]\n"
        "include: [{env: airline, agent_strategy: react, variant: anger, assistant: b}, "
        "{env: retail, variant: control}]\n"
    )
    cells = expand(load(tmp_path, TEXT + more))
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys) == 2 * 3 * (3 + 1) + 2
    assert [cell.key for cell in cells if cell.env == "airline"][-2:] == [
        ("b", "airline", "react", "anger", 1),
        ("b", "airline", "react", "anger", 2),
    ]


def test_extend_keeps_numbers_updates_tasks_and_appends(sweep: Sweep) -> None:
    wanted = expand(sweep)
    existing = [
        cell.model_copy(update={"number": i, "tasks": (0,)})
        for i, cell in enumerate([wanted[7], wanted[3]])
    ]
    gone = wanted[0].model_copy(update={"number": 2, "variant": "placebo"})
    cells = extend([*existing, gone], wanted)
    assert [cell.number for cell in cells] == list(range(len(wanted) + 1))
    assert [cell.key for cell in cells[:3]] == [wanted[7].key, wanted[3].key, gone.key]
    assert cells[0].tasks == wanted[7].tasks
    assert [cell.key for cell in cells[3:]] == [
        cell.key for i, cell in enumerate(wanted) if i not in (3, 7)
    ]
    assert extend(cells, wanted) == cells
    assert extend([], wanted) == wanted


@pytest.mark.parametrize("size", [1, 2, 23, 24, 25, 1001])
def test_blocks_cover_each_cell_once(sweep: Sweep, size: int) -> None:
    cells = expand(sweep)
    blocks = split_into_blocks(cells, size)
    assert [n for block in blocks for n in block.cells] == [cell.number for cell in cells]
    assert all(block.size <= size for block in blocks)
    assert len({block.name for block in blocks}) == len(blocks) == 2 * -(-24 // size)
    for block in blocks:
        assert {cells[n].assistant for n in block.cells} == {block.assistant}


def test_names_of_blocks(sweep: Sweep) -> None:
    cells = expand(sweep)
    assert [block.name for block in split_into_blocks(cells, 12)] == ["a", "a_2", "b", "b_2"]
    assert [block.name for block in split_into_blocks(cells, 99, taken_names=["a", "a_2"])] == [
        "a_3",
        "b",
    ]
    renamed = [
        cell.model_copy(update={"assistant": "a_2"}) if cell.assistant == "b" else cell
        for cell in cells
    ]
    assert [block.name for block in split_into_blocks(renamed, 12)] == ["a", "a_3", "a_2", "a_2_2"]
    gap = [cell for cell in cells if cell.number not in (5, 6)]
    assert [(block.first_cell, block.size) for block in split_into_blocks(gap, 99)] == [
        (0, 5),
        (7, 17),
        (24, 24),
    ]
    with pytest.raises(ValueError, match="at least 1"):
        split_into_blocks(cells, 0)


def test_ten_thousand_cells_take_no_time_in_the_square_of_their_number(sweep: Sweep) -> None:
    large = sweep.model_copy(update={"trials": 417})
    start = time.thread_time()
    cells = expand(large)
    blocks = split_into_blocks(extend(cells[:5000], cells), 1001)
    assert len(cells) == 10_008 and len(blocks) == 10
    assert time.thread_time() - start < 20
