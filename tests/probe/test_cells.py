"""The probe before a cell's first episode."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.cluster import ClusterProfile
from emobench.core.models import OpenAIModel, RoleModel, ScriptedModel
from emobench.core.plan import Plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe import cells
from emobench.probe.cells import CellProbe, probe_cell
from emobench.runner.cell import run_cell
from emobench.store.endpoints import load_api_key, publish
from tests.support.model_server import ModelServer, Reply, good, is_user, proving
from tests.support.plans import make_plan
from tests.support.serving import READY

LOCAL = ClusterProfile(name="local", scheduler="local", server_deadline_min=5)


def never_calls(request: dict[str, Any]) -> Reply:
    return good(request) if is_user(request) else Reply("What is your name?")


class Run:
    """Four cells (two variants, two trials) of two tasks, and their servers as they announce
    themselves; both answer as `endpoint` says."""

    def __init__(self, folder: Path, endpoint: ModelServer, role: RoleModel, **sweep: Any) -> None:
        self.endpoint = endpoint
        self.run_dir = RunDir(folder / "run")
        self.run_dir.path.mkdir()
        benchmark = load_benchmark()
        plan = make_plan(LOCAL, folder, role, {"a": role}, max_steps=2, concurrency=1, **sweep)
        self.plan = plan.model_copy(update={"benchmark": benchmark.label})
        save_plan(self.run_dir, self.plan)
        self.lines: list[str] = []

    def announce(self, incarnation: str) -> None:
        self.endpoint.prove = proving(load_api_key(self.run_dir, create=True), incarnation)
        roles: dict[str, Role] = {"user": "user", "assistant_a": "assistant"}
        for server, role in roles.items():
            url = self.endpoint.url.replace("/v1", f"/{server}/v1")
            named = replace(READY, server=server, role=role, url=url, incarnation=incarnation)
            publish(self.run_dir, named)

    def cell(self, number: int) -> int:
        return run_cell(self.plan, self.run_dir, number, self.lines.append)

    def summary(self, number: int) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.run_dir.cell(number).summary.read_text())
        return data

    @property
    def log(self) -> str:
        return "\n".join(self.lines)


Started = Callable[..., Run]


@pytest.fixture
def started(tmp_path: Path, endpoint: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Started:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))

    def start(**sweep: Any) -> Run:
        run = Run(tmp_path, endpoint, ScriptedModel(model="m"), **sweep)
        run.announce("0a")
        return run

    return start


@pytest.fixture
def external(tmp_path: Path, endpoint: ModelServer) -> Run:
    """The same cells against an endpoint that is not the run's own."""
    return Run(tmp_path, endpoint, OpenAIModel(model="m", base_url=endpoint.url))


def test_a_good_endpoint_is_noted(started: Started) -> None:
    run = started()
    assert run.cell(0) == 0
    summary = run.summary(0)
    assert summary["status"] == "done"
    assert summary["probe"] == {
        role: {"state": "usable", "verdict": f"usable as {role}", "warnings": []}
        for role in ("assistant", "user")
    }
    assert "probe" not in run.log
    assert run.endpoint.requests[0]["seed"] == run.plan.sweep.seed


def test_a_fatal_verdict_ends_the_cell_before_its_first_episode(started: Started) -> None:
    run = started()
    run.endpoint.answer = never_calls
    assert run.cell(0) == 2
    summary = run.summary(0)
    assert (summary["status"], summary["exit_reason"]) == ("failed", "probe_failed")
    assert "never calls a tool by itself" in summary["message"]
    assert "`probe: warn`" in summary["message"]
    assert summary["probe"]["assistant"]["state"] == "not_usable"
    assert summary["probe"]["user"]["state"] == "usable"
    assert summary["finished"] == 0
    assert "never calls a tool by itself" in run.log
    assert not run.run_dir.cell(0).episodes.exists() or not run.run_dir.cell(0).episodes.read_text()


def test_warn_goes_on(started: Started) -> None:
    run = started(probe="warn")
    run.endpoint.answer = never_calls
    assert run.cell(0) == 0
    summary = run.summary(0)
    assert (summary["status"], summary["finished"]) == ("done", 2)
    assert summary["probe"]["assistant"]["state"] == "not_usable"
    assert "probe of the assistant: not usable" in run.log


