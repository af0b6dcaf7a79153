"""How many conversations a cell has at a hosted endpoint follows what the endpoint takes."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.core.models import OpenAIModel
from emobench.core.plan import save_plan
from emobench.core.run_dir import RunDir
from emobench.llm.concurrency import ConcurrencyController
from emobench.runner.cell import run_cell
from emobench.store.episodes import read_lines
from tests.support.model_server import Reply, recording
from tests.support.plans import LOCAL, make_plan

REPLY_S = 0.05


@pytest.fixture(autouse=True)
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.pace.LOOK_S", 0.05)
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 0.01)
    impatient = partial(ConcurrencyController, settle_s=0.3)
    monkeypatch.setattr("emobench.llm.endpoint_limits.ConcurrencyController", impatient)


class Endpoint:
    """Takes so many requests at a time, each for as long as the others, and refuses more."""

    def __init__(self, takes: int = 1000) -> None:
        self.takes, self.most, self.refusals, self.requests = takes, 0, 0, 0
        self._now, self._lock = 0, threading.Lock()

    def answer(self, request: dict[str, Any]) -> Reply:
        with self._lock:
            self.requests += 1
            if self._now >= self.takes:
                self.refusals += 1
                return Reply(status=429, error="too many", headers={"retry-after-ms": "50"})
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(REPLY_S)
        with self._lock:
            self._now -= 1
        return Reply("Hm.")


def converse(folder: Path, endpoint: Endpoint, tasks: int, **sweep: Any) -> list[str]:
    """The outcomes of a cell whose two roles are at the endpoint."""
    with recording(endpoint.answer) as server:
        model = OpenAIModel(model="m", base_url=server.url)
        options = {"tasks": tasks, "trials": 1, "max_steps": 4, "probe": "off"}
        plan = make_plan(LOCAL, folder, model, {"a": model}, **{**options, **sweep})
        plan = plan.model_copy(update={"benchmark": load_benchmark().label})
        run_dir = RunDir(folder / "run")
        run_dir.path.mkdir()
        save_plan(run_dir, plan)
        assert run_cell(plan, run_dir, 0, lambda line: None) == 0
    lines = read_lines(run_dir.cell(0).episodes)
    return [str(line.record.outcome) for line in lines if line.record is not None]


def test_an_endpoint_that_takes_more_gets_more(tmp_path: Path) -> None:
    endpoint = Endpoint()
    assert converse(tmp_path, endpoint, 60) == ["max_steps"] * 60
    assert endpoint.most > 12, "it began with 8"
    assert endpoint.refusals == 0


def test_concurrency_is_an_upper_bound_where_it_is_set(tmp_path: Path) -> None:
    endpoint = Endpoint()
    converse(tmp_path, endpoint, 20, concurrency=3)
    assert endpoint.most <= 3


def test_an_endpoint_that_refuses_gets_fewer(tmp_path: Path) -> None:
    """Without it half of the requests of eight conversations would be refused to the end."""
    endpoint = Endpoint(takes=3)
    assert converse(tmp_path, endpoint, 40) == ["max_steps"] * 40
    assert endpoint.most == 3
    assert endpoint.refusals < 0.3 * endpoint.requests, (endpoint.refusals, endpoint.requests)
