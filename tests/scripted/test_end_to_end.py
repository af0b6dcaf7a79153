"""The benchmark's own agents, users and environments over HTTP reach reward 1."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.benchmarks.adapter import AGENT_MODULES, Benchmark, load_benchmark
from tests.scripted.conftest import Launch


@pytest.fixture
def benchmark_to(monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmark_to(url, user_strategy): the benchmark with every call going to that server."""

    def route(url: str) -> Benchmark:
        benchmark = load_benchmark()
        users = benchmark.module("envs.user")
        complete = users.completion

        def completion(**arguments: Any) -> Any:
            response = complete(**arguments, api_base=f"{url}/v1", api_key="none")
            # Stock agents add this up and cannot add None.
            response._hidden_params["response_cost"] = 0.0
            return response

        def load_user(user_strategy: str, model: str, provider: str, **_: Any) -> Any:
            kind = benchmark.user_class(user_strategy)
            extra = {"trait_dict": None} if user_strategy == "llm" else {}
            if benchmark.package != "tau_trait":
                extra = {}
            return kind(model=model, provider=provider, **extra)

        monkeypatch.setattr(users, "completion", completion)
        for name in AGENT_MODULES:
            monkeypatch.setattr(benchmark.module(f"agents.{name}"), "completion", completion)
        monkeypatch.setattr(benchmark.module("envs.base"), "load_user", load_user)
        return benchmark

    return route


@pytest.mark.parametrize(
    ("env", "task", "strategy", "user"),
    [
        ("retail", 2, "tool-calling", "llm"),
        ("retail", 26, "tool-calling", "verify"),
        ("retail", 59, "act", "llm"),
        ("retail", 36, "react", "verify"),
        ("airline", 9, "few-shot", "llm"),
        ("airline", 35, "act", "llm"),
    ],
)
def test_reward_is_one(
    launch: Launch, benchmark_to: Any, env: str, task: int, strategy: str, user: str
) -> None:
    benchmark = benchmark_to(launch().url)
    environment = benchmark.make_env(env, task, user, "scripted")
    agent = benchmark.make_agent(strategy, env, "scripted", 0.0, ["User: hello"] * 5)
    result = agent.solve(environment, task)
    assert result.reward == 1.0, result.messages[-4:]


def test_a_mistake_loses_the_reward(launch: Launch, benchmark_to: Any) -> None:
    benchmark = benchmark_to(launch(mistakes=1.0).url)
    environment = benchmark.make_env("retail", 0, "llm", "scripted")
    agent = benchmark.make_agent("tool-calling", "retail", "scripted", 0.0, [])
    assert agent.solve(environment, 0).reward == 0.0