def test_off_asks_nothing(started: Started) -> None:
    run = started(probe="off")
    run.endpoint.answer = never_calls
    assert run.cell(0) == 0
    assert run.endpoint.probes == 0
    assert run.summary(0)["probe"] == {}


def test_warnings_stand_in_the_log_and_the_summary(started: Started) -> None:
    run = started()
    run.endpoint.models = {"data": [{"id": "m", "max_model_len": 9000}]}
    assert run.cell(0) == 0
    warnings = run.summary(0)["probe"]["assistant"]["warnings"]
    assert warnings == ["context: 9,000 tokens"]
    assert "probe of the assistant: usable with warnings" in run.log


def test_each_incarnation_is_probed_once(started: Started) -> None:
    run = started()
    assert [run.cell(0), run.cell(1), run.cell(2)] == [0, 0, 0]
    assert run.endpoint.probes == 1
    assert [run.summary(n)["probe"]["user"]["state"] for n in range(3)] == ["usable"] * 3
    names = sorted(path.name for path in run.run_dir.endpoints.glob("probe_*"))
    assert names == ["probe_assistant_a_0a_retail.json", "probe_user_0a_retail.json"]
    run.announce("0b")
    assert run.cell(3) == 0
    assert run.endpoint.probes == 2
    assert not [path for path in run.run_dir.endpoints.iterdir() if "claim" in path.name]


def test_a_fatal_verdict_stands_until_the_server_starts_again(started: Started) -> None:
    run = started()
    run.endpoint.answer = never_calls
    assert [run.cell(0), run.cell(1)] == [2, 2]
    asked = len(run.endpoint.requests)
    run.endpoint.answer = good
    assert run.cell(2) == 2
    assert len(run.endpoint.requests) == asked
    run.announce("0b")
    assert [run.cell(0), run.cell(2)] == [0, 0]
    assert run.summary(0)["exit_reason"] == "completed"


def test_a_cell_that_has_an_episode_is_not_probed_again(started: Started) -> None:
    run = started()
    first = run.plan.cells[0].model_copy(update={"tasks": (0,)})
    whole = run.plan
    run.plan = whole.model_copy(update={"cells": (first, *whole.cells[1:])})
    assert run.cell(0) == 0
    run.plan = whole
    run.announce("0b")
    run.endpoint.answer = never_calls
    assert run.cell(0) == 0
    assert run.endpoint.probes == 1
    assert run.summary(0)["finished"] == 2
    assert run.summary(0)["probe"]["assistant"]["state"] == "usable", "what was found stays"


def test_text_agents_need_no_tools(started: Started) -> None:
    run = started()
    act = run.plan.cells[0].model_copy(update={"agent_strategy": "act"})
    run.plan = run.plan.model_copy(update={"cells": (act, *run.plan.cells[1:])})
    run.endpoint.answer = never_calls
    assert run.cell(0) == 0
    assert run.summary(0)["probe"]["assistant"]["state"] == "usable"
    assert run.cell(1) == 2, "what was found without tools does not speak for those who need them"


def test_a_server_that_fails_is_left_to_the_episodes(started: Started) -> None:
    run = started()
    run.endpoint.answer = lambda request: Reply(status=503, error="overloaded")
    assert run.cell(0) == 1
    summary = run.summary(0)
    assert (summary["status"], summary["exit_reason"]) == ("incomplete", "infra_errors")
    assert summary["probe"]["assistant"]["state"] == "unreachable"
    assert not list(run.run_dir.endpoints.glob("probe_*")), "nobody should believe this later"


def test_an_endpoint_of_others_that_was_mended_is_believed(external: Run) -> None:
    external.endpoint.answer = never_calls
    assert external.cell(0) == 2
    external.endpoint.answer = good
    assert [external.cell(0), external.cell(1)] == [0, 0]
    assert external.endpoint.probes == 2 + 1, "asked twice where it fails, once where it is well"


