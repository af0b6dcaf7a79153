"""The benchmark's own agents, users and environments over HTTP reach reward 1."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.config.variants import load_builtin
from emobench.core.sweep import BUILTIN_VARIANTS
from emobench.runner.injection import UserRequest, seams
from tests.support.scripted import Launch

VARIANTS = {name: load_builtin(name).text for name in BUILTIN_VARIANTS}


def solve(url: str, env: str, task: int, strategy: str, user: str, variant: str) -> Any:
    """The stock agent's result on one task, both roles played by the server at `url`."""

    def complete(_: str, stock: Any, **arguments: Any) -> Any:
        response = stock(**arguments, api_base=f"{url}/v1", api_key="none")
        # Stock agents add this up and cannot add None.
        response._hidden_params["response_cost"] = 0.0
        return response

    benchmark = load_benchmark()
    with seams(benchmark, complete):
        request = UserRequest(user, load_builtin(variant))
        environment = benchmark.make_env(env, task, request, "scripted")
        agent = benchmark.make_agent(strategy, env, "scripted", 0.0, ["User: hello"] * 5)
        return agent.solve(environment, task)


@pytest.mark.parametrize(
    ("env", "task", "strategy", "user", "variant"),
    [
        ("retail", 2, "tool-calling", "llm", "control"),
        ("retail", 26, "tool-calling", "verify", "anger"),
        ("retail", 59, "act", "reflection", "placebo"),
        ("retail", 36, "react", "react", "confusion"),
        ("airline", 9, "few-shot", "react", "anxiety"),
        ("airline", 35, "act", "llm", "frustration"),
    ],
)
def test_reward_is_one(
    launch: Launch, env: str, task: int, strategy: str, user: str, variant: str
) -> None:
    # Every other variant fails: the reward shows that this one was recognised.
    mistakes = dict.fromkeys(set(BUILTIN_VARIANTS) - {variant}, 1.0)
    client = launch(mistakes=mistakes, variants=VARIANTS)
    result = solve(client.url, env, task, strategy, user, variant)
    assert result.reward == 1.0, result.messages[-4:]


@pytest.mark.parametrize("user", ["llm", "react", "verify", "reflection"])
def test_a_mistake_loses_the_reward(launch: Launch, user: str) -> None:
    client = launch(mistakes={"anger": 1.0}, variants=VARIANTS)
    result = solve(client.url, "retail", 0, "tool-calling", user, "anger")
    assert result.reward == 0.0
    assert result.info["reward_info"] is not None
