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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import write_json
from emobench.core.run_dir import slug
from emobench.tables.columns import EPISODES, SCHEMA_VERSION
from emobench.tables.compatibility import Run
from emobench.tables.gather import Account, belonging_runs, expected_of, parts_of
from emobench.tables.merged_plan import link_cells, merged_plan
from emobench.tables.published import Described, convert
from emobench.tables.scan import Part, Wanted, scan
from emobench.tables.table import EPISODES_FILE, SUMMARY_FILE, TURNS_FILE, turn_columns

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
    inputs = sources_of(request.run_dirs)
    _check_folder(folder, [*inputs, *request.files])
    with _scratch(folder) as scratch:
        published: list[dict[str, Any]] = []
        if request.described is not None:
            name = slug(f"published-{request.files[0].stem}")[:64].rstrip(".-_")
            path = scratch / PUBLISHED_FOLDER
            published = convert(request.files, request.described, path, name)
            inputs = [*inputs, path]
        runs = belonging_runs(inputs)
        summary = _write(scratch, runs, published, request)
        _install(scratch, folder, summary)
    return summary


def sources_of(paths: Sequence[Path]) -> list[Path]:
    """The run directories behind `paths`, each collected folder replaced by those it was made of.

    Raises InvalidInput where a path is absent.
    """
    from emobench.tables.table import read_summary

    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InvalidInput(Problem("no such run directory or results file", file=str(path)))
        if (path / SUMMARY_FILE).exists():
            folder = path.resolve()
            found += [
                Path(os.path.normpath(folder / r["path"])) for r in read_summary(path)["runs"]
            ]
        else:
            found.append(path)
    return found


def _write(
    scratch: Path, runs: Sequence[Run], published: list[dict[str, Any]], request: Request
) -> dict[str, Any]:
    """Everything of the folder but its summary, into `scratch`; returns the summary."""
    from emobench.core.plan import save_plan
    from emobench.core.run_dir import RunDir
    from emobench.tables.parquet import TableWriter, write_csv

    parts = parts_of(runs, scratch)
    account = Account(scratch)
    collection = _identity(parts, request)
    columns = turn_columns(request.text)
    with (
        TableWriter(scratch / EPISODES_FILE, EPISODES, 2**17) as episodes,
        TableWriter(scratch / TURNS_FILE, columns, 2**19) as turns,
    ):
        for batch in scan(parts, Wanted(turns=True, text=request.text), request.workers):
            account.add(batch)
            episodes.add(batch.episodes)
            turns.add(batch.turns)
        summary = {**account.summary(runs, expected_of(parts)), "collection": collection}
        _count_published(summary, published)
        for writer, table in ((episodes, "episodes"), (turns, "turns")):
            writer.describe({**summary, "table": table})
    if request.csv:
        for name in (EPISODES_FILE, TURNS_FILE):
            write_csv(scratch / name, (scratch / name).with_suffix(".csv"))
    save_plan(RunDir(scratch), merged_plan(runs, slug(request.folder.resolve().name)))
    link_cells(runs, parts, scratch)
    return summary


def _count_published(summary: dict[str, Any], published: Sequence[dict[str, Any]]) -> None:
    """Add what was left out of result files before they became runs."""
    for account in published:
        left_out = {name: account[name] for name in summary["left_out"] if account.get(name)}
        for name, count in left_out.items():
            summary["left_out"][name] += count
        if left_out:
            # The name alone: where the file lay is of no use once it is read.
            file = Path(account["file"]).name
            entry = {"file": file, "episodes": account["episodes"], **left_out}
            summary["files"].append(entry)


def _identity(parts: Sequence[Part], request: Request) -> str:
    """Names this collection: the same for the same files and options, so that a repeated one
    writes the same bytes."""
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
                    value=str(folder),
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
    """An empty folder beside `folder`, gone afterwards, as are parents made for nothing."""
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
    """What was collected, and what was left out and where, in a few lines."""
    runs = len(summary["runs"])
    lines = [
        f"collected {summary['episodes']:,} of {summary['expected']:,} planned episodes and "
        f"{summary['turns']:,} turns of {runs} run{'s' if runs > 1 else ''} into {folder}"
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
    "repeated": "in another run too",
}
