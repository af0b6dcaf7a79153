"""Tokens and money of hosted models, and max_cost, which ends no conversation and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.config.identity import collect_cell_content
from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel, Price
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.report.blocks import Table
from emobench.report.sections.cost import build_cost_section
from emobench.report.study import build_study
from emobench.runner.cell import run_cell
from emobench.runs.cell_state import CellState, derive_cell_state
from emobench.runs.status import RunStatus, build_run_status
from emobench.scheduler.interface import JobState
from emobench.serving.budget import refuse_if_spent
from emobench.store.calls import RoleUsage, describe_usage
from emobench.store.summaries import read_summary
from tests.support.model_server import ModelServer, Reply, is_user, recording
from tests.support.plans import LOCAL, make_plan

DOLLAR_A_CALL = Price(input=2e5, output=2e5)
"""Each reply of the fake server counts 3 tokens in and 2 out."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    monkeypatch.setattr("emobench.serving.budget.LOOK_S", 0.0)
    with recording(lambda asked: Reply("Go on.") if is_user(asked) else Reply("Hm.")) as server:
        yield server


class Run:
    """Two cells of four tasks; a conversation is three calls, two of them the user's."""

    def __init__(
        self, folder: Path, server: ModelServer, price: Price | None, **sweep: Any
    ) -> None:
        self.server, self.run_dir = server, RunDir(folder / "run")
        self.run_dir.path.mkdir()
        model = OpenAIModel(model="m", base_url=server.url, price=price)
        options = {"tasks": 4, "trials": 1, "max_steps": 1, "concurrency": 1, "probe": "off"}
        plan = make_plan(LOCAL, folder, model, {"a": model}, **{**options, **sweep})
        self.plan = plan.model_copy(update={"benchmark": load_benchmark().label})
        save_plan(self.run_dir, self.plan)

    def change(self, **sweep: Any) -> Plan:
        self.plan = self.plan.model_copy(update={"sweep": self.plan.sweep.model_copy(update=sweep)})
        save_plan(self.run_dir, self.plan)
        return self.plan

    def cell(self, number: int) -> int:
        return run_cell(self.plan, self.run_dir, number, lambda text: None)

    def status(self) -> RunStatus:
        return build_run_status(self.plan, self.run_dir, [], {})

    def tasks(self, number: int) -> list[int]:
        lines = self.run_dir.cell(number).episodes.read_text().splitlines()
        return [json.loads(line)["task_id"] for line in lines]


def summary_message(run: Run, number: int) -> str:
    summary = read_summary(run.run_dir, number)
    assert summary is not None
    return summary.message


def test_at_max_cost_no_conversation_begins_and_a_higher_one_goes_on(
    tmp_path: Path, server: ModelServer
) -> None:
    run = Run(tmp_path, server, DOLLAR_A_CALL, max_cost=8.0)
    assert (run.cell(0), run.tasks(0)) == (1, [0, 1, 2]), "the one that passes it has its end"
    asked = len(server.requests)
    assert (run.cell(1), len(server.requests)) == (1, asked)
    for number, finished in ((0, 3), (1, 0)):
        summary = read_summary(run.run_dir, number)
        assert summary is not None
        assert (summary.status, summary.exit_reason) == ("incomplete", "max_cost")
        assert summary.finished == finished
        assert summary.message.startswith("max_cost reached: $9.00 of $8.00; raise it")
    status = run.status()
    assert (status.cells.waiting, status.cells.failed, list(status.problems)) == (2, 0, [])
    assert "$9.00 of $8.00 used: max_cost reached" in str(status.money)
    with pytest.raises(InvalidInput, match=r"max_cost reached: \$9\.00 of \$8\.00; nothing was"):
        refuse_if_spent(run.plan, run.run_dir)

    # Its job ended with exit code 1, which is no failure either.
    cell, job = run.plan.cells[0], {"3_0": JobState("FAILED", exit_code="1:0")}
    state, reason = derive_cell_state(cell, read_summary(run.run_dir, 0), "3_0", job)
    assert (state, reason) == (CellState.WAITING, summary_message(run, 0))

    refuse_if_spent(run.change(max_cost=100.0), run.run_dir)
    assert (run.cell(0), run.cell(1)) == (0, 0)
    assert (run.tasks(0), run.tasks(1)) == ([0, 1, 2, 3], [0, 1, 2, 3])
    assert run.status().finished


