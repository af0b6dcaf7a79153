"""Kill it, cut it, fill the disk: what is on disk afterwards is what should be there, once."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main
from tests.support.model_server import Reply, is_user, recording
from tests.support.processes import until

TASKS = 12


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The scripted server, a little slow, so that there is a middle to strike in."""
    settings = tmp_path_factory.mktemp("server") / "settings.json"
    settings.write_text(json.dumps({"latency_ms": 50}))
    command = [sys.executable, "-m", "emobench.scripted", "--without-key"]
    command += ["--role", "both", "--model", "m", "--settings", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1].rstrip("/") + "/v1"
        server.terminate()


class Cell:
    """One cell run by hand in processes of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.path = folder / "run/cells/0"

    def arguments(self, *options: str) -> list[str]:
        base = ["--env", "retail", "--model", "m", "--tasks", f"0-{TASKS - 1}"]
        base += ["--max-concurrency", "3", "--run-dir", str(self.folder / "run"), "--probe", "off"]
        return [*base, "--model-base-url", self.url, *options]

    def start(self, file_limit: int = 0) -> subprocess.Popen[str]:
        limit = (file_limit, resource.RLIM_INFINITY)
        return subprocess.Popen(
            [sys.executable, "-m", "emobench.run", *self.arguments()],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            if file_limit
            else None,
        )

    def lines(self) -> list[bytes]:
        file = self.path / "episodes.jsonl"
        return file.read_bytes().splitlines(keepends=True) if file.exists() else []

    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "variant_summary.json").read_text()))

    def complete(self) -> None:
        """Run it to its end and compare what is there with what should be."""
        process = self.start()
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        records = [json.loads(line) for line in self.lines()]
        assert Counter(record["task_id"] for record in records) == dict.fromkeys(range(TASKS), 1)
        assert {record["outcome"] for record in records} == {"solved"}
        stock = json.loads((self.path / "results.json").read_text())
        assert [(item["task_id"], item["reward"], item["trial"]) for item in stock] == [
            (task, 1.0, 0) for task in range(TASKS)
        ]
        assert self.summary()["status"] == "done"


@pytest.fixture
def cell(tmp_path: Path, url: str) -> Cell:
    return Cell(tmp_path, url)


def test_kill_9_at_random_moments(cell: Cell) -> None:
    dice = random.Random(7)
    for strike in range(4):
        process = cell.start()
        seen = len(cell.lines())
        until(lambda: len(cell.lines()) > seen or process.poll() is not None, "an episode")  # noqa: B023
        time.sleep(dice.random() * 0.3)  # the moment itself is the experiment
        process.kill()
        process.communicate()
        whole = [line for line in cell.lines() if line.endswith(b"\n")]
        assert len({json.loads(line)["task_id"] for line in whole}) == len(whole) > strike
        if len(whole) == TASKS:
            break
    before = b"".join(whole)
    cell.complete()
    assert b"".join(cell.lines()).startswith(before), "nothing that was written is run again"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_cell_in_order(cell: Cell, kind: signal.Signals) -> None:
    process = cell.start()
    until(lambda: cell.lines(), "an episode")
    process.send_signal(kind)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1, output
    assert "stopping" in output
    assert (cell.summary()["status"], cell.summary()["exit_reason"]) == (
        "incomplete",
        "interrupted",
    )
    finished = len(cell.lines())
    assert 0 < finished < TASKS
    assert cell.summary()["finished"] == finished
    cell.complete()


def test_a_full_disk_loses_nothing(cell: Cell) -> None:
    """A limit on the size of files fails a write in its middle, as a full disk does."""
    process = cell.start(file_limit=100_000)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "File too large" in output
    assert "Traceback" not in output
    kept = [line for line in cell.lines() if line.endswith(b"\n")]
    assert 0 < len(kept) < TASKS
    cell.complete()
    assert cell.lines()[: len(kept)] == kept


def test_a_second_writer_is_refused(cell: Cell) -> None:
    first = cell.start()
    until(lambda: cell.lines(), "an episode")
    # It holds the cell, and must not be done with it before the other one asks.
    first.send_signal(signal.SIGSTOP)
    try:
        second = cell.start()
        output, _ = second.communicate(timeout=240)
    finally:
        first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another process is running this cell" in output
    first.communicate(timeout=240)
    assert first.returncode == 0
    cell.complete()


def test_a_server_that_goes_away_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Down for the first tries of a call, back before the cell gives up: no episode is lost."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0,))
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    outage = iter(range(5))

    def answer(request: dict[str, Any]) -> Reply:
        if not is_user(request) and next(outage, None) is not None:
            return Reply(status=502, error="bad gateway")
        return Reply("Hello.")

    with recording(answer) as server:
        cell = Cell(tmp_path, server.url)
        assert main(cell.arguments("--max-steps", "2"), command="run") == 0
    records = [json.loads(line) for line in cell.lines()]
    assert {record["outcome"] for record in records} == {"max_steps"}
    assert sum(len(record["history"]) for record in records) >= 1
    capsys.readouterr()


def test_a_dead_server_stops_the_cell_instead_of_writing_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0,))
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.runner.endpoint_resolver.OUTAGE_S", 0.2)
    with recording(lambda request: Reply("Hello.")) as server:
        url = server.url
    cell = Cell(tmp_path, url)
    assert main(cell.arguments(), command="run") == 3
    records = [json.loads(line) for line in cell.lines()]
    assert {(record["outcome"], record["reward"]) for record in records} == {("infra_error", None)}
    assert len(records) <= 3, "the other tasks were not tried against a dead server"
    summary = cell.summary()
    assert (summary["status"], summary["exit_reason"]) == ("failed", "endpoint_unavailable")
    assert url in summary["message"]
    assert json.loads((cell.path / "results.json").read_text()) == []
    assert "endpoint_unavailable" in capsys.readouterr().out


def test_changed_content_is_refused_by_the_cell_itself(cell: Cell) -> None:
    cell.complete()
    plan = cell.folder / "run/plan.json"
    data = json.loads(plan.read_text())
    data["sweep"]["assistants"]["m"]["temperature"] = 0.5
    plan.write_text(json.dumps(data))
    process = subprocess.run(
        [sys.executable, "-m", "emobench.run", "--run-dir", "run", "--cell", "0"],
        cwd=cell.folder,
        capture_output=True,
        text=True,
        env={**os.environ},
        check=False,
    )
    assert process.returncode == 2
    assert "assistant.temperature: was 0" in process.stderr
    assert "now 0.5" in process.stderr
    assert len(cell.lines()) == TASKS
