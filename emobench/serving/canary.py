"""The first requests to an engine: does it chat, call tools, keep its reasoning to itself?

Health says that a server runs, not that its chat template, its parser and its compiled graphs do.
What no conversation could survive is a failure; what a model may just be too weak for is a warning.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from emobench.core.plan import Plan, name_assistant_server
from emobench.llm.client import ChatClient, Unreachable
from emobench.llm.reasoning import sanitize
from emobench.llm.replies import (
    MARKUP,
    ChatResult,
    describe_silence,
    judge_step,
    quote,
    read_result,
)
from emobench.serving.failure_diagnosis import Cause
from emobench.store.endpoints import Endpoint

USER = "emobench-canary"
"""OpenAI's field `user`: by it the scripted server keeps its injected faults for conversations."""
MAX_TOKENS = 128
ATTEMPTS = 3
PAUSE_S = 1.0
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_order_status",
        "description": "Look up the status of an order.",
        "parameters": {
            "type": "object",
            "properties": {
                "order_id": {"type": "string", "description": "The order's id, such as W1234567."}
            },
            "required": ["order_id"],
        },
    },
}
_HELLO = [
    {"role": "system", "content": "You take part in a short test. Answer in one short sentence."},
    {"role": "user", "content": "Hello! Please say that you are ready."},
]
_ASK = [
    {"role": "system", "content": "You are a shop's agent. Look up what you need with the tools."},
    {"role": "user", "content": "What is the status of my order W1234567?"},
]
_PARSER = "set tool_call_parser in the sweep file to the one of this model's family"
_NO_THINKING = "set chat_template_kwargs: {enable_thinking: false}, or choose a model without it"
_LOOK = "the server's log says more"
_ADVICE = {
    401: "the server refuses its own key: is another key set in server_setup or server_env?",
    404: "the server serves another model than it was asked for",
}


@dataclass(frozen=True)
class Verdict:
    """What the canaries found."""

    failure: Cause | None = None
    """Why no conversation can work."""
    warnings: tuple[str, ...] = ()


def calls_tools(plan: Plan, server: str) -> bool:
    """Return whether a conversation of the plan calls tools of this server in OpenAI's way."""
    return any(
        cell.agent_strategy in ("tool-calling", "few-shot")
        and name_assistant_server(cell.assistant) == server
        for cell in plan.cells
    )


def send_canaries(endpoint: Endpoint, key: str, *, tools: bool, timeout_s: float) -> Verdict:
    """Send a role's canaries, one after the other, within `timeout_s` seconds.

    `tools`: whether the conversations call tools.
    """
    deadline = time.monotonic() + timeout_s
    common = {"model": endpoint.model, "temperature": 0, "max_tokens": MAX_TOKENS, "user": USER}
    with closing(ChatClient(endpoint.url, key, timeout_s)) as client:

        def ask(messages: list[dict[str, str]], **options: object) -> ChatResult:
            return _ask(client, {**common, "messages": messages, **options}, deadline)

        seen = ask(_HELLO)
        if failure := _find_failure("a chat", seen):
            return Verdict(failure)
        warnings = [*_list_chat_warnings(seen, endpoint.role)]
        if tools:
            seen = ask(_ASK, tools=[TOOL], tool_choice="auto")
            if failure := _find_failure("a chat with tools", seen):
                return Verdict(failure)
            warnings += _list_text_warnings(seen)
            if not seen.calls:
                warnings += _list_tool_warnings(ask(_ASK, tools=[TOOL], tool_choice="required"))
        return Verdict(warnings=tuple(warnings))


def _ask(client: ChatClient, request: dict[str, Any], deadline: float) -> ChatResult:
    """Return the reply; status 0 where none came. A server that is busy is asked again."""
    seen = ChatResult(0, "not asked")
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_S)
        if time.monotonic() >= deadline:
            break
        try:
            seen = read_result(client.chat(request), MAX_TOKENS)
        except Unreachable as error:
            seen = ChatResult(0, str(error))
        if seen.status and seen.status < 500 and seen.status != 429:
            break
    return seen


def _find_failure(what: str, seen: ChatResult) -> Cause | None:
    if seen.status == 200:
        return None
    if not seen.status:
        return Cause("chat", f"{what} got no answer: {seen.error[:200]}", _LOOK)
    said = f"{what} was refused (HTTP {seen.status}): {seen.error[:300]}"
    if re.search(r"auto.*tool.*choice|tool-call-parser|tool_parser", said, re.IGNORECASE):
        return Cause("argument", said, f"{_PARSER}; without one the agent's requests are refused")
    if "template" in said.lower():
        advice = "give chat_template, or an instruction-tuned model that brings its own"
        return Cause("chat_template", said, advice)
    return Cause("chat", said, _ADVICE.get(seen.status, _LOOK))


def _list_chat_warnings(seen: ChatResult, role: Literal["user", "assistant"]) -> Iterator[str]:
    other = "assistant" if role == "user" else "user"
    if forms := sanitize(seen.content).forms:
        yield (
            f"its text holds reasoning ({', '.join(forms)} <think>), which the {other} would read "
            f"as far as emobench does not remove it: {_NO_THINKING}, or set reasoning_parser"
        )
    if seen.reasoning and role == "user":
        yield f"it thinks before each reply, which costs time and tokens: {_NO_THINKING}"
    if MARKUP.search(seen.content):
        yield f"its text holds tool markup: {quote(seen.content)}"
    if (silent := describe_silence(seen)) and not (seen.reasoning or seen.cut):
        yield f"it said nothing to a greeting: {silent[1]}; is the chat template the model's own?"


def _list_text_warnings(seen: ChatResult) -> Iterator[str]:
    """Yield what is odd where the model was free to call a tool or to speak."""
    step = judge_step(seen, [TOOL])
    if step.kind == "call_as_text":
        yield f"its tool calls arrive as text, so that no tool is ever called: {_PARSER}"
    elif step.kind in ("bad_json", "bad_schema", "unknown_tool") and not seen.cut:
        yield f"its tool call does not fit the tool ({step.seen}); `emobench probe` says more"


def _list_tool_warnings(seen: ChatResult) -> Iterator[str]:
    """Yield what is odd where the model had to call the tool."""
    if seen.cut:
        return  # its reasoning was longer than the canary allows
    if seen.status != 200:
        yield f"a tool call that is required was refused (HTTP {seen.status}): {seen.error[:200]}"
        return
    step = judge_step(seen, [TOOL])
    if step.kind != "called":
        yield f"it did not manage a tool call ({step.seen}); `emobench probe` says more"
