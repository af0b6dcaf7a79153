"""One plan of several runs that belong together, and the cells' folders under its numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.core.commits import merged_commits
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.store.episodes import Kept, count_lines
from emobench.tables.compatibility import Run
from emobench.tables.published_plan import blocks_of
from emobench.tables.scan import CellFile, Part


def merged_plan(runs: Sequence[Run], name: str) -> Plan:
    """The cells of all runs, each key once, numbered anew; what they share is the first run's."""
    # A run of one's own says more than what tau-bench's files say.
    first = min(runs, key=lambda run: run.published).plan
    sweeps = [run.plan.sweep for run in runs]
    cells: dict[tuple[str, str, str, str, int], Cell] = {}
    for run in runs:
        for cell in run.plan.cells:
            cells.setdefault(cell.key, cell.model_copy(update={"number": len(cells)}))
    axes = ("env", "agent_strategy", "variant", "assistant")
    matrix: dict[str, Any] = {
        axis: tuple(
            dict.fromkeys(value for sweep in sweeps for value in getattr(sweep.matrix, axis))
        )
        for axis in axes
    }
    maps: dict[str, Any] = {
        key: {
            name: value for sweep in reversed(sweeps) for name, value in getattr(sweep, key).items()
        }
        for key in ("tasks", "assistants", "variants", "few_shot_displays", "few_shot_sha256")
    }
    sweep = first.sweep.model_copy(
        update={
            "name": name,
            "description": "collected from " + ", ".join(run.name for run in runs),
            "trials": max(sweep.trials for sweep in sweeps),
            "matrix": first.sweep.matrix.model_copy(update=matrix),
            "exclude": (),
            "include": (),
            **maps,
        }
    )
    return first.model_copy(
        update={
            "emobench": __version__,
            "sweep_file": "",
            "created": max(run.plan.created for run in runs),
            "sweep": sweep,
            "cells": tuple(cells.values()),
            "blocks": blocks_of(list(cells.values())),
            "commits": merged_commits([run.plan.commits for run in runs]),
        }
    )


def link_cells(runs: Sequence[Run], parts: Sequence[Part], folder: Path) -> None:
    """`folder`/cells/<n> for each part in its order: a link to the cell's own folder, or, where
    several runs hold episodes of it, a file of those that count.

    Raises OSError where the disk refuses.
    """
    target = RunDir(folder)
    (folder / "cells").mkdir()
    for number, part in enumerate(parts):
        place = target.cell(number)
        held = [file for file in part.files if file.path.exists()] or list(part.files[:1])
        if len(held) > 1:
            place.folder.mkdir()
            _copy_counting(held, part.cell, place.episodes)
        else:
            place.folder.symlink_to(os.path.relpath(held[0].path.parent, folder / "cells"))


def _copy_counting(files: Sequence[CellFile], cell: Cell, path: Path) -> None:
    kept: dict[int, Kept[tuple[int, int]]] = {}
    for file in files:
        count_lines(
            file.path,
            lambda _, offset, length: (offset, length),
            kept,
            lambda r: r.belongs_to(cell),
        )
    with path.open("wb") as out:
        for task in sorted(kept):
            offset, length = kept[task].made
            with kept[task].path.open("rb") as stream:
                stream.seek(offset)
                out.write(stream.read(length))
