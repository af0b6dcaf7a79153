"""Whole cells at endpoints that have had too many requests: they wait, lose nothing, and end at
once when they are told to."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.models import OpenAIModel
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.report.blocks import Remark
from emobench.report.sections.cost import build_cost_section
from emobench.report.study import build_study
from emobench.runner.cell import run_cell
from emobench.runs.status import build_run_status
from emobench.store.calls import describe_usage
from tests.support.model_server import Reply, good, is_user, recording
from tests.support.plans import LOCAL, make_plan

BUSY = Reply(status=429, error="slow down", headers={"retry-after-ms": "100"})
LATER = Reply(status=429, error="slow down", headers={"Retry-After": "600"})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 0.001)


class Run:
    """One cell of four tasks at a hosted endpoint; a conversation is three calls."""

    def __init__(self, folder: Path, url: str, wait_min: float = 1, **sweep: Any) -> None:
        model = OpenAIModel(model="m", base_url=url, rate_limit_wait_min=wait_min)
        options = {"tasks": 4, "trials": 1, "max_steps": 1, "concurrency": 4, "probe": "off"}
        plan = make_plan(LOCAL, folder, model, {"a": model}, **{**options, **sweep})
        self.plan: Plan = plan.model_copy(update={"benchmark": load_benchmark().label})
        self.run_dir = RunDir(folder / "run")
        self.run_dir.path.mkdir(exist_ok=True)
        save_plan(self.run_dir, self.plan)
        self.said: list[str] = []

    def cell(self, progress: Callable[[str], None] | None = None) -> int:
        return run_cell(self.plan, self.run_dir, 0, progress or self.said.append)

    @property
    def records(self) -> list[dict[str, Any]]:
        text = self.run_dir.cell(0).episodes.read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [call for record in self.records for call in record["calls"]]

    @property
    def ended(self) -> str:
        summary = json.loads(self.run_dir.cell(0).summary.read_text())
        return f"{summary['status']} {summary['exit_reason']}"


def test_no_conversation_fails_of_a_rate_limit(tmp_path: Path) -> None:
    """Every other request is refused, far more often than a failure is met."""
    numbers = itertools.count()
    with recording(lambda asked: BUSY if next(numbers) % 2 else Reply("Hm.")) as server:
        run = Run(tmp_path, server.url)
        assert run.cell() == 0
        refusals = len(server.requests) - 12
    assert [record["outcome"] for record in run.records] == ["max_steps"] * 4
    assert not any(record["history"] for record in run.records)
    refused = [call for call in run.calls if "rate_limits" in call]
    assert sum(call["rate_limits"] for call in refused) == refusals >= 11
    assert all(call["rate_limit_wait_s"] >= 0.1 * call["rate_limits"] for call in refused)
    assert all(call["latency_s"] < 0.1 * 12 for call in run.calls), "the wait is not the model's"
    assert not any("retries" in call for call in run.calls)
    said = [line for line in run.said if "rate limit" in line]
    assert said == [f"cell 0: rate limit of m at {server.url}: calls wait 0 s, as it asks"]


def test_status_and_report_say_how_long_calls_waited(tmp_path: Path) -> None:
    lock, refused = threading.Lock(), list[dict[str, Any]]()

    def answer(asked: dict[str, Any]) -> Reply:
        with lock:
            if not is_user(asked) and not refused:
                refused.append(asked)
                return Reply(status=429, headers={"Retry-After": "1.2"})
        return Reply("Hm.")

    with recording(answer) as server:
        run = Run(tmp_path, server.url, concurrency=1, tasks=2)
        for cell in run.plan.cells:
            assert run_cell(run.plan, run.run_dir, cell.number, run.said.append) == 0
    usage = build_run_status(run.plan, run.run_dir, [], {}).usage
    assert usage["user"].rate_limit_wait_s is None
    assert (usage["assistant"].rate_limit_wait_s or 0.0) >= 1.2
    waited = f"{usage['assistant'].rate_limit_wait_s:.0f} s"
    assert describe_usage(usage).endswith(f", {waited} waiting for rate limits")
    remarks = [
        block.text
        for block in build_cost_section(build_study(run.run_dir)).blocks
        if isinstance(block, Remark) and block.strong == "Waiting for rate limits."
    ]
    assert [remark.partition(" calls")[0] for remark in remarks] == [f"{waited} of the assistant's"]


def test_a_limit_that_outlasts_the_budget_is_missing_data(tmp_path: Path) -> None:
    with recording(lambda asked: BUSY) as server:
        run = Run(tmp_path, server.url, wait_min=0.15 / 60)
        assert run.cell() == 1
    assert run.ended == "incomplete infra_errors"
    assert {record["outcome"] for record in run.records} == {"infra_error"}
    with recording(lambda asked: Reply("Hm.")) as server:
        again = Run(tmp_path, server.url)
        assert again.cell() == 0
    assert [record["outcome"] for record in again.records[-4:]] == ["max_steps"] * 4


def test_an_empty_account_is_no_rate_limit(tmp_path: Path) -> None:
    empty = Reply(status=429, error="insufficient_quota", headers={"Retry-After": "600"})
    with recording(lambda asked: empty) as server:
        run = Run(tmp_path, server.url)
        assert run.cell() == 1
    assert run.ended == "incomplete infra_errors"
    assert not any("rate_limit_wait_s" in call for call in run.calls)


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("probe", ["off", "warn"])
def test_a_signal_ends_the_wait_and_leaves_no_trace(
    tmp_path: Path, kind: signal.Signals, probe: str
) -> None:
    """Neither a failed attempt nor a wait until the grace is over."""
    signalled: list[float] = []

    def progress(line: str) -> None:
        if "rate limit" in line:
            signalled.append(time.monotonic())
            os.kill(os.getpid(), kind)

    with recording(lambda asked: LATER) as server:
        run = Run(tmp_path, server.url, wait_min=60, probe=probe)
        assert run.cell(progress) == 1
        assert time.monotonic() - signalled[0] < 15
    assert run.ended == "incomplete interrupted"
    assert not run.run_dir.cell(0).episodes.exists() or run.records == []
    with recording(lambda asked: Reply("Hm.")) as server:
        again = Run(tmp_path, server.url)
        assert again.cell() == 0
    assert [record["attempt"] for record in again.records] == [1] * 4


def test_the_probe_of_a_cell_waits_too(tmp_path: Path) -> None:
    numbers = itertools.count()
    with recording(lambda asked: BUSY if next(numbers) % 2 else good(asked)) as server:
        run = Run(tmp_path, server.url, probe="enforce", max_steps=2)
        run.cell()
    summary = json.loads(run.run_dir.cell(0).summary.read_text())
    assert {role: found["state"] for role, found in summary["probe"].items()} == {
        "user": "usable",
        "assistant": "usable",
    }


def test_both_roles_of_one_endpoint_wait_together(tmp_path: Path) -> None:
    """What the user's call is told holds for the assistants' as well."""
    asked_at: list[tuple[float, bool]] = []
    lock, refused = threading.Lock(), threading.Event()

    def answer(asked: dict[str, Any]) -> Reply:
        with lock:
            asked_at.append((time.monotonic(), is_user(asked)))
            if len(asked_at) == 5:
                refused.set()
                return Reply(status=429, headers={"Retry-After": "0.6"})
        return Reply("Hm.")

    with recording(answer) as server:
        run = Run(tmp_path, server.url, concurrency=1)
        assert run.cell() == 0
    assert refused.is_set()
    assert asked_at[5][0] - asked_at[4][0] >= 0.6
