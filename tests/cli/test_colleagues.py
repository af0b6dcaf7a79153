"""A colleague looks at somebody else's run: endpoints/ is closed to them, and nothing is theirs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.plan import load_plan
from emobench.core.processes import read_start_ticks
from emobench.core.run_dir import RunDir
from emobench.store.endpoints import load_api_key, publish
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord, LocalProcess, add_jobs
from tests.support.plans import scripted
from tests.support.runs import fill, make_run
from tests.support.serving import READY

NOBODY = 65534
COMMANDS = ["status", "watch --once", "logs", "logs user", "report -o report.html", "check"]
Ask = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run_dir() -> Iterator[RunDir]:
    """Not below pytest's own folder, which is its owner's alone."""
    folder = Path(tempfile.mkdtemp(prefix="emobench-"))
    folder.chmod(0o755)
    logs = folder / "logs"
    logs.mkdir()
    run = make_run(
        folder / "study", assistants={"a": scripted()}, variants=("control", "anger"), logs=logs
    )
    fill(run, load_plan(run).cells)
    load_api_key(run, create=True)
    here = LocalProcess(os.getpid(), read_start_ticks(os.getpid()), os.uname().nodename, "x")
    gone = replace(here, start_ticks=None)
    for name, job_id, process in (("user", "41", here), ("assistant_a", "42", gone)):
        add_jobs(run, [JobRecord(JobKind.SERVER, name, job_id, process=process)])
        publish(run, replace(READY, server=name, job_id=job_id, url="http://127.0.0.1:1/v1"))
        EventLog(run, name, job_id).note("ready")
    (logs / "user_vllm_41.out").write_text("the user's server says so\n")
    yield run
    shutil.rmtree(folder)


@contextmanager
def as_colleague(run_dir: RunDir) -> Iterator[None]:
    """Another user id where the tests run as root; else the same without the permissions."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
        return
    modes = {path: path.stat().st_mode for path in (run_dir.endpoints, run_dir.path)}
    try:
        run_dir.endpoints.chmod(0)
        run_dir.path.chmod(0o555)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture
def ask(
    run_dir: RunDir,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Ask:
    """Run a command as the owner, which imports all that it needs, then as a colleague."""
    desk = run_dir.path.parent / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)

    def ask(words: str) -> tuple[int, str, str]:
        command, *more = words.split()
        argv = [command, str(run_dir.path), *more]
        main(argv)
        shutil.rmtree(desk)
        desk.mkdir()
        desk.chmod(0o777)
        os.chdir(desk)
        capfd.readouterr()
        with as_colleague(run_dir):
            code = main(argv)
        return code, *capfd.readouterr()

    return ask


@pytest.mark.parametrize("command", COMMANDS)
def test_a_colleague_can_look(ask: Ask, run_dir: RunDir, command: str) -> None:
    code, out, _ = ask(command)
    assert code == (1 if command == "check" else 0)  # its gate of power fails
    if command in ("status", "watch --once"):
        words = " ".join(out.split())
        assert "endpoints/ is for its owner to read" in words
        assert words.count("endpoints/") == 1
    if command == "logs user":
        assert out == "the user's server says so\n"
    if command == "report -o report.html":
        page = Path("report.html").read_text()
        assert "endpoints/ is for its owner to read" in page
        assert "127.0.0.1" not in page
    assert load_api_key(run_dir) not in out


def test_the_queue_tells_a_colleague_how_servers_stand(ask: Ask) -> None:
    _, out, _ = ask("status")
    servers = [line.split() for line in out.splitlines() if line.startswith("server ")]
    assert servers == [
        ["server", "user", "running", "job", "41", os.uname().nodename],
        ["server", "assistant_a", "left", "job", "42"],
    ]
    # Not a sum of zeros: without the servers' records nobody can tell.
    assert "cost     not known\n         the servers: endpoints/" in out


def test_a_report_that_cannot_be_written_is_refused_before_it_is_made(
    ask: Ask, run_dir: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ask("report")
    assert (code, out) == (1, "")
    assert f"{run_dir.path} is not yours to write to" in err and "-o FILE" in err
    assert main(["report", str(run_dir.path), "-o", "nowhere/x.html"]) == 2
    assert main(["report", "nowhere"]) == 2
    assert "emobench sweep" in capfd.readouterr().err  # what a run directory is
    assert main(["report", str(run_dir.path), "-o", str(run_dir.path)]) == 2


def test_what_only_the_owner_can_do_names_the_owner(ask: Ask, run_dir: RunDir) -> None:
    (run_dir.path / "judge.jsonl").touch(0o600)
    code, _, err = ask("collect")
    assert code == 1
    assert "Permission denied" in err
    if os.geteuid() == 0:
        assert f"{run_dir.path} belongs to root" in err and "report -o FILE" in err
