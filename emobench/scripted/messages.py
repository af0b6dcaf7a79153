"""What the policies read and write: chat messages, and replies in the form that is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from emobench.benchmarks.tasks import Action
from emobench.benchmarks.tools import RESPOND

Message = Mapping[str, Any]
"""One chat message as it came over the wire: a string `role`, `content` in any legal form."""
Tool = Mapping[str, Any]


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is JSON text, as on the wire."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """The assistant message of a completion."""

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"


def extract_text(message: Message) -> str:
    """Return the message's text; parts that are no text are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(text for text in texts if isinstance(text, str))
    return ""


def extract_system_text(messages: Sequence[Message]) -> str:
    """Return the leading system (or developer) prompt, or an empty string."""
    if messages and messages[0]["role"] in ("system", "developer"):
        return extract_text(messages[0])
    return ""


@dataclass(frozen=True)
class Form:
    """How the agent strategy reads a decision: as calls of the request's `tools`, or as text.

    The text formats are those of the react and act agents.
    """

    tools: Sequence[Tool] = ()
    tool_choice: Any = None
    text_actions: bool = False
    thoughts: bool = False

    @property
    def tool_names(self) -> list[str]:
        return [tool["function"]["name"] for tool in self.tools]


def choose_form(prompt: str, tools: Sequence[Tool], tool_choice: Any) -> Form:
    """Return how to answer a request with this system prompt and these tools."""
    if tools and tool_choice != "none":
        return Form(tools, tool_choice)
    text_actions, thoughts = _find_demands(prompt) if not tools else (False, False)
    return Form(text_actions=text_actions, thoughts=thoughts)


@lru_cache(maxsize=256)
def _find_demands(prompt: str) -> tuple[bool, bool]:
    return "\nAction:\n{" in prompt, "\nThought:\n<" in prompt


def say(text: str, form: Form) -> Reply:
    """Return words to the user; a tool call all the same if the request demands one."""
    forced = _find_forced_tool(form)
    if forced is not None:
        return _call(Action(forced["function"]["name"], make_arguments(forced, text)), text)
    if form.text_actions:
        return _format_action(Action(RESPOND, {"content": text}), form)
    return Reply(text)


def act(step: Action, form: Form, place: int) -> Reply:
    """Return a tool call; `place` is its number in the conversation and makes its id unique
    there."""
    if form.text_actions:
        return _format_action(step, form)
    forced = _find_forced_tool(form)
    if forced is not None and form.tool_choice != "required":
        name = forced["function"]["name"]
        if name != step.tool:
            return _call(Action(name, make_arguments(forced, "")), str(place))
    return _call(step, str(place))


def _find_forced_tool(form: Form) -> Tool | None:
    if isinstance(form.tool_choice, Mapping):
        wanted = form.tool_choice["function"]["name"]
        return next(tool for tool in form.tools if tool["function"]["name"] == wanted)
    if form.tool_choice == "required":
        thinks = (tool for tool in form.tools if tool["function"]["name"] == "think")
        return next(thinks, form.tools[0])
    return None


def _call(step: Action, salt: str) -> Reply:
    arguments = json.dumps(step.arguments)
    # JSON text may hold half of a surrogate pair, which plain UTF-8 refuses.
    content = f"{salt}\x1f{step.tool}\x1f{arguments}".encode("utf-8", "surrogatepass")
    digest = blake2b(content, digest_size=12).hexdigest()
    call = ToolCall(f"call_{digest}", step.tool, arguments)
    return Reply(None, (call,), "tool_calls")


def _format_action(step: Action, form: Form) -> Reply:
    action = json.dumps({"name": step.tool, "arguments": step.arguments})
    thought = f"Thought:\nThe next step is {step.tool}.\n" if form.thoughts else ""
    return Reply(f"{thought}Action:\n{action}")


def make_arguments(tool: Tool, text: str) -> dict[str, Any]:
    """Return arguments that satisfy the tool's schema: the required ones, `text` where a string
    goes."""
    value = _make_value(tool["function"].get("parameters"), text, 0)
    return value if isinstance(value, dict) else {}


def _make_value(schema: Any, text: str, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 8:
        return text
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "string"
    match kind:
        case "object":
            properties = schema.get("properties")
            properties = properties if isinstance(properties, Mapping) else {}
            required = schema.get("required")
            names = required if isinstance(required, list) else []
            return {
                name: _make_value(properties.get(name), text, depth + 1)
                for name in names
                if isinstance(name, str)
            }
        case "array":
            least = schema.get("minItems")
            # Bounded: nested arrays of many items would multiply.
            count = min(least, 4 if depth < 3 else 1) if isinstance(least, int) else 0
            return [_make_value(schema.get("items"), text, depth + 1) for _ in range(count)]
        case "integer" | "number":
            least = schema.get("minimum")
            return least if isinstance(least, int | float) else 1
        case "boolean":
            return True
        case "null":
            return None
    return text
