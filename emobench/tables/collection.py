"""`emobench collect`: a folder of tables, made beside its place and moved there when whole.

The folder is a run directory too: its plan lists the cells of all runs, and each cell's folder is
a link to that cell's own. So `emobench report FOLDER` shows them together.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emobench import __version__
from emobench.config.current_plan import load_current_plan
from emobench.config.expand import split_into_blocks
from emobench.core.commits import merge_commits
from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import write_json
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir, slugify
from emobench.core.sweep import Cell
from emobench.core.wording import pluralise
from emobench.store.episodes import Kept, count_lines, make_cell_filter
from emobench.tables.columns import EPISODES, SCHEMA_VERSION, list_turn_columns
from emobench.tables.compatibility import Run, open_compatible_runs
from emobench.tables.gather import (
    Account,
    CellFile,
    Part,
    ReadOptions,
    count_expected,
    list_parts,
    scan,
)
from emobench.tables.published import Described, FileAccount, convert
from emobench.tables.table import (
    EPISODES_FILE,
    SUMMARY_FILE,
    TURNS_FILE,
    TableWriter,
    read_summary,
    write_csv,
)

PUBLISHED_FOLDER = "published"
OWN = (
    PUBLISHED_FOLDER,
    "cells",
    "plan.json",
    EPISODES_FILE,
    TURNS_FILE,
    "episodes.csv",
    "turns.csv",
)
"""What a collected folder holds beside its summary; anything else in it is left alone."""


@dataclass(frozen=True)
class Request:
    """What to collect, and where to."""

    run_dirs: tuple[Path, ...]
    """Run directories, or collected folders: those stand for the runs they were made of."""
    files: tuple[Path, ...]
    """tau-bench's own result files."""
    described: Described | None
    """What those files hold."""
    folder: Path
    csv: bool = False
    text: bool = False
    workers: int | None = None


def collect_into(request: Request) -> dict[str, Any]:
    """Make the folder and return its summary.

    Raises InvalidInput where an input is no run, runs do not belong together, or the folder is in
    use otherwise; OSError where the disk refuses: the folder then stays as it was.
    """
    folder = request.folder.resolve()
    inputs = find_sources(request.run_dirs)
    _check_folder(folder, [*inputs, *request.files])
    with _scratch(folder) as scratch:
        published: list[FileAccount] = []
        if request.described is not None:
            name = slugify(f"published-{request.files[0].stem}")[:64].rstrip(".-_")
            path = scratch / PUBLISHED_FOLDER
            published = convert(request.files, request.described, path, name)
            inputs = [*inputs, path]
        runs = open_compatible_runs(inputs)
        summary = _write(scratch, runs, published, request)
        _install(scratch, folder, summary)
    return summary


def choose_default_folder(run_dirs: Sequence[Path], files: Sequence[Path]) -> Path:
    """Return where the tables go unless somebody says otherwise."""
    if len(run_dirs) == 1 and not files:
        if (run_dirs[0] / "collected.json").exists():
            raise InvalidInput(
                Problem(
                    "this is a collected folder already",
                    file=str(run_dirs[0]),
                    hint="name another folder for the new tables with -o",
                )
            )
        folder = run_dirs[0] / "tables"
        if folder.is_symlink():  # somebody who sent the run may have it lead to any folder
            message, hint = "this is a symbolic link", "name the folder for the tables with -o"
            raise InvalidInput(Problem(message, file=str(folder), hint=hint))
        return folder
    names = [path.resolve().name for path in run_dirs] + [path.stem for path in files]
    return Path("collected") / slugify("+".join(names))


def find_sources(paths: Sequence[Path]) -> list[Path]:
    """Return the run directories behind `paths`, each collected folder replaced by those it was
    made of.

    Raises InvalidInput where a path is none of them.
    """
    found: list[Path] = []
    for path in paths:
        check_input(path)
        if (path / SUMMARY_FILE).exists():
            folder = path.resolve()
            found += [
                Path(os.path.normpath(folder / r["path"])) for r in read_summary(path)["runs"]
            ]
        else:
            found.append(path)
    return found


def check_input(path: Path) -> None:
    """Raise InvalidInput where `path` is neither a file, a run directory nor a collected folder."""
    if not path.exists():
        raise InvalidInput(Problem("no such run directory or results file", file=str(path)))
    if not path.is_dir() or (path / SUMMARY_FILE).exists() or RunDir(path).plan.exists():
        return
    hint = "give the folder that `emobench sweep` made, or tau-bench's result files"
    if any(path.glob("*/plan.json")):
        hint = f"it holds run directories: give those, e.g. {path}/*"
    elif any(path.glob("*.json")):
        hint = f"it holds JSON files: give those, e.g. {path}/*.json --env retail --variant control"
    raise InvalidInput(
        Problem("this folder is no run directory: it has no plan.json", file=str(path), hint=hint)
    )


def _write(
    scratch: Path, runs: Sequence[Run], published: list[FileAccount], request: Request
) -> dict[str, Any]:
    """Write everything of the folder but its summary into `scratch`, and return the summary."""
    parts = list_parts(runs, scratch)
    account = Account(scratch)
    collection = _compute_identity(parts, request)
    columns = list_turn_columns(request.text)
    with (
        TableWriter(scratch / EPISODES_FILE, EPISODES, 2**17) as episodes,
        TableWriter(scratch / TURNS_FILE, columns, 2**19) as turns,
    ):
        for batch in scan(parts, ReadOptions(turns=True, text=request.text), request.workers):
            account.add(batch)
            episodes.add(batch.episodes)
            turns.add(batch.turns)
        summary = {**account.summarise(runs, count_expected(parts)), "collection": collection}
        _count_published(summary, published)
        for writer, table in ((episodes, "episodes"), (turns, "turns")):
            writer.describe({**summary, "table": table})
    if request.csv:
        for name in (EPISODES_FILE, TURNS_FILE):
            write_csv(scratch / name, (scratch / name).with_suffix(".csv"))
    save_plan(RunDir(scratch), _merge_plans(runs, slugify(request.folder.resolve().name)))
    _link_cells(runs, parts, scratch)
    return summary


