"""A run directory that somebody sent is data: nothing that it names is run, ended, removed or told
a key, and what it holds in place of its records is an error in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main
from emobench.core.files import write_json
from emobench.core.models import OpenAIModel
from emobench.core.plan import load_plan
from emobench.core.processes import read_start_ticks
from emobench.core.run_dir import RunDir
from emobench.scheduler.local import RECORDS_VARIABLE, TOKEN_VARIABLE
from emobench.store.jobs import JobKind, JobRecord, LocalProcess, add_jobs
from emobench.tables import gather
from tests.support.model_server import Reply, recording
from tests.support.plans import scripted
from tests.support.runs import fill, make_run
from tests.support.slurm_commands import SlurmCommands

KEY = "sk-of-the-receiver"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = make_run(
        tmp_path / "received",
        assistants={"a": scripted()},
        variants=("control", "anger"),
        logs=tmp_path / "logs",
    )
    fill(run, load_plan(run).cells)
    run.endpoints.mkdir(mode=0o700)
    return run


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the receiver's that is no concern of the run's."""
    environment = {TOKEN_VARIABLE: "of-another-run", RECORDS_VARIABLE: '{"run": "another"}'}
    with subprocess.Popen(
        ["sleep", "600"], env={**os.environ, **environment}, start_new_session=True
    ) as process:
        yield process
        process.kill()


# --- keys


def change_plan(run_dir: RunDir, **sweep: Any) -> None:
    plan = json.loads(run_dir.plan.read_text())
    plan["sweep"] |= sweep
    write_json(run_dir.plan, plan)


@pytest.mark.parametrize("words", [[], ["--server", "user"]])
@pytest.mark.parametrize("file", ["", "inside.yaml", "theirs.yaml", "other.yaml"])
def test_a_key_goes_to_no_address_that_only_the_run_names(
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    file: str,
) -> None:
    monkeypatch.setenv("RECEIVERS_KEY", KEY)
    with recording(lambda request: Reply('{"emotion": "anger", "intensity": 2}')) as server:
        role = OpenAIModel(model="m", base_url=server.url, api_key_env="RECEIVERS_KEY")
        judge = {"model": "m", "base_url": server.url, "api_key_env": "RECEIVERS_KEY"}
        change_plan(run_dir, judge=judge, user=role.model_dump(mode="json"))
        text = f"name: received\nmatrix: {{env: retail}}\nassistants: {{a: {{}}}}\njudge: {judge}\n"
        place = (run_dir.path if file == "inside.yaml" else run_dir.path.parent) / file
        if file:
            if file == "other.yaml":
                text = text.replace(server.url, "http://127.0.0.1:9/v1")
            place.write_text(text)
            place.chmod(0o666 if file == "theirs.yaml" else 0o644)
            plan = json.loads(run_dir.plan.read_text())
            write_json(run_dir.plan, {**plan, "sweep_file": str(place)})
        assert main(["judge", str(run_dir.path), *words]) == 2
        assert server.requests == []
        assert "names http://127.0.0.1" in capsys.readouterr().err
        given = ["--base-url", server.url, "--model", "m", "--api-key-env", "RECEIVERS_KEY"]
        assert main(["judge", str(run_dir.path), *given]) == 0
        assert server.requests


# --- processes and jobs


@pytest.mark.parametrize("token", ["", "guessed", "of-another-run"])
def test_cancel_ends_no_process_that_only_the_run_names(
    run_dir: RunDir,
    bystander: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
    token: str,
) -> None:
    pid = bystander.pid
    process = LocalProcess(pid, read_start_ticks(pid), os.uname().nodename, token)
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", str(pid), process=process)])
    assert main(["cancel", str(run_dir.path)]) == 0
    assert f"user ({pid}) is left alone" in capsys.readouterr().out
    assert bystander.poll() is None


