from __future__ import annotations

import json
from typing import Any

import pytest

from emobench.scripted.assistant import LOST, Assistant
from emobench.scripted.lookup import Library
from emobench.scripted.messages import Reply

RETAIL: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "parameters": parameters}}
    for name, parameters in (
        ("get_order_details", {"type": "object", "required": ["order_id"], "properties": {}}),
        (
            "think",
            {
                "type": "object",
                "properties": {"thought": {"type": "string"}},
                "required": ["thought"],
            },
        ),
    )
]
SYSTEM = {"role": "system", "content": "# Retail agent policy"}


def users(*texts: str) -> list[dict[str, Any]]:
    return [SYSTEM, *({"role": "user", "content": text} for text in texts)]


@pytest.fixture
def assistant(library: Library) -> Assistant:
    return Assistant(library)


def test_asks_before_it_acts(assistant: Assistant) -> None:
    first = assistant.reply(users("I want to return a lamp."), RETAIL)
    second = assistant.reply(users("I want to return a lamp.", "I am Bo."), RETAIL)
    assert "who you are" in (first.content or "")
    assert "detail" in (second.content or "")


def test_an_unrecognised_request_gets_a_polite_answer(assistant: Assistant) -> None:
    assert assistant.reply(users("Xyzzy", "Plugh", "Foo"), RETAIL) == Reply(LOST)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": None}])
def test_demanded_tool_calls_are_made(assistant: Assistant, choice: Any) -> None:
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": "get_order_details"}}
    reply = assistant.reply(users("Hello"), RETAIL, choice)
    (call,) = reply.tool_calls
    assert call.name == ("think" if choice == "required" else "get_order_details")
    assert list(json.loads(call.arguments)) == (
        ["thought"] if choice == "required" else ["order_id"]
    )


def test_tool_choice_none_gets_text(assistant: Assistant) -> None:
    assert assistant.reply(users("Hello"), RETAIL, "none").tool_calls == ()


def test_a_probe_outside_the_benchmark_gets_its_tool_call(assistant: Assistant) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"enum": ["C", "F"]},
                    "days": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
                },
                "required": ["city", "unit", "days"],
            },
        },
    }
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    (call,) = assistant.reply(asked, [tool]).tool_calls
    assert call.name == "get_weather"
    assert json.loads(call.arguments) == {"city": "example", "unit": "C", "days": [1, 1]}
    answered = [*asked, {"role": "tool", "content": "rain"}]
    assert assistant.reply(answered, [tool]).tool_calls == ()


def test_a_missing_tool_is_not_called(library: Library, assistant: Assistant) -> None:
    task = library.indices["retail"].source.tasks[0]
    reply = assistant.reply(users(task.instruction, "-", "-"), RETAIL)
    assert reply.tool_calls == ()
    assert "lack the tools" in (reply.content or "")
