"""Answers to tau-bench tasks, right and systematically wrong ones, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from emobench.benchmarks.adapter import Benchmark

Step = tuple[str, dict[str, Any]]
Answer = list[Step]

STOP = "###STOP###"
BYE = "bye"


class ShortUser:
    """Says stop when the agent says bye."""

    def reset(self, instruction: str | None = None) -> str:
        return "hello"

    def step(self, content: str) -> str:
        return STOP if content.endswith(BYE) else "go on"

    def get_total_cost(self) -> float:
        return 0.0


def load_short_user(**_: Any) -> ShortUser:
    return ShortUser()


def replay(benchmark: Benchmark, env: str, task: Any, answer: Answer, shared: bool) -> list[Any]:
    """Everything that an agent and a runner see of an answer, and the hashes of both states."""
    environment = benchmark.make_env(env, 0, "llm", "none", shared=shared)
    # Tools keep lists of a task's arguments and change them: each replay has a task of its own.
    environment.tasks = [deepcopy(task)]
    seen: list[Any] = [environment.reset(0).model_dump()]
    stock_hash = environment.get_data_hash

    def get_data_hash() -> str:
        digest: str = stock_hash()
        seen.append(digest)
        return digest

    environment.get_data_hash = get_data_hash
    action = benchmark.import_module("types").Action
    for name, arguments in deepcopy(answer):
        try:
            response = environment.step(action(name=name, kwargs=arguments))
        except Exception as error:  # stock's step fails where a tool returns nothing
            seen.append(f"{type(error).__name__}: {error}")
            continue
        seen.append(response.model_dump())
        if response.done:
            break
    return seen


def right(task: Any) -> Answer:
    """The ground truth, then all of the expected outputs, then the end."""
    steps = [(action.name, deepcopy(action.kwargs)) for action in task.actions]
    return [*steps, say(" and ".join(task.outputs))]


def say(text: str) -> Step:
    return ("respond", {"content": f"{text} {BYE}"})


def no_change(task: Any) -> Answer:
    return [say("Nothing can be done.")]


def no_output(task: Any) -> Answer:
    return [*right(task)[:-1], say("")]


def other_output(task: Any) -> Answer:
    """Each output with a digit more in front or a letter more inside."""
    return [*right(task)[:-1], say(" and ".join(f"9{out[:1]}x{out[1:]}" for out in task.outputs))]


def output_with_commas(task: Any) -> Answer:
    return [*right(task)[:-1], say(" and ".join(",".join(out.upper()) for out in task.outputs))]


def missing_action(task: Any) -> Answer:
    return [*right(task)[:-2], right(task)[-1]]


def repeated_actions(task: Any) -> Answer:
    steps = right(task)
    return [*steps[:-1], *steps]


def backwards(task: Any) -> Answer:
    steps = right(task)
    return [*reversed(steps[:-1]), steps[-1]]


def wrong_item(task: Any) -> Answer:
    """The last text in the last action that has one, another letter at its end."""
    steps = right(task)
    for index in reversed(range(len(steps) - 1)):
        changed, done = _last_text(steps[index][1])
        if done:
            steps[index] = (steps[index][0], changed)
            break
    return steps


def _last_text(value: Any) -> tuple[Any, bool]:
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1:] != "1" else "2"), True
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, item in reversed(pairs):
        if isinstance(item, str | dict | list):
            changed, done = _last_text(item)
            if done:
                copy = value.copy()
                copy[key] = changed
                return copy, True
    return value, False


def _map(value: Any, leaf: Callable[[Any], Any], reorder: bool = False) -> Any:
    if isinstance(value, dict):
        pairs = [(key, _map(item, leaf, reorder)) for key, item in value.items()]
        return dict(reversed(pairs) if reorder else pairs)
    if isinstance(value, list):
        return [_map(item, leaf, reorder) for item in value]
    return leaf(value)


def reordered_keys(task: Any) -> Answer:
    return [(name, _map(arguments, lambda x: x, reorder=True)) for name, arguments in right(task)]


def floats_for_integers(task: Any) -> Answer:
    def leaf(value: Any) -> Any:
        return float(value) if type(value) is int else value

    return [(name, _map(arguments, leaf)) for name, arguments in right(task)]


def booleans_for_integers(task: Any) -> Answer:
    def leaf(value: Any) -> Any:
        return bool(value) if type(value) is int and value in (0, 1) else value

    return [(name, _map(arguments, leaf)) for name, arguments in right(task)]


def transfer_first(task: Any) -> Answer:
    return [("transfer_to_human_agents", {"summary": "no"}), *right(task)]


def transfer_last(task: Any) -> Answer:
    return [*right(task)[:-1], ("transfer_to_human_agents", {"summary": "no"})]


def broken_calls(task: Any) -> Answer:
    """Unknown tools; missing, superfluous and mistyped arguments, which some tools do take."""
    broken: Answer = [("no_such_tool", {"x": 1})]
    mistyped: tuple[Any, ...] = ([], {}, None)
    for name, arguments in right(task)[:-1]:
        broken.append((name, {**arguments, "surplus": 1}))
        for argument in arguments:
            rest = {key: value for key, value in arguments.items() if key != argument}
            broken.append((name, rest))
            broken += [(name, {**rest, argument: value}) for value in mistyped]
    return [*broken, *right(task)]


READS: Answer = [
    ("calculate", {"expression": "1 + 1"}),
    ("think", {"thought": "hm"}),
    ("find_user_id_by_email", {"email": "noah.brown7922@example.com"}),
    ("find_user_id_by_name_zip", {"first_name": "A", "last_name": "B", "zip": "0"}),
    ("list_all_product_types", {}),
    ("get_product_details", {"product_id": "9523456873"}),
    ("get_order_details", {"order_id": "#W2611340"}),
    ("get_user_details", {"user_id": "noah_brown_6181"}),
    ("list_all_airports", {}),
    ("search_direct_flight", {"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}),
    ("search_onestop_flight", {"origin": "JFK", "destination": "SEA", "date": "2024-05-20"}),
    ("get_user_details", {"user_id": "mia_li_3668"}),
    ("get_reservation_details", {"reservation_id": "4WQ150"}),
]
"""Calls that change nothing, of both environments; to the other one they are unknown."""

WRITES: dict[str, Callable[[Any], Step]] = {
    "retail": lambda value: (
        "modify_user_address",
        {
            "user_id": "noah_brown_6181",
            "address1": "Caf\u00e9 \U0001f600 \"'\\ \ud800",
            "address2": "",
            "city": 2**70,
            "state": "CO",
            "country": ["USA"],
            "zip": value,
        },
    ),
    "airline": lambda value: ("send_certificate", {"user_id": "mia_li_3668", "amount": value}),
}
"""A change with a value of free choice in it."""


def reads_between(task: Any) -> Answer:
    """Walks over whole tables before, between and after the changes."""
    return [step for wanted in right(task) for step in (*READS, wanted)]


ANSWERS: dict[str, Callable[[Any], Answer]] = {
    function.__name__: function
    for function in (
        right,
        no_change,
        no_output,
        other_output,
        output_with_commas,
        missing_action,
        repeated_actions,
        backwards,
        wrong_item,
        reordered_keys,
        floats_for_integers,
        booleans_for_integers,
        transfer_first,
        transfer_last,
        broken_calls,
        reads_between,
    )
}