@pytest.mark.parametrize(
    "says", ["emobench 0123456789ab server user: other|/x/submit.sh", "(null)|/home/me/train.sh 1"]
)
def test_cancel_ends_no_slurm_job_that_only_the_run_names(
    run_dir: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    says: str,
) -> None:
    slurm = SlurmCommands(tmp_path / "slurm")
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    slurm.answer(
        "squeue",
        f'case "$*" in *%k\\|%o*) echo "{says}";; *%V*) ;; *) echo "41|RUNNING|None|n1";; esac',
    )
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "41")])
    assert main(["cancel", str(run_dir.path)]) == 0
    assert "user (41) is left alone" in capsys.readouterr().out
    assert "scancel" not in (slurm.folder / "called").read_text()


@pytest.mark.parametrize(
    "key, value", [("job_id", "--me"), ("job_id", "../1"), ("name", "../../x")]
)
@pytest.mark.parametrize("command", ["cancel", "status"])
def test_an_id_that_is_no_name_is_refused(
    run_dir: RunDir, capsys: pytest.CaptureFixture[str], command: str, key: str, value: str
) -> None:
    job = {"kind": "server", "name": "user", "job_id": "41", key: value}
    write_json(run_dir.jobs, {"schema": 1, "jobs": [job]})
    assert main([command, str(run_dir.path)]) == 2
    assert "is no name" in capsys.readouterr().err


# --- files


@pytest.mark.parametrize("lease_id", ["../../../../mine", "0123456789abcdef"])
def test_cancel_removes_no_file_that_only_the_run_names(
    run_dir: RunDir, tmp_path: Path, lease_id: str
) -> None:
    other = RunDir(tmp_path / "other")
    (other.leases("user") / "x").mkdir(parents=True)
    claim = other.leases("user") / "0123456789abcdef.json"
    mine = tmp_path / "mine.json"
    for file in (claim, mine):
        write_json(file, {"schema": 1, "run_dir": "/somewhere/else", "instance": "user"})
    lease = {"run_dir": str(other.path), "instance": "user", "id": lease_id}
    write_json(run_dir.endpoint("user"), {"schema": 1, "lease": lease})
    assert main(["cancel", str(run_dir.path)]) == 0
    assert claim.exists()
    assert mine.exists()


def links(run_dir: RunDir, mine: Path, *names: str) -> None:
    """What unpacking leaves where the sender made symbolic links."""
    for name in names:
        (run_dir.path / name).unlink(missing_ok=True)
        (run_dir.path / name).symlink_to(mine)


NO_LINK = "a symbolic link stands where a file is written"


def test_cancel_writes_through_no_link_of_the_run(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    links(run_dir, mine, run_dir.submission_lock.name)
    assert main(["cancel", str(run_dir.path)]) in (1, 2)
    assert NO_LINK in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_no_lock_is_made_behind_a_link_of_the_run(run_dir: RunDir, tmp_path: Path) -> None:
    links(run_dir, tmp_path / "made", run_dir.jobs_lock.name)
    with pytest.raises(OSError, match=NO_LINK):
        add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "41", process=gone())])
    assert not (tmp_path / "made").exists()


