"""Several runs as one pair of tables: who belongs, what counts, and an account of the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.core.errors import InvalidInput, Problem
from emobench.core.sweep import Cell
from emobench.store.episodes import LineCounts
from emobench.tables.columns import SCHEMA_VERSION
from emobench.tables.compatibility import Run, open_runs, refuse_strangers
from emobench.tables.rows import facts_of
from emobench.tables.scan import Batch, CellFile, Part, Wanted, scan

Key = tuple[str, str, str, str, int]
LEFT_OUT = tuple(LineCounts.__dataclass_fields__)


@dataclass(frozen=True)
class Gathered:
    """Runs that were read at once, without turns."""

    episodes: Any
    """A pyarrow table."""
    summary: dict[str, Any]


@dataclass
class Account:
    """What was read, file by file, and the check that needs every record."""

    folder: Path
    """Paths are given relative to it."""
    episodes: int = 0
    missing: int = 0
    """Episodes without a reward."""
    turns: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Those of which something was left out."""
    _prompts: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Raises InvalidInput where the user was prompted otherwise in another run."""
        self.episodes += batch.episodes.num_rows
        self.missing += batch.episodes.column("reward").null_count
        self.turns += batch.turns.num_rows if batch.turns is not None else 0
        for path, episodes, counts in batch.counts:
            if counts:
                self.left_out.update(asdict(counts))
                self.files.append(
                    {
                        "file": relative(Path(path), self.folder),
                        "episodes": episodes,
                        **{name: count for name, count in asdict(counts).items() if count},
                    }
                )
        for env, variant, task, sha, run in sorted(batch.prompts):
            known, first = self._prompts.setdefault((env, variant, task), (sha, run))
            if known != sha:
                raise InvalidInput(
                    Problem(
                        f"the user's prompt differs for {env} task {task}, variant {variant}: "
                        f"{known[:12]} in {first}, {sha[:12]} in {run}",
                        hint="the benchmark's instructions or rules were changed between them; "
                        "collect them separately",
                    )
                )

    def summary(self, runs: Sequence[Run], expected: int) -> dict[str, Any]:
        """What collected.json and the tables' metadata say. The same for the same input."""
        return {
            "schema_version": SCHEMA_VERSION,
            "emobench": __version__,
            "runs": [
                {
                    "name": run.name,
                    "path": relative(run.run_dir.path, self.folder),
                    "benchmark": run.plan.benchmark,
                    "emobench": run.plan.emobench,
                    "created": run.plan.created,
                    "seed": run.plan.sweep.seed,
                    "published": run.published,
                    "cells": len(run.plan.cells),
                }
                for run in runs
            ],
            "expected": expected,
            "episodes": self.episodes,
            "missing": self.missing,
            "turns": self.turns,
            "left_out": {name: self.left_out[name] for name in LEFT_OUT},
            "files": sorted(self.files, key=lambda entry: str(entry["file"])),
        }


def read_runs(paths: Sequence[Path], workers: int | None = None) -> Gathered:
    """The episodes of run directories, in memory. Raises InvalidInput as `belonging_runs` does."""
    import pyarrow as pa

    from emobench.tables.columns import EPISODES
    from emobench.tables.table import arrow_schema

    runs = belonging_runs(paths)
    parts = parts_of(runs, Path().resolve())
    account = Account(Path().resolve())
    tables = [arrow_schema(EPISODES).empty_table()]
    for batch in scan(parts, Wanted(), workers):
        account.add(batch)
        tables.append(batch.episodes)
    summary = account.summary(runs, expected_of(parts))
    return Gathered(pa.concat_tables(tables), summary)


def belonging_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs at `paths`; raises InvalidInput where one is none or they do not belong together."""
    runs = open_runs(paths)
    refuse_strangers(runs)
    return runs


def parts_of(runs: Sequence[Run], folder: Path) -> list[Part]:
    """The cells of all runs, in order; a cell that several runs have is one part of several files.

    Paths in the tables are relative to `folder`.
    """
    files: dict[Key, list[CellFile]] = {}
    cells: dict[Key, Cell] = {}
    for run, cell in cells_of(runs):
        path = run.run_dir.cell(cell.number).episodes
        facts = facts_of(run.name, run.plan, cell, relative(path, folder))
        sha256 = run.plan.sweep.variants[cell.variant].sha256
        files.setdefault(cell.key, []).append(CellFile(path, facts, sha256, run.plan.benchmark))
        cells[cell.key] = cell
    return [Part(cells[key], tuple(each)) for key, each in files.items()]


def cells_of(runs: Sequence[Run]) -> Iterator[tuple[Run, Cell]]:
    for run in runs:
        for cell in run.plan.cells:
            yield run, cell


def expected_of(parts: Sequence[Part]) -> int:
    """Episodes that the plans name, each once."""
    return sum(len(part.cell.tasks) for part in parts)


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder, so that both can be moved together."""
    return os.path.relpath(path, folder)
