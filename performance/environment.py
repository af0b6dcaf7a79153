"""tau-bench's environment alone, without models: CPU per task, over shared data against stock.

A task is what a conversation makes the environment do: it is built, reset, takes the ground
truth's actions and is scored. Both kinds take the same tasks in turn, in one process.
"""

from __future__ import annotations

import time
from typing import Any
from unittest.mock import patch

from emobench.benchmarks.adapter import Benchmark, load_benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS

STOCK_TASKS = 24  # of each environment, spread evenly: stock takes up to a second for each


class SilentUser:
    """Ends the conversation at the agent's first words."""

    def reset(self, instruction: str | None = None) -> str:
        return "hello"

    def step(self, content: str) -> str:
        return "###STOP###"

    def get_total_cost(self) -> float:
        return 0.0


def main() -> None:
    benchmark = load_benchmark()
    with patch.object(benchmark.import_module("envs.base"), "load_user", lambda **_: SilentUser()):
        for env in TASK_COUNTS:
            _measure(benchmark, env)


def _measure(benchmark: Benchmark, env: str) -> None:
    tasks = range(TASK_COUNTS[env])
    sample = tasks[:: max(1, len(tasks) // STOCK_TASKS)]
    _timed(benchmark, env, tasks[:1], shared=False)  # imports
    started = time.process_time()
    benchmark.preload(env)
    loaded = time.process_time() - started
    stock: list[float] = []
    first: list[float] = []
    again: list[float] = []
    rewards: list[list[str]] = []
    for task in sample:  # in turn, so that what else the machine does meets both
        for shared, seconds in ((False, stock), (True, first), (True, again)):
            spent, reward = _timed(benchmark, env, [task], shared)
            seconds.append(spent)
            rewards.append(reward)
    assert rewards[::3] == rewards[1::3] == rewards[2::3], "rewards differ from stock's"
    means = [1000 * sum(seconds) / len(sample) for seconds in (stock, first, again)]
    rest, _ = _timed(benchmark, env, tasks, shared=True)
    print(f"environment alone, {env} ({len(sample)} tasks, CPU, rewards and their info equal):")
    print(f"  stock                {means[0]:8.2f} ms a task")
    print(
        f"  shared, first trial  {means[1]:8.2f} ms a task, {means[0] / means[1]:5.0f} times less"
    )
    print(
        f"  shared, later trials {means[2]:8.2f} ms a task, {means[0] / means[2]:5.0f} times less"
    )
    print(f"  shared, all {len(tasks):3} tasks {1000 * rest / len(tasks):8.2f} ms a task")
    print(f"  once a process       {1000 * loaded:8.0f} ms")


def _timed(benchmark: Benchmark, env: str, tasks: Any, shared: bool) -> tuple[float, list[str]]:
    action = benchmark.import_module("types").Action
    rewards = []
    started = time.process_time()
    for task in tasks:
        environment = benchmark.make_env(env, task, "llm", "none", shared=shared)
        environment.reset(task)
        steps = [(step.name, step.kwargs) for step in environment.task.actions]
        outputs = " ".join(environment.task.outputs)
        for name, arguments in [*steps, ("respond", {"content": outputs})]:
            response = environment.step(action(name=name, kwargs=arguments))
            if response.done:
                break
        rewards.append(repr((response.reward, response.info.reward_info)))
    return time.process_time() - started, rewards


if __name__ == "__main__":
    main()