def test_judge_appends_through_no_link_of_the_run(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / ".bashrc"
    mine.write_text("")
    links(run_dir, mine, "judge.jsonl")
    with recording(lambda request: Reply('{"emotion": "anger", "intensity": 2}')) as server:
        words = ["judge", str(run_dir.path), "--base-url", server.url, "--model", "m"]
        assert main(words) in (1, 2)
    assert NO_LINK in capsys.readouterr().err
    assert mine.read_text() == ""


def test_collect_replaces_nothing_behind_a_link_of_the_run(
    run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "tables-of-mine"
    assert main(["collect", str(run_dir.path), "-o", str(mine)]) == 0
    (mine / "episodes.parquet").write_text("mine")
    (run_dir.path / "tables").symlink_to(mine)
    assert main(["collect", str(run_dir.path)]) == 2
    assert "name the folder for the tables with -o" in capsys.readouterr().err
    assert (mine / "episodes.parquet").read_text() == "mine"


# --- imports

TRAP = "import pathlib\npathlib.Path({mark!r}).touch()\nraise SystemExit('imported')\n"
NAMES = (
    "multiprocessing",
    "json",
    "submitit",
    "emobench",
    "pyarrow",
    "orjson",
    "tau_trait",
    "yaml",
)


@pytest.fixture
def trapped(run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python's own path would have the present folder, as for `-c` and `-m`; the mark that
    an import leaves."""
    mark = tmp_path / "imported"
    for name in NAMES:
        (run_dir.path / f"{name}.py").write_text(TRAP.format(mark=str(mark)))
    monkeypatch.chdir(run_dir.path)
    return mark


def test_nothing_is_imported_from_a_run(run_dir: RunDir, trapped: Path) -> None:
    for words in (["status"], ["report", "-o", "r.html"], ["collect"], ["check"], ["cancel"]):
        command = [sys.executable, "-P", "-m", "emobench", words[0], ".", *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode in (0, 1), done.stderr
    assert not trapped.exists()


def test_processes_that_read_import_nothing_from_the_present_folder(
    run_dir: RunDir, trapped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PARALLEL_FROM", 0)
    monkeypatch.setattr(gather, "CHUNK_PARTS", 1)
    assert main(["collect", ".", "-o", str(tmp_path / "out"), "--workers", "2"]) == 0
    assert not trapped.exists()
    assert "PYTHONSAFEPATH" not in os.environ


# --- records

DEEP = "[" * 100_000 + "]" * 100_000
ODD = {
    "deep": DEEP,
    "deep in an object": '{"schema": 1, "schema_version": 1, "jobs": ' + DEEP + "}",
    "digits": "9" * 5000,
    "digits in an object": '{"schema": ' + "9" * 5000 + ', "schema_version": ' + "9" * 5000 + "}",
    "text": '"text"',
    "list": "[1]",
    "null": "null",
    "number": "1e999",
    "empty": "",
    "bytes": "\udcff\x00",
    "schema": '{"schema": [], "schema_version": {}, "jobs": {}, "cells": 3, "sweep": []}',
    "runs": '{"schema_version": 1, "collection": "x", "runs": [{"path": 3}]}',
    "lease": '{"schema": 1, "lease": {"run_dir": "a\\u0000b", "instance": 3, "id": null}}',
}
FILES = [
    "plan.json",
    "jobs.json",
    "endpoints/user.json",
    "cells/0/episodes.jsonl",
    "cells/0/variant_summary.json",
    "judge.jsonl",
    "checks.json",
    "installed_vllm.json",
    "collected.json",
    "endpoints/user.41.events.jsonl",
]
QUICK = [["status"], ["logs"], ["conversations"], ["cancel"], ["rerun", "--task", "0", "--dry-run"]]
SLOW = [["watch", "--once"], ["report"], ["collect", "-o", "out"], ["check"]]
THOROUGH = ("deep in an object", "schema", "runs")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("odd", ODD)
def test_odd_records_are_an_error_in_words(
    run_dir: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    odd: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "41", process=gone())])
    for name, *more in [*QUICK, *(SLOW if odd in THOROUGH else [])]:
        (run_dir.path / file).write_text(ODD[odd], errors="surrogateescape")
        code = main([name, str(run_dir.path), *more])
        assert code in (0, 1, 2)
        said = capsys.readouterr().err
        assert code != 2 or str(run_dir.path) in said


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_record_that_never_ends_is_an_error_in_words(
    run_dir: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    place = run_dir.path / file
    place.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero")
    for name, *more in [*QUICK, *SLOW]:
        code = main([name, str(run_dir.path), *more])
        said = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert str(run_dir.path) in said or not said or code == 0


def gone() -> LocalProcess:
    return LocalProcess(2**22 + 1, None, os.uname().nodename, "x")
