"""`emobench watch` and `emobench logs` on a real sweep of this machine."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import PATIENCE_S, stopped_cells, until
from tests.support.studies import Study
from tests.support.terminal import on_terminal


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "with space and ü"
    folder.mkdir()
    return Study(folder)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "emobench.cli", *arguments]


def once(study: Study) -> dict[str, Any]:
    result = study.run("watch", "--once", "--json")
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_from_the_first_look_to_the_final_table(study: Study) -> None:
    started = study.sweep(latency=600, tasks="0-9")
    assert started.returncode == 0, started.stderr
    with (study.folder / "progress.jsonl").open("w") as progress:
        watching = command("watch", "runs/tiny", "--json", "--interval", "0.5")
        follower = subprocess.Popen(watching, cwd=study.folder, stdout=progress)
    until(lambda: study.status()["episodes"]["finished"], "an episode", poll=0.2)
    with stopped_cells(study.run_dir):
        state = once(study)
        assert [row["state"] for row in state["servers"]] == ["ready", "ready"]
        assert all(row["running"] is not None and not row["problem"] for row in state["servers"])
        assert all(row["generation_tokens_per_s"] is not None for row in state["servers"])
        assert state["missing"] == []
        assert state["cost"]["server_hours"] > 0

        listed = study.run("logs").stdout
        assert "user_vllm_" in listed and "assistant_vllm_" in listed and "cell 0" in listed
        log = study.run("logs", "runs/tiny", "user", "-n", "100")
        assert "server user is ready" in log.stdout
        assert "user_vllm_" in log.stderr
        cell = study.run("logs", "cell", "0", "-n", "1")
        assert cell.stdout.count("\n") == 1
        unknown = study.run("logs", "runs/tiny", "assistant", "scriptd")
        assert unknown.returncode == 2
        assert "did you mean 'scripted'?" in unknown.stderr

    assert follower.wait(240) == 0
    lines = (study.folder / "progress.jsonl").read_text().splitlines()
    states = [json.loads(line) for line in lines]
    assert states[-1]["finished"] and not states[0]["finished"]
    assert any(each["episodes_per_minute"] > 0 and each["time_left_s"] for each in states)
    counts = [each["episodes_finished"] for each in states]
    assert counts == sorted(counts)
    assert {row["variant"]: row["mean_reward"] for row in states[-1]["variants"]} == {
        "control": 1.0,
        "anger": 0.0,
    }
    ended = study.run("watch", "runs/tiny")
    assert ended.returncode == 0
    assert "vs control" in ended.stdout
    assert "writes the report" in ended.stdout
    # One line for the state, then the results: a pipe gets no block and no escape.
    head, *rest = ended.stdout.splitlines()
    assert (
        "cells: 2 done of 2  episodes: 20/20  reward per episode: control 1.00, anger 0.00" in head
    )
    assert rest[1].split()[:3] == ["variant", "episodes", "reward"]
    assert "\x1b" not in ended.stdout
    coloured = on_terminal(study.folder, "watch", "runs/tiny")
    assert (
        "\x1b[?1049h" in coloured and "\x1b[?1049l" in coloured
    )  # a screen of its own, left again
    assert "\x1b[2m" in coloured
    for away in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        shown = on_terminal(study.folder, "watch", "runs/tiny", **away)
        assert "\x1b[2m" not in shown and "\x1b[3" not in shown
        assert "vs control" in shown
    assert "\x1b" not in shown
    (study.run_dir / "plan.json").unlink()
    assert study.run("watch", "runs/tiny").returncode == 2


def test_what_is_away_is_said_and_leaving_changes_nothing(study: Study) -> None:
    assert study.sweep(latency=3000, tasks="0-3").returncode == 0
    try:
        until(lambda: study.status()["cells"]["running"], "a cell to run", poll=0.2)
        with stopped_cells(study.run_dir):
            with screen(study) as (process, terminal):
                text = read_until(terminal, b"95 % interval")
                assert b"episodes" in text
                fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
                process.send_signal(signal.SIGWINCH)
                read_until(terminal, b"Ctrl-C or q leaves")
                os.write(terminal, b"q")
                text = read_until(terminal, b"the jobs go on. ")
                assert b"Traceback" not in text
                assert process.wait(240) == 130
            plain = subprocess.Popen(
                command("watch", "--interval", "1"),
                cwd=study.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert plain.stdout is not None
            assert "cells:" in plain.stdout.readline()
            plain.send_signal(signal.SIGINT)
            assert "the jobs go on" in plain.communicate(timeout=240)[1]
            assert plain.returncode == 130
            assert study.status()["live"]

        endpoint = json.loads((study.run_dir / "endpoints/user.json").read_text())
        os.kill(endpoint["pid"], signal.SIGKILL)
        until(lambda: once(study)["servers"][0]["state"] == "gone", "a gone server", poll=0.2)
        state = once(study)
        assert state["newest_error"]["where"].startswith(("server user", "cell"))
    finally:
        assert study.run("cancel", "runs/tiny").returncode == 0


@contextmanager
def screen(study: Study) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal of 80 x 24: its process, and our end of the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(
        command("watch", "--interval", "0.5"),
        cwd=study.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: bytes, seconds: float = PATIENCE_S) -> bytes:
    deadline = time.monotonic() + seconds
    text = b""
    while wanted not in text:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([terminal], [], [], left)[0]:
            raise TimeoutError(f"no {wanted!r} in {text!r}")
        text += os.read(terminal, 65536)
    return text
