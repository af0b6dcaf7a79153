"""Over shared data, an agent sees, earns and is told exactly what it is in stock.

Compared are, for each answer: every observation, the reward, the reward's whole info, and the
hashes of the agent's final state and of the ground truth's. Stock runs untouched: its own loader,
tools, `step`, `calculate_reward` and `get_data_hash`.

By default: the right answer to all 165 tasks against hashes that stock once gave
(ground_truth.json), and each kind of answer (`answers.ANSWERS`) to one task an environment, chosen
anew where the list of kinds changes. With EMOBENCH_FULL=1: each kind of answer to each of the 115
retail and 50 airline tasks, and ground_truth.json, against stock: 2,640 answers, some 35 minutes of
CPU, in which all was equal (tau_trait 0.1.1).
"""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from emobench.benchmarks.adapter import Benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS
from tests.support.answers import ANSWERS, WRITES, replay, right, say

FULL = bool(os.environ.get("EMOBENCH_FULL"))
ENVS = tuple(TASK_COUNTS)
GROUND_TRUTH = json.loads(Path(__file__).with_name("ground_truth.json").read_text())


def _cases() -> list[tuple[str, int, tuple[str, ...]]]:
    if FULL:
        return [(env, task, tuple(ANSWERS)) for env in ENVS for task in range(TASK_COUNTS[env])]
    draw = random.Random(3)
    return [(env, draw.randrange(TASK_COUNTS[env]), (kind,)) for env in ENVS for kind in ANSWERS]


@pytest.mark.parametrize(("env", "number", "kinds"), _cases())
def test_answers_of_every_kind_are_scored_as_in_stock(
    env: str, number: int, kinds: tuple[str, ...], benchmark_: Benchmark
) -> None:
    task = benchmark_.load_tasks(env)[number]
    for kind in kinds:
        answer = ANSWERS[kind](task)
        ours = replay(benchmark_, env, task, answer, shared=True)
        # As text, where 1, 1.0 and True differ.
        assert repr(ours) == repr(replay(benchmark_, env, task, answer, shared=False)), kind
        assert ours[-1]["done"], "no reward was compared"
        if FULL and kind == "right":
            assert ours[-2] == GROUND_TRUTH[benchmark_.label][env][number]


@pytest.mark.parametrize("env", ENVS)
def test_the_ground_truth_of_every_task_has_the_hash_that_stock_gave(
    env: str, benchmark_: Benchmark
) -> None:
    if benchmark_.label not in GROUND_TRUTH:
        pytest.skip(f"ground_truth.json has no hashes of {benchmark_.label}")
    for number, task in enumerate(benchmark_.load_tasks(env)):
        *_, ground_truth, response = replay(benchmark_, env, task, right(task), shared=True)
        assert ground_truth == GROUND_TRUTH[benchmark_.label][env][number]
        info = response["info"]["reward_info"]
        assert info["reward"] == response["reward"]
        assert task.outputs or info["info"]["gt_data_hash"] == ground_truth


VALUES: tuple[tuple[Any, Any, float], ...] = (
    (10, 10, 1.0),
    (10, 10.0, 0.0),
    (1, True, 0.0),
    (1, "1", 0.0),
    (0.0, -0.0, 0.0),
    ("a", "A", 0.0),
)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(("expected", "given", "reward"), VALUES if FULL else VALUES[1:3])
def test_equal_values_of_other_types_are_told_apart(
    env: str, expected: Any, given: Any, reward: float, benchmark_: Benchmark
) -> None:
    action = benchmark_.import_module("types").Action
    name, arguments = WRITES[env](expected)
    task = benchmark_.load_tasks(env)[0].model_copy(
        update={"actions": [action(name=name, kwargs=arguments)], "outputs": []}
    )
    answer = [WRITES[env](given), say("")]
    ours = replay(benchmark_, env, task, answer, shared=True)
    assert ours[-1]["reward"] == reward
    assert repr(ours) == repr(replay(benchmark_, env, task, answer, shared=False))


def test_threads_share_the_data_without_seeing_each_other(benchmark_: Benchmark) -> None:
    tasks = benchmark_.load_tasks("retail")[:24]
    kinds = ("right", "wrong_item", "reads_between")

    def run(case: tuple[Any, str]) -> list[Any]:
        return replay(benchmark_, "retail", case[0], ANSWERS[case[1]](case[0]), shared=True)

    cases = [(task, kind) for task in tasks for kind in kinds]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(run, cases * 3))
    assert together == [run(case) for case in cases] * 3