@pytest.mark.parametrize("named", [True, False], ids=["an address", "the provider's own"])
def test_endpoints_behind_litellm_are_probed_as_others_are(
    tmp_path: Path, endpoint: ModelServer, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", endpoint.url)
    url = endpoint.url if named else None
    run = Run(tmp_path, endpoint, OpenAIModel(model="m", provider="hosted_vllm", base_url=url))
    target = ModelEndpoint("m", url, "k", provider="hosted_vllm")
    endpoint.answer = never_calls
    found = probed(run.plan, run.run_dir, 0, target)
    assert "never calls a tool by itself" in found.failure
    assert found.roles["user"]["state"] == "usable"
    endpoint.answer = lambda request: Reply(status=400, error="Your credit balance is too low")
    found = probed(run.plan, run.run_dir, 0, target)
    assert "credit balance" in found.failure
    endpoint.answer = good
    found = probed(run.plan, run.run_dir, 0, target)
    assert {role["state"] for role in found.roles.values()} == {"usable"}
    asked = len(endpoint.requests)
    assert probed(run.plan, run.run_dir, 1, target) == found
    assert len(endpoint.requests) == asked, "what spoke for it counts for other cells"
    endpoint.answer = lambda request: Reply(status=503, error="loading")
    (run.run_dir.endpoints / "probe_assistant_a_external_retail.json").unlink()
    found = probed(run.plan, run.run_dir, 2, target)
    assert (found.failure, found.roles["assistant"]["state"]) == ("", "unreachable")
    assert len(endpoint.requests) == asked + 3, "once, and sent again twice"


def probed(plan: Plan, run_dir: RunDir, number: int, target: ModelEndpoint) -> CellProbe:
    targets: dict[Role, ModelEndpoint] = {"user": target, "assistant": target}
    return probe_cell(
        plan, run_dir, plan.cells[number], targets, load_benchmark(), lambda: False, print
    )


def test_cells_that_start_together_share_one_probe(tmp_path: Path, endpoint: ModelServer) -> None:
    run = Run(tmp_path, endpoint, ScriptedModel(model="m"))
    target = ModelEndpoint("m", endpoint.url, None, incarnation="0a")
    together = threading.Barrier(4)

    def start(number: int) -> CellProbe:
        together.wait(240)
        return probed(run.plan, run.run_dir, number, target)

    load_benchmark().read_tools_info("retail")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(start, range(4)))
    assert {state["state"] for one in found for state in one.roles.values()} == {"usable"}
    assert endpoint.probes == 1


def test_a_probe_that_was_killed_holds_nobody_up_for_ever(
    tmp_path: Path, endpoint: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, endpoint, ScriptedModel(model="m"))
    run.run_dir.endpoints.mkdir()
    (run.run_dir.endpoints / ".probe_assistant_a_0a_retail.json.claim").touch()
    monkeypatch.setattr(cells, "WAIT_S", 0.0)
    target = ModelEndpoint("m", endpoint.url, None, incarnation="0a")
    assert probed(run.plan, run.run_dir, 0, target).roles["assistant"]["state"] == "usable"
    assert sorted(path.name for path in run.run_dir.endpoints.iterdir()) == [
        "probe_assistant_a_0a_retail.json",
        "probe_user_0a_retail.json",
    ]


def test_a_signal_does_not_wait_for_a_server_that_is_silent(
    tmp_path: Path, endpoint: ModelServer
) -> None:
    run = Run(tmp_path, endpoint, ScriptedModel(model="m"))
    arrived, free = threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> Reply:
        arrived.set()
        free.wait(240)
        return good(request)

    endpoint.answer = answer
    target = ModelEndpoint("m", endpoint.url, None, incarnation="0a")
    targets: dict[Role, ModelEndpoint] = {"user": target, "assistant": target}
    try:
        found = probe_cell(
            run.plan,
            run.run_dir,
            run.plan.cells[0],
            targets,
            load_benchmark(),
            arrived.is_set,
            print,
        )
    finally:
        free.set()
    assert found == CellProbe()


def test_a_file_of_something_else_is_not_believed(tmp_path: Path, endpoint: ModelServer) -> None:
    run = Run(tmp_path, endpoint, ScriptedModel(model="m"))
    run.run_dir.endpoints.mkdir()
    target = ModelEndpoint("m", endpoint.url, None, incarnation="0a")
    file = run.run_dir.endpoints / "probe_assistant_a_0a_retail.json"
    for text in ("[]", "{}", '{"schema": 1, "checks": [3], "calls": [], "written": 1}', "{"):
        file.write_text(text)
        assert probed(run.plan, run.run_dir, 0, target).roles["assistant"]["state"] == "usable"
    assert endpoint.probes == 4
