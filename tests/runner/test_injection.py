"""The variant reaches every instructed call of the user, and nothing else changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from emobench.benchmarks.adapter import Benchmark, load_benchmark
from emobench.config.variants import load_builtin
from emobench.core.errors import InvalidInput
from emobench.core.models import OpenAIModel
from emobench.core.sweep import Cell, Matrix, Sweep
from emobench.llm.transport import ModelEndpoint, Role
from emobench.runner.completion import complete
from emobench.runner.episode import CellContext, run_episode
from emobench.runner.injection import SEPARATOR, UserRequest, seams
from emobench.store.episodes import EpisodeRecord
from tests.support.model_server import ModelServer, Reply, recording

TASKS = tuple(range(8))
STRATEGIES = ("llm", "react", "verify", "reflection")
# Nobody stops: scoring would cost seconds, and the step limit ends these conversations as well.
USER_TURNS = ["I need help with an order.", "Yes, please.", "And another thing."]


def reply(messages: list[dict[str, Any]]) -> str:
    first = messages[0]["content"]
    if "Classification:" in first:
        # Unsatisfactory once in a while, so that verify and reflection take their other branch.
        return "false" if "Yes, please." in first.split("# Response:")[1] else "true"
    if "Reflection:" in first:
        return "Reflection:\nToo short.\n\nResponse:\nYes, do it."
    if not first.startswith("You are a user"):
        return "Of course. Is that right?"
    turn = USER_TURNS[sum(m["role"] == "user" for m in messages) - 1]
    return f"User Response:\n{turn}" if "User Response" in first else turn


@pytest.fixture
def recorder() -> Iterator[ModelServer]:
    """An endpoint whose replies do not depend on the variant."""
    with recording(lambda body: Reply(reply(body["messages"]))) as server:
        yield server


@pytest.fixture(scope="module")
def benchmark_() -> Benchmark:
    return load_benchmark()


def converse(
    benchmark: Benchmark, recorder: ModelServer, strategy: str, variant: str
) -> tuple[list[EpisodeRecord], list[bytes]]:
    model = OpenAIModel(model="some/model", base_url=recorder.url)
    cell = Cell(
        number=0,
        assistant="a",
        env="retail",
        agent_strategy="tool-calling",
        variant=variant,
        trial=1,
        tasks=TASKS,
    )
    sweep = Sweep.model_validate(
        {
            "name": "x",
            "matrix": Matrix(
                env=("retail",),
                agent_strategy=("tool-calling",),
                variant=(variant,),
                assistant=("a",),
            ),
            "trials": 1,
            "max_steps": 2,
            "tasks": {"retail": TASKS},
            "user": model,
            "user_strategy": strategy,
            "assistants": {"a": model},
            "variants": {variant: load_builtin(variant)},
        }
    )
    target = ModelEndpoint(model.model, model.base_url, "key")
    targets: dict[Role, ModelEndpoint] = {"user": target, "assistant": target}
    context = CellContext.of(sweep, cell, benchmark)
    recorder.bodies.clear()
    with seams(benchmark, complete), ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda task: run_episode(context, targets, task, 1), TASKS))
    return records, list(recorder.bodies)


def is_of_user(body: bytes) -> bool:
    first = json.loads(body)["messages"][0]["content"]
    return first.startswith("You are a user") or "Customer" in first


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_variant_differs_from_control_in_its_suffix_alone(
    strategy: str, recorder: ModelServer, benchmark_: Benchmark
) -> None:
    records, control = converse(benchmark_, recorder, strategy, "control")
    assert [record.outcome for record in records] == ["max_steps"] * len(TASKS)
    records, bodies = converse(benchmark_, recorder, strategy, "anger")
    assert [record.outcome for record in records] == ["max_steps"] * len(TASKS)

    suffix = json.dumps(SEPARATOR + load_builtin("anger").text)[1:-1].encode()
    of_user = [body for body in bodies if is_of_user(body)]
    # The verifier and the reflection see it too: the user's prompt opens their transcript.
    assert all(body.count(suffix) == 1 for body in of_user)
    assert len(of_user) >= 3 * len(TASKS)
    assert not any(suffix in body for body in bodies if not is_of_user(body))
    assert Counter(body.replace(suffix, b"") for body in bodies) == Counter(control)


def test_no_call_is_made_before_there_is_an_instruction(
    recorder: ModelServer, benchmark_: Benchmark
) -> None:
    _, bodies = converse(benchmark_, recorder, "llm", "control")
    assert len(bodies) == len(TASKS) * (3 + 2)  # three user turns, two agent turns, nothing else
    assert all(b"Instruction: " in body for body in bodies if is_of_user(body))


def test_the_seams_are_gone_afterwards() -> None:
    # In a process of its own: threads that an earlier test abandoned hold the seams for good.
    program = """
from emobench.benchmarks.adapter import load_benchmark
from emobench.runner.completion import complete
from emobench.runner.injection import seams

benchmark = load_benchmark()
base, user = benchmark.import_module("envs.base"), benchmark.import_module("envs.user")
before = base.load_user, user.completion
with seams(benchmark, complete):
    assert base.load_user is not before[0]
    with seams(benchmark, complete):
        pass
    assert user.completion is not before[1]
assert (base.load_user, user.completion) == before
with seams(benchmark, complete) as seam:
    seam.keep = True
assert user.completion is not before[1]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_person_at_the_keyboard_is_refused() -> None:
    with pytest.raises(InvalidInput, match="human"):
        UserRequest("human", load_builtin("anger"))


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean 'frustration'"):
        load_builtin("frustated")
