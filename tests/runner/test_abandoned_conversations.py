"""A conversation that its cell could not wait for goes on in its thread: where, is still ours."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import AGENT_MODULES, load_benchmark
from emobench.cli.main import main
from emobench.runner import injection
from tests.support.model_server import Reply, is_user, recording
from tests.support.processes import until


@pytest.fixture
def stock_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the benchmark's own `completion`, which calls a provider's own address.

    The cell's hold on the benchmark is for good; it ends with the test.
    """
    calls: list[dict[str, Any]] = []

    def completion(**arguments: Any) -> None:
        calls.append(arguments)
        raise RuntimeError("a provider was called")

    benchmark = load_benchmark()
    for name in ("envs.user", *(f"agents.{module}" for module in AGENT_MODULES)):
        monkeypatch.setattr(benchmark.import_module(name), "completion", completion)
    for name, attribute in (("envs.base", "load_user"), ("agents.few_shot_agent", "random")):
        module = benchmark.import_module(name)
        monkeypatch.setattr(module, attribute, getattr(module, attribute))
    monkeypatch.setattr(injection, "_installed", 0)
    monkeypatch.setattr(injection, "_undo", [])
    return calls


def test_an_abandoned_conversation_never_reaches_a_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stock_calls: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr("emobench.runner.cell.GRACE_S", 0.0)
    cell_ended, went_on = threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            if not cell_ended.is_set():
                return Reply("Hi.")
            went_on.set()
            return Reply(status=400, error="maximum context length")  # the conversation's end
        os.kill(os.getpid(), signal.SIGUSR1)
        cell_ended.wait(240)
        return Reply("Hello.")

    with recording(answer) as server:
        arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--probe", "off"]
        arguments += ["--model-base-url", server.url, "--run-dir", str(tmp_path / "run")]
        assert main(arguments, command="run") == 1
        threads = [each for each in threading.enumerate() if each.name.startswith("episode-")]
        cell_ended.set()
        until(lambda: went_on.is_set() or stock_calls, "the abandoned conversation's next call")
        for thread in threads:
            thread.join(240)
    assert len(threads) == 1
    assert stock_calls == []
    assert not (tmp_path / "run/cells/0/episodes.jsonl").read_bytes(), "it is run again"
