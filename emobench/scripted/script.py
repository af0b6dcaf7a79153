"""What the assistant does in a task, from its ground truth, with or without a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from emobench.benchmarks.tasks import NO_EFFECT, Action, Task

MORE = "Is there anything else I can help you with?"
SORRY = f"I am sorry, but I was not able to complete this request for you. {MORE}"


@dataclass(frozen=True)
class Script:
    """Tool calls in order, a question before the first write, and the words at the end."""

    acts: tuple[Action, ...]
    confirm_at: int
    """Index of the act before which the user is asked; len(acts) or more: never."""
    confirm: str
    closing: str
    mistake: str | None = None


def draw(*parts: object) -> float:
    """Return a number in [0, 1) that depends on the parts and on nothing else."""
    text = "\x1f".join(str(part) for part in parts)
    return (
        int.from_bytes(
            blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "big"
        )
        / 2**56
    )


def write_faithful(task: Task) -> Script:
    """Return the ground truth as it stands."""
    return _write_script(task.actions, _write_closing(task.outputs))


def write_mistaken(task: Task, key: str) -> Script:
    """Return one mistake that costs the reward, chosen by `key` among those the task allows."""
    possible = [script for make in MISTAKES if (script := make(task, key)) is not None]
    # A task without effective writes and outputs allows none of these: giving up would solve it.
    if not possible:
        return _write_unasked(task)
    return possible[int(draw("kind", key) * len(possible))]


def _write_script(acts: tuple[Action, ...], closing: str, mistake: str | None = None) -> Script:
    writes = [index for index, act in enumerate(acts) if act.writes]
    first = writes[0] if writes else len(acts)
    listed = "; ".join(_describe(acts[index]) for index in writes)
    confirm = f"I am about to make these changes: {listed}. Shall I proceed (yes/no)?"
    return Script(acts, first, confirm, closing, mistake)


def _describe(act: Action) -> str:
    arguments = ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}"
        for name, value in act.arguments.items()
    )
    return f"{act.tool.replace('_', ' ')} ({arguments})"


def _write_closing(outputs: tuple[str, ...]) -> str:
    told = f" Here is what you asked for: {'; '.join(outputs)}." if outputs else ""
    return f"Your request has been taken care of.{told} {MORE}"


def _find_writes(task: Task) -> list[int]:
    """Return the acts that matter to the reward."""
    return [
        index
        for index, act in enumerate(task.actions)
        if act.writes and (task.env, task.index, index) not in NO_EFFECT
    ]


def _skip_write(task: Task, key: str) -> Script | None:
    writes = _find_writes(task)
    if not writes:
        return None
    left_out = writes[int(draw("write", key) * len(writes))]
    acts = tuple(act for index, act in enumerate(task.actions) if index != left_out)
    return _write_script(acts, _write_closing(task.outputs), "skip_write")


def _change_argument(task: Task, key: str) -> Script | None:
    writes = _find_writes(task)
    if not writes:
        return None
    index = writes[int(draw("write", key) * len(writes))]
    act = task.actions[index]
    # In this order: the argument a model gets wrong most visibly, then whatever comes last.
    names = [name for name in _MISTAKABLE if name in act.arguments] or list(act.arguments)[-1:]
    changed = {name: _falsify(act.arguments[name]) for name in names[:1]}
    acts = list(task.actions)
    acts[index] = Action(act.tool, {**act.arguments, **changed})
    return _write_script(tuple(acts), _write_closing(task.outputs), "wrong_argument")


def _give_up(task: Task, key: str) -> Script | None:
    if not _find_writes(task) and not task.outputs:
        return None
    acts = task.actions[: _write_script(task.actions, "").confirm_at]
    acts = tuple(act for act in acts if act.tool != "transfer_to_human_agents")
    return _write_script(acts, SORRY, "give_up")


def _call_unknown_tool(task: Task, key: str) -> Script | None:
    given_up = _give_up(task, key)
    if given_up is None:
        return None
    invented = Action("find_customer_record", {"user_id": task.user_id})
    return _write_script((*given_up.acts, invented), SORRY, "unknown_tool")


def _change_output(task: Task, key: str) -> Script | None:
    if not task.outputs or any(act.tool == "transfer_to_human_agents" for act in task.actions):
        return None
    script = _write_script(
        task.actions, _write_closing(tuple(map(_falsify, task.outputs))), "wrong_output"
    )
    told = f"{script.confirm} {script.closing}".lower().replace(",", "")
    # The benchmark looks for the output anywhere in what the assistant said.
    return script if any(output.lower() not in told for output in task.outputs) else None


def _write_unasked(task: Task) -> Script:
    if task.env == "airline":
        extra = Action("send_certificate", {"user_id": task.user_id, "amount": 100})
    else:
        address = {
            "address1": "1 Main Street",
            "address2": "",
            "city": "Springfield",
            "state": "IL",
            "country": "USA",
            "zip": "62701",
        }
        extra = Action("modify_user_address", {"user_id": task.user_id, **address})
    acts = tuple(act for act in task.actions if act.tool != "transfer_to_human_agents")
    return _write_script((*acts, extra), _write_closing(task.outputs), "unasked_write")


MISTAKES: tuple[Callable[[Task, str], Script | None], ...] = (
    _skip_write,
    _change_argument,
    _give_up,
    _call_unknown_tool,
    _change_output,
)
_MISTAKABLE = ("reason", "new_item_ids", "item_ids", "cabin", "total_baggages", "amount", "zip")
_OPPOSITE = {
    "no longer needed": "ordered by mistake",
    "ordered by mistake": "no longer needed",
    "economy": "business",
    "basic_economy": "economy",
    "business": "economy",
    "yes": "no",
    "no": "yes",
}


def _falsify(value: Any) -> Any:
    """Return a value of the same type that differs and shares no digit at the same place."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list) and value:
        return [*value[:-1], _falsify(value[-1])]
    if isinstance(value, dict) and value:
        name = next(iter(value))
        return {**value, name: _falsify(value[name])}
    if isinstance(value, str) and value in _OPPOSITE:
        return _OPPOSITE[value]
    if isinstance(value, str) and any(letter.isdigit() for letter in value):
        return "".join(str((int(c) + 3) % 10) if c in "0123456789" else c for c in value)
    return "unknown"