def _merge_plans(runs: Sequence[Run], name: str) -> Plan:
    """Return the cells of all runs, each key once, numbered anew; what they share is the first
    run's."""
    # A run of one's own says more than what tau-bench's files say.
    first = load_current_plan(min(runs, key=lambda run: run.published).run_dir)
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
            "blocks": tuple(split_into_blocks(cells.values(), len(cells))),
            "commits": merge_commits([run.plan.commits for run in runs]),
        }
    )


def _link_cells(runs: Sequence[Run], parts: Sequence[Part], folder: Path) -> None:
    """Make `folder`/cells/<n> for each part in its order: a link to the cell's own folder, or,
    where several runs hold episodes of it, a file of those that count.

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
            make_cell_filter(cell),
        )
    with path.open("wb") as out:
        for task in sorted(kept):
            offset, length = kept[task].made
            with kept[task].path.open("rb") as stream:
                stream.seek(offset)
                out.write(stream.read(length))


def _count_published(summary: dict[str, Any], published: Sequence[FileAccount]) -> None:
    """Add what was left out of result files before they became runs."""
    for account in published:
        left_out = {name: count for name, count in asdict(account.left_out).items() if count}
        for name, count in left_out.items():
            summary["left_out"][name] += count
        if left_out:
            # The name alone: where the file lay is of no use once it is read.
            entry = {"file": account.path.name, "episodes": account.episodes, **left_out}
            summary["files"].append(entry)


def _compute_identity(parts: Sequence[Part], request: Request) -> str:
    """Return a name of this collection: the same for the same files and options, so that a repeated
    one writes the same bytes."""
    digest = hashlib.sha256(repr((SCHEMA_VERSION, request.text)).encode())
    for part in parts:
        for file in part.files:
            digest.update(file.facts.file.encode("utf-8", "surrogateescape"))
            try:
                stat = file.path.stat()
            except OSError:
                continue
            digest.update(f" {stat.st_size}".encode())
            if PUBLISHED_FOLDER not in file.facts.file:  # those were written just now
                digest.update(f" {stat.st_mtime_ns}".encode())
    for path in request.files:
        digest.update(f"{path.name} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _check_folder(folder: Path, inputs: Sequence[Path]) -> None:
    """Refuse a folder that holds something else than a collection, or one of the inputs."""
    for path in inputs:
        if path.resolve().is_relative_to(folder):
            raise InvalidInput(
                Problem(
                    f"{path} is one of the inputs and would be written over",
                    key="--output",
                    hint="name another folder with -o",
                )
            )
    if not folder.exists() or (folder / SUMMARY_FILE).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise InvalidInput(
            Problem(
                "this is there already and no collected folder",
                file=str(folder),
                key="--output",
                hint="name a new folder with -o; a collected folder may be written again",
            )
        )


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make an empty folder beside `folder`, gone afterwards, as are parents made for nothing."""
    made = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(3)}.tmp")
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it holds the folder now
                parent.rmdir()


def _install(scratch: Path, folder: Path, summary: dict[str, Any]) -> None:
    """Move what is whole into its place. While files of two collections lie side by side the
    summary says so, and nobody reads the tables."""
    write_json(scratch / SUMMARY_FILE, summary)
    if not folder.exists():
        scratch.rename(folder)
        return
    if (folder / SUMMARY_FILE).exists():
        write_json(folder / SUMMARY_FILE, {"schema_version": SCHEMA_VERSION, "collection": None})
    replaced = scratch / "replaced"
    replaced.mkdir()
    for name in OWN:
        if os.path.lexists(folder / name):
            (folder / name).rename(replaced / name)
        if os.path.lexists(scratch / name):
            (scratch / name).rename(folder / name)
    (scratch / SUMMARY_FILE).replace(folder / SUMMARY_FILE)


def describe(summary: dict[str, Any], folder: str) -> str:
    """Say what was collected, and what was left out and where, in a few lines."""
    runs = len(summary["runs"])
    lines = [
        f"collected {summary['episodes']:,} of {summary['expected']:,} planned episodes and "
        f"{pluralise(summary['turns'], 'turn')} of {pluralise(runs, 'run')} into {folder}"
    ]
    if summary["missing"]:
        lines.append(f"  {summary['missing']:,} of them have no reward (outcome infra_error)")
    if summary["files"]:
        lines.append("left out:")
    shown = 20
    for entry in summary["files"][:shown]:
        counts = [
            f"{entry[name]} {words}" for name, words in LEFT_OUT_WORDS.items() if entry.get(name)
        ]
        lines.append(f"  {entry['file']}: {', '.join(counts)}")
    if len(summary["files"]) > shown:
        lines.append(f"  and {len(summary['files']) - shown} more files in {SUMMARY_FILE}")
    return "\n".join(lines)


LEFT_OUT_WORDS = {
    "torn": "cut off at its end",
    "damaged": "damaged",
    "replaced": "infrastructure errors, run again since",
    "duplicates": "later results of a task that had one",
    "foreign": "of another cell, task, variant text or benchmark",
    "repeated": "the same as one read before",
}
