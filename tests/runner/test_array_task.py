"""A cell as an array's task: it is queued again where Slurm ends it before its work is done."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.cluster import ClusterProfile
from emobench.core.models import OpenAIModel
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runner.array_task import run_task
from emobench.store.endpoints import publish
from emobench.store.jobs import JobKind, JobRecord, add_jobs
from tests.support.model_server import Reply, is_user, recording
from tests.support.plans import make_plan, scripted
from tests.support.serving import READY
from tests.support.slurm_commands import SlurmCommands

HM = Reply("Hm.")
SITE = ClusterProfile(name="site", scheduler="slurm")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    commands = SlurmCommands(tmp_path / "bin")
    for name, value in {**commands.environment, "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    commands.say("scontrol", "JobId=7 StartTime=100 EndTime=200 PreemptTime=None")
    return commands


class Task:
    """A cell of two tasks, which is warned while the conversation on `warned_at` is under way."""

    def __init__(
        self, folder: Path, warned_at: int, kind: signal.Signals, reply: Reply = HM
    ) -> None:
        self.folder, self._warned_at, self._kind = folder, warned_at, kind
        self._reply = reply
        self.warnings: list[str] = []

    def start(self) -> int:
        warned = threading.Event()
        openings: list[str] = []

        def answer(request: dict[str, Any]) -> Reply:
            if is_user(request) and (opening := request["messages"][0]["content"]) not in openings:
                openings.append(opening)
                if len(openings) == self._warned_at:
                    os.kill(os.getpid(), self._kind)
                    warned.wait(20)
            return self._reply

        with recording(answer) as server:
            plan, run_dir = self._planned(OpenAIModel(model="m", base_url=server.url))
            try:
                return run_task(
                    plan,
                    run_dir,
                    0,
                    of_array=True,
                    progress=lambda line: None,
                    warn=self.warnings.append,
                )
            finally:
                warned.set()

    def _planned(self, model: OpenAIModel) -> tuple[Plan, RunDir]:
        models = {"a": model}
        plan = make_plan(
            SITE, self.folder, model, models, concurrency=1, max_steps=1, trials=1, probe="off"
        )
        cell = plan.cells[0].model_copy(update={"tasks": (0, 1)})
        block = plan.blocks[0].model_copy(update={"size": 1})
        plan = plan.model_copy(
            update={"benchmark": load_benchmark().label, "cells": (cell,), "blocks": (block,)}
        )
        run_dir = RunDir(self.folder / "run")
        run_dir.path.mkdir(exist_ok=True)
        save_plan(run_dir, plan)
        return plan, run_dir


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.cell.GRACE_S", 0.0)
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())


def requeued(slurm: SlurmCommands) -> int:
    return slurm.calls("scontrol").count("requeue 7")


@pytest.mark.parametrize("kind", [signal.SIGUSR1, signal.SIGTERM])
def test_a_task_goes_on_after_its_time_limit_and_not_after_a_cancellation(
    kind: signal.Signals, slurm: SlurmCommands, tmp_path: Path
) -> None:
    assert Task(tmp_path, 2, kind).start() == 1
    assert requeued(slurm) == (kind is signal.SIGUSR1)


def test_a_task_whose_time_is_too_short_for_a_conversation_ends(
    slurm: SlurmCommands, tmp_path: Path
) -> None:
    task = Task(tmp_path, 1, signal.SIGUSR1)
    for start in (1, 2, 3):
        assert task.start() == 1
        assert requeued(slurm) == min(start, 2)
    assert "give the array more time" in task.warnings[0]
    summary = json.loads((tmp_path / "run" / "cells" / "0" / "variant_summary.json").read_text())
    assert summary["fruitless_starts"] == 3


def test_a_task_whose_model_does_not_answer_goes_on_later_three_times(
    slurm: SlurmCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.runner.cell.ERRORS_IN_A_ROW", 1)
    monkeypatch.setattr("emobench.runner.cell.MAX_ATTEMPTS", 1)
    for start in (1, 2, 3):
        task = Task(tmp_path, 0, signal.SIGUSR1, Reply(status=503, error="away"))
        assert task.start() == 1
        assert requeued(slurm) == min(start, 2)
    assert "what was wrong with its servers" in task.warnings[0]


@pytest.mark.parametrize("final", [False, True])
def test_a_task_whose_server_failed_for_good_does_not_go_on(
    final: bool, slurm: SlurmCommands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.serving.waiting.JOB_CHECK_S", 0.0)
    plan = make_plan(SITE, tmp_path, scripted(), {"a": scripted()}, probe="off")
    plan = plan.model_copy(update={"benchmark": load_benchmark().label})
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    save_plan(run_dir, plan)
    servers = ("user", "1"), ("assistant_a", "2")
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, *each) for each in servers])
    slurm.say("sacct", "1|FAILED|1:0|" if final else "1|TIMEOUT|0:0|", "2|TIMEOUT|0:0|")
    if final:
        publish(run_dir, replace(READY, server="user", state="failed", job_id="1"))
    warnings: list[str] = []
    code = run_task(
        plan, run_dir, 0, of_array=True, progress=lambda line: None, warn=warnings.append
    )
    assert (code, requeued(slurm)) == (3, not final)
