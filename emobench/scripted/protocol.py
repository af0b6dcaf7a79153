"""OpenAI's chat completions on the wire: requests checked as vLLM does, answers, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emobench.scripted.messages import Reply


class RequestRefused(Exception):
    """The client's mistake, with the HTTP status it gets."""

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


_KINDS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "BadRequestError",
    500: "InternalServerError",
}


def error_body(message: str, status: int, param: str | None = None) -> bytes:
    kind = _KINDS.get(status, "BadRequestError")
    error = {"message": message, "type": kind, "param": param, "code": status}
    return json.dumps({"error": error}).encode()


@dataclass(frozen=True)
class ChatRequest:
    """A request that passed the checks."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    tool_choice: Any
    seed: int | None
    stream: bool
    include_usage: bool
    choices: int
    prompt_tokens: int
    """Approximate: a token for four bytes of the body."""
    user: str = ""
    """OpenAI's field of that name: who asks."""


def parse_request(body: bytes, model: str) -> ChatRequest:
    """Raises RequestRefused: 400 for a malformed request, 404 for another model."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"The body is no valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestRefused("The body is no JSON object.")
    _check_model(value.get("model"), model)
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestRefused("messages: a list with at least one message is required.", 400)
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]")
    tools = [] if value.get("tools") is None else value["tools"]
    _check_tools(tools)
    choice = value.get("tool_choice")
    _check_choice(choice, tools)
    options = value.get("stream_options")
    _integer(value, "max_tokens", 1)
    _integer(value, "max_completion_tokens", 1)
    return ChatRequest(
        messages,
        tools,
        choice,
        _integer(value, "seed"),
        _boolean(value, "stream"),
        isinstance(options, dict) and options.get("include_usage") is True,
        min(_integer(value, "n", 1) or 1, 128),
        max(1, len(body) // 4),
        str(value.get("user") or ""),
    )


def _check_model(asked: Any, model: str) -> None:
    if asked is None or asked == model:
        return
    if not isinstance(asked, str):
        raise RequestRefused("model: a string is required.", param="model")
    raise RequestRefused(f"The model `{asked}` does not exist.", 404, "model")


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise RequestRefused(f"{where}: an object is required.")
    if not isinstance(message.get("role"), str):
        raise RequestRefused(f"{where}.role: a string is required.")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise RequestRefused(f"{where}.content: a string, a list of parts or null is required.")
    if isinstance(content, list) and not all(isinstance(part, dict) for part in content):
        raise RequestRefused(f"{where}.content: every part must be an object.")


def _check_tools(tools: Any) -> None:
    if not isinstance(tools, list):
        raise RequestRefused("tools: a list is required.", param="tools")
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestRefused(f"tools[{index}].function.name: a string is required.")


def _check_choice(choice: Any, tools: list[dict[str, Any]]) -> None:
    if choice in (None, "none"):
        return
    if choice in ("auto", "required"):
        if not tools:
            raise RequestRefused("When using `tool_choice`, `tools` must be set.")
        return
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in [tool["function"]["name"] for tool in tools]:
        raise RequestRefused("tool_choice: none, auto, required, or one of `tools` by name.")


def _integer(value: dict[str, Any], name: str, least: int | None = None) -> int | None:
    number = value.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool):
        raise RequestRefused(f"{name}: an integer is required.", param=name)
    if least is not None and number < least:
        raise RequestRefused(f"{name}: at least {least} is required.", param=name)
    return number


def _boolean(value: dict[str, Any], name: str) -> bool:
    flag = value.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise RequestRefused(f"{name}: true or false is required.", param=name)
    return bool(flag)


def completion_tokens(reply: Reply) -> int:
    """Approximate: a token for four characters."""
    called = sum(len(call.name) + len(call.arguments) for call in reply.tool_calls)
    return max(1, (len(reply.content or "") + called) // 4)


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in reply.tool_calls
    ]


def _usage(request: ChatRequest, reply: Reply) -> dict[str, int]:
    completed = completion_tokens(reply) * request.choices
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": completed,
        "total_tokens": request.prompt_tokens + completed,
    }


def completion_body(request: ChatRequest, reply: Reply, model: str, name: str) -> bytes:
    """`created` is 0: equal requests have equal answers, byte for byte."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply)
    value = {
        "id": name,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": n, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
            for n in range(request.choices)
        ],
        "usage": _usage(request, reply),
    }
    return json.dumps(value).encode()


def stream_events(request: ChatRequest, reply: Reply, model: str, name: str) -> Iterator[bytes]:
    """The same completion as server-sent events."""
    base = {"id": name, "object": "chat.completion.chunk", "created": 0, "model": model}

    def event(delta: dict[str, Any], index: int, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**base, "choices": [choice]})

    for index in range(request.choices):
        yield event({"role": "assistant", "content": ""}, index)
        text = reply.content or ""
        for start in range(0, len(text), 64):
            yield event({"content": text[start : start + 64]}, index)
        for number, call in enumerate(_calls(reply)):
            yield event({"tool_calls": [{"index": number, **call}]}, index)
        yield event({}, index, reply.finish_reason)
    if request.include_usage:
        yield _event({**base, "choices": [], "usage": _usage(request, reply)})
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