def test_a_cell_goes_by_what_the_others_spend_and_by_the_limit_of_the_moment(
    tmp_path: Path, server: ModelServer
) -> None:
    run = Run(tmp_path, server, DOLLAR_A_CALL)
    assert run.cell(1) == 0
    stale = run.plan
    run.change(max_cost=14.0)
    run.plan = stale  # as a cell has it that began before
    assert (run.cell(0), run.tasks(0)) == (1, [0])


def test_tokens_and_money_by_role_and_cell(tmp_path: Path, server: ModelServer) -> None:
    run = Run(tmp_path, server, DOLLAR_A_CALL, tasks=2)
    assert (run.cell(0), run.cell(1)) == (0, 0)
    status = run.status()
    each = {"user": RoleUsage(12, 8, 4.0), "assistant": RoleUsage(6, 4, 2.0)}
    assert status.usage_by_cell == {0: each, 1: each}
    assert (
        describe_usage(status.usage) == "user 24 in, 16 out, $8.00; assistant 12 in, 8 out, $4.00"
    )
    assert status.to_json()["usage"]["user"]["cost"] == 8.0
    (table,) = [
        block
        for block in build_cost_section(build_study(run.run_dir)).blocks
        if isinstance(block, Table) and block.name == "cost-models"
    ]
    shown = [[cell.text for cell in row] for row in table.rows]
    names = ["retail", "tool-calling", "a"]
    spent = ["12", "8", "$4.00", "6", "4", "$2.00"]
    assert shown == [[*names, "control", *spent], [*names, "frustration", *spent]]


def test_a_conversation_that_is_begun_again_has_cost_all_the_same(
    tmp_path: Path, server: ModelServer
) -> None:
    failures = iter([Reply(status=503, error="overloaded")])
    server.answer = lambda asked: (
        Reply("Go on.") if is_user(asked) else next(failures, Reply("Hm."))
    )
    run = Run(tmp_path, server, DOLLAR_A_CALL, tasks=1)
    assert run.cell(0) == 0
    (line,) = run.run_dir.cell(0).episodes.read_text().splitlines()
    assert json.loads(line)["cost"] == 3.0, "of the conversation itself"
    assert run.status().usage["user"] == RoleUsage(9, 6, 3.0)
    assert run.cell(0) == 0
    assert run.status().usage["user"] == RoleUsage(9, 6, 3.0), "what is read again counts once"


def test_no_second_attempt_is_begun_beyond_the_limit(tmp_path: Path, server: ModelServer) -> None:
    server.answer = lambda asked: (
        Reply("Go on.") if is_user(asked) else Reply(status=503, error="overloaded")
    )
    run = Run(tmp_path, server, DOLLAR_A_CALL, tasks=1, max_cost=0.5)
    assert run.cell(0) == 1
    (line,) = run.run_dir.cell(0).episodes.read_text().splitlines()
    assert (json.loads(line)["attempt"], json.loads(line)["outcome"]) == (1, "infra_error")


def test_without_a_price_there_are_tokens_and_no_money(tmp_path: Path, server: ModelServer) -> None:
    run = Run(tmp_path, server, None, tasks=2, max_cost=0.01)
    assert run.cell(0) == 0
    assert run.status().usage["user"] == RoleUsage(12, 8, None)


def test_what_a_model_costs_is_no_part_of_a_conversation(
    tmp_path: Path, server: ModelServer
) -> None:
    free = Run(tmp_path, server, None).plan
    dear = free.model_copy(
        update={
            "sweep": free.sweep.model_copy(
                update={
                    "max_cost": 1.0,
                    "user": OpenAIModel(model="m", base_url=server.url, price=DOLLAR_A_CALL),
                }
            )
        }
    )
    contents = [
        collect_cell_content(plan.sweep, plan.cells[0], plan.benchmark) for plan in (free, dear)
    ]
    assert contents[0] == contents[1]
