"""The collected folder: whole or as it was, the same each time, whoever reads and dies."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from emobench.core.errors import EmobenchError, InvalidInput
from emobench.core.run_dir import RunDir
from emobench.tables import gather
from emobench.tables.run_results import collect
from emobench.tables.table import load_episodes, load_tables
from tests.support.processes import command_line, until
from tests.support.runs import collected, files_in, full_run


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return full_run(tmp_path / "study")


def test_the_same_input_gives_the_same_bytes(run_dir: RunDir, tmp_path: Path) -> None:
    first = collected(tmp_path / "out", run_dir, csv=True)
    before = files_in(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("kept")
    assert collected(tmp_path / "out", run_dir, csv=True) == first
    after = files_in(tmp_path / "out")
    assert after.pop("notes.txt") == b"kept"
    assert after == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_collected_folder_stands_for_its_runs(run_dir: RunDir, tmp_path: Path) -> None:
    collected(tmp_path / "one", run_dir, csv=True)
    collected(tmp_path / "two", RunDir(tmp_path / "one"))
    pd.testing.assert_frame_equal(load_episodes(tmp_path / "one"), load_episodes(tmp_path / "two"))
    assert not (tmp_path / "two/episodes.csv").exists()
    # It is a run directory, and so is read like any.
    merged = collect(RunDir(tmp_path / "one"))
    assert len(merged.list_observations()) == 16
    with pytest.raises(InvalidInput, match="one of the inputs"):
        collected(tmp_path, RunDir(tmp_path / "one"))


def test_processes_give_what_one_process_gives(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(tmp_path / "one", run_dir)
    monkeypatch.setattr(gather, "PARALLEL_FROM", 0)
    monkeypatch.setattr(gather, "CHUNK_BYTES", 1)
    collected(tmp_path / "two", run_dir, workers=2)
    for name in ("episodes.parquet", "turns.parquet"):
        one, two = (pq.read_table(tmp_path / folder / name) for folder in ("one", "two"))
        assert one.to_pylist() == two.to_pylist()


def test_an_error_in_a_process_is_the_callers(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PARALLEL_FROM", 0)
    path = run_dir.cell(1).episodes
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        collected(tmp_path / "out", run_dir, workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]


def test_a_process_that_is_killed_is_an_error_and_no_result(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PARALLEL_FROM", 0)
    path = run_dir.cell(1).episodes
    path.unlink()
    os.mkfifo(path)  # whoever opens it waits for a writer

    def strike() -> None:
        def readers() -> list[int]:
            own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            return [int(pid) for pid in own if "spawn_main" in command_line(int(pid))]

        until(readers, "a process that reads")
        for pid in readers():
            os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        struck = thread.submit(strike)
        with pytest.raises(EmobenchError, match="ended early"):
            collected(tmp_path / "out", run_dir, workers=2)
        struck.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study"]


def test_processes_end_with_a_parent_that_is_killed(run_dir: RunDir, tmp_path: Path) -> None:
    path = run_dir.cell(1).episodes
    path.unlink()
    os.mkfifo(path)  # whoever opens it waits for a writer
    script = tmp_path / "reads.py"
    script.write_text(READS.format(run_dir=str(run_dir.path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as reader:

        def children() -> list[int]:
            own = Path(f"/proc/{reader.pid}/task/{reader.pid}/children").read_text().split()
            return [int(pid) for pid in own if "spawn_main" in command_line(int(pid))]

        until(children, "a process that reads")
        readers = children()
        reader.kill()
    until(
        lambda: not any("spawn_main" in command_line(pid) for pid in readers),
        "the end of the processes that read",
    )


def test_a_script_without_a_guard_reads_in_processes(run_dir: RunDir, tmp_path: Path) -> None:
    """The processes do not run the script again, as those of other pools do."""
    script = tmp_path / "reads.py"
    script.write_text(READS.format(run_dir=str(run_dir.path)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("begun\n16\n", "")


READS = """
from pathlib import Path
from emobench.tables import gather
print("begun", flush=True)
gather.PARALLEL_FROM, gather.CHUNK_BYTES = 0, 1
found = gather.read_runs([Path({run_dir!r})], workers=2)
print(found.episodes.num_rows)
"""


def test_a_folder_between_two_collections_is_refused_and_mended(
    run_dir: RunDir, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    collected(folder, run_dir)
    whole = (folder / "collected.json").read_bytes()
    # As it stands while files are moved.
    (folder / "collected.json").write_text('{"schema_version": 1, "collection": null}')
    for read in (lambda: load_tables(folder), lambda: collected(tmp_path / "b", RunDir(folder))):
        with pytest.raises(InvalidInput, match="broken off"):
            read()
    collected(folder, run_dir)
    assert (folder / "collected.json").read_bytes() == whole


def test_a_full_disk_leaves_what_was_there(run_dir: RunDir, tmp_path: Path) -> None:
    """A limit on the size of files fails a write in its middle, as a full disk does."""
    folder = tmp_path / "out"
    collected(folder, run_dir)
    before = files_in(folder)
    command = [sys.executable, "-m", "emobench.cli", "collect", str(run_dir.path), "--csv"]
    command += ["-o", str(folder), "--text", "--workers", "1"]

    def limited(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    for limit in (2_000, 6_000, 12_000):
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            preexec_fn=partial(limited, limit),
            env={**os.environ},
            check=False,
        )
        assert result.returncode == 1, result
        assert "File too large" in result.stderr
        assert str(tmp_path) in result.stderr, "which file"
        assert "Traceback" not in result.stderr
        assert files_in(folder) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "study"]


def test_tables_of_another_version_or_of_two_collections_are_refused(
    run_dir: RunDir, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    collected(folder, run_dir)
    old = (folder / "turns.parquet").read_bytes()
    collected(folder, run_dir, text=True)
    new = (folder / "turns.parquet").read_bytes()
    (folder / "turns.parquet").write_bytes(old)
    with pytest.raises(InvalidInput, match="another collection"):
        load_tables(folder)
    (folder / "turns.parquet").write_bytes(new[:-20])
    with pytest.raises(InvalidInput, match="no readable table"):
        load_tables(folder)
    (folder / "turns.parquet").write_bytes(new)
    assert len(load_tables(folder).read_turns(["role"])) > 16
    summary = json.loads((folder / "collected.json").read_text())
    (folder / "collected.json").write_text(json.dumps({**summary, "schema_version": 2}))
    with pytest.raises(InvalidInput, match="schema version 2"):
        load_tables(folder)
    with pytest.raises(InvalidInput, match=r"plan\.json"):
        load_tables(tmp_path)
