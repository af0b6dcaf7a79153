"""What a sweep says of itself before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.cli.sweep import format_headline
from emobench.core.run_dir import RunDir
from tests.support.plans import make_plan, scripted


@pytest.mark.parametrize(
    ("tasks", "trials", "size", "line"),
    [
        ((0,), 1, "1 cell, 1 episode, on", "tasks       retail 0 (1 task)"),
        (
            (3,),
            2,
            "2 cells, 2 episodes, on",
            "tasks       retail 3 (1 task, counted from 0; the first 3 tasks: 0-2)",
        ),
        ((0, 1, 2, 7), 1, "1 cell, 4 episodes, on", "tasks       retail 0-2, 7 (4 tasks)"),
    ],
)
def test_sizes_and_tasks(tasks: tuple[int, ...], trials: int, size: str, line: str) -> None:
    plan = make_plan(
        user=scripted(), assistants={"a": scripted()}, variants=("control",), trials=trials
    )
    sweep = plan.sweep.model_copy(update={"tasks": {"retail": tasks}})
    cells = tuple(cell.model_copy(update={"tasks": tasks}) for cell in plan.cells)
    shown = format_headline(
        plan.model_copy(update={"sweep": sweep, "cells": cells}), RunDir(Path("r"))
    )
    assert size in shown
    assert f"  {line}\n" in shown
