"""When a cell gives up, and how it says so."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.cluster import ClusterProfile
from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runner.cell import run_cell
from emobench.store.episodes import EpisodeStore, make_cell_filter
from tests.support.model_server import Reply, is_user, recording
from tests.support.plans import make_plan

LOCAL = ClusterProfile(name="local", scheduler="local", server_deadline_min=5)
TASKS = tuple(range(12))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())


def planned(folder: Path, model: RoleModel) -> tuple[Plan, RunDir]:
    """One cell of twelve tasks, one at a time."""
    plan = make_plan(
        LOCAL, folder, model, {"a": model}, concurrency=1, max_steps=1, trials=1, probe="off"
    )
    cell = plan.cells[0].model_copy(update={"tasks": TASKS})
    block = plan.blocks[0].model_copy(update={"size": 1})
    plan = plan.model_copy(
        update={"benchmark": load_benchmark().label, "cells": (cell,), "blocks": (block,)}
    )
    run_dir = RunDir(folder / "run")
    run_dir.path.mkdir()
    save_plan(run_dir, plan)
    return plan, run_dir


def summary(run_dir: RunDir) -> dict[str, Any]:
    return dict(json.loads(run_dir.cell(0).summary.read_text()))


class Conversations:
    """A server that fails the conversations whose number `fails` says, each of their attempts.

    From number `hold` on they last until the cell stops.
    """

    def __init__(self, fails: Callable[[int], bool], hold: int = len(TASKS)) -> None:
        self._fails, self._hold = fails, hold
        self._openings: list[str] = []
        self.stopping = threading.Event()

    def answer(self, request: dict[str, Any]) -> Reply:
        opening = str(request["messages"][0]["content"])
        if not is_user(request):
            return Reply("Hm.")
        if opening not in self._openings:  # the instruction is the task's
            self._openings.append(opening)
        number = self._openings.index(opening)
        if number >= self._hold:
            self.stopping.wait(20)
        return Reply(status=503, error="away") if self._fails(number) else Reply("Hi.")

    def progress(self, line: str) -> None:
        if line.startswith("stopping"):
            self.stopping.set()

    @contextmanager
    def cell(self, folder: Path) -> Iterator[tuple[int, RunDir]]:
        with recording(self.answer) as server:
            plan, run_dir = planned(folder, OpenAIModel(model="m", base_url=server.url))
            yield run_cell(plan, run_dir, 0, self.progress), run_dir


def lines(run_dir: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_dir.cell(0).episodes.read_text().splitlines()]


def test_three_infrastructure_errors_in_a_row_end_a_cell(tmp_path: Path) -> None:
    conversations = Conversations(lambda number: True, hold=3)
    with conversations.cell(tmp_path) as (code, run_dir):
        # The fourth was under way when the cell stopped, and is kept.
        assert (code, [line["task_id"] for line in lines(run_dir)]) == (1, [0, 1, 2, 3])
    assert conversations.stopping.is_set(), "it stopped before the fourth had ended"
    assert summary(run_dir)["exit_reason"] == "infra_errors"


def test_a_conversation_that_ends_sets_the_count_back(tmp_path: Path) -> None:
    with Conversations(lambda number: number % 3 < 2).cell(tmp_path) as (code, run_dir):
        assert [line["task_id"] for line in lines(run_dir)] == list(TASKS)
    outcomes = [line["outcome"] for line in lines(run_dir)]
    assert outcomes == ["infra_error", "infra_error", "max_steps"] * 4
    assert code == 1


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_waiting_for_a_server_is_no_servers_end(
    tmp_path: Path, kind: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell is incomplete and waits for its next submission; no server has failed."""
    plan, run_dir = planned(tmp_path, ScriptedModel(model="m"))

    def warn(*_: object) -> tuple[None, str]:
        os.kill(os.getpid(), kind)
        return None, "there is none yet"

    monkeypatch.setattr("emobench.serving.waiting.find_server", warn)
    assert run_cell(plan, run_dir, 0, lambda line: None) == 1
    assert (summary(run_dir)["status"], summary(run_dir)["exit_reason"]) == (
        "incomplete",
        "interrupted",
    )


def test_a_server_that_does_not_come_is_gone(tmp_path: Path) -> None:
    plan, run_dir = planned(tmp_path, ScriptedModel(model="m"))
    late = plan.profile.model_copy(update={"server_deadline_min": 0.001})
    plan = plan.model_copy(update={"profile": late})
    assert run_cell(plan, run_dir, 0, lambda line: None) == 3
    assert (summary(run_dir)["status"], summary(run_dir)["exit_reason"]) == (
        "failed",
        "endpoint_unavailable",
    )
    assert "server user was not ready" in summary(run_dir)["message"]


@pytest.mark.parametrize("number", [-1, 1])
def test_a_cell_that_is_not_in_the_plan_is_refused(tmp_path: Path, number: int) -> None:
    plan, run_dir = planned(tmp_path, ScriptedModel(model="m"))
    with pytest.raises(InvalidInput, match=rf"no cell {number}: .* has cells 0 to 0"):
        run_cell(plan, run_dir, number, lambda line: None)


def test_a_finished_cell_begins_nothing_and_no_other_content_joins_it(tmp_path: Path) -> None:
    with recording(lambda request: Reply("Hm.")) as server:
        plan, run_dir = planned(tmp_path, OpenAIModel(model="m", base_url=server.url))
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
        written, asked = lines(run_dir), len(server.requests)
        assert [line["task_id"] for line in written] == list(TASKS)
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
        assert (summary(run_dir)["status"], summary(run_dir)["exit_reason"]) == (
            "done",
            "completed",
        )
        longer = plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"max_steps": 2})})
        with pytest.raises(InvalidInput, match=r"12 episodes of other content(?s:.*)max_steps"):
            run_cell(longer, run_dir, 0, lambda line: None)
        assert (lines(run_dir), len(server.requests)) == (written, asked)


def test_a_task_set_aside_runs_again_with_its_history(tmp_path: Path) -> None:
    with recording(lambda request: Reply("Hm.")) as server:
        plan, run_dir = planned(tmp_path, OpenAIModel(model="m", base_url=server.url))
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
        with EpisodeStore(run_dir.cell(0), make_cell_filter(plan.cells[0])) as store:
            store.set_aside({3})
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
    again = lines(run_dir)[-1]
    assert [line["task_id"] for line in lines(run_dir)] == [*sorted({*TASKS} - {3}), 3]
    assert (again["attempt"], [each["attempt"] for each in again["history"]]) == (2, [1])


def test_what_ended_a_cell_is_in_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EpisodeStore, "append", refuse)
    with recording(lambda request: Reply("Hm.")) as server:
        plan, run_dir = planned(tmp_path, OpenAIModel(model="m", base_url=server.url))
        with pytest.raises(OSError, match="No space left"):
            run_cell(plan, run_dir, 0, lambda line: None)
    found = summary(run_dir)
    assert (found["status"], found["exit_reason"]) == ("failed", "error")
    assert found["message"].startswith("OSError: ")
    assert "No space left" in found["message"]


def test_servers_gone_between_attempts_leave_the_attempt_and_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ServersGone("server user has ended")

    monkeypatch.setattr("emobench.runner.cell.EndpointResolver.wait_for_servers", refuse)
    with Conversations(lambda number: True).cell(tmp_path) as (code, run_dir):
        (line,) = lines(run_dir)
    assert (code, line["task_id"], line["attempt"], line["history"]) == (3, 0, 1, [])
    found = summary(run_dir)
    assert (found["exit_reason"], found["message"]) == (
        "endpoint_unavailable",
        "server user has ended",
    )
