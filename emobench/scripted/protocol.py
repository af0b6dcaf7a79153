"""OpenAI's chat completions on the wire: requests checked as vLLM does, answers, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


def build_error_body(message: str, status: int, param: str | None = None) -> bytes:
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


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Message(_Strict):
    role: str
    content: str | list[dict[str, Any]] | None = None


class _Function(_Strict):
    name: str


class _Tool(_Strict):
    function: _Function


class _StreamOptions(_Strict):
    include_usage: bool | None = None


class _Body(_Strict):
    """What is checked of a request; anything else in it is let pass, as by vLLM."""

    model: str | None = None
    messages: list[_Message] = Field(min_length=1)
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Tool | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(None, ge=1)


def parse_request(body: bytes, model: str) -> ChatRequest:
    """Parse a request. Raises RequestRefused: 400 for a malformed request, 404 for another
    model."""
    try:
        value = json.loads(body)
        checked = _Body.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RequestRefused(
            f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}",
            param=str(first["loc"][0]) if first["loc"] else None,
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"The body is no valid JSON: {error}") from None
    if checked.model not in (None, model):
        raise RequestRefused(f"The model `{checked.model}` does not exist.", 404, "model")
    names = [tool.function.name for tool in checked.tools or ()]
    choice = checked.tool_choice
    if choice in ("auto", "required") and not names:
        raise RequestRefused("When using `tool_choice`, `tools` must be set.")
    if isinstance(choice, _Tool) and choice.function.name not in names:
        raise RequestRefused("tool_choice: none, auto, required, or one of `tools` by name.")
    options = checked.stream_options
    return ChatRequest(
        value["messages"],
        value.get("tools") or [],
        value.get("tool_choice"),
        checked.seed,
        bool(checked.stream),
        options is not None and options.include_usage is True,
        min(checked.n or 1, 128),
        max(1, len(body) // 4),
        str(value.get("user") or ""),
    )


def estimate_tokens(reply: Reply) -> int:
    """Estimate the tokens of a reply: one for four characters."""
    called = sum(len(call.name) + len(call.arguments) for call in reply.tool_calls)
    return max(1, (len(reply.content or "") + called) // 4)


def _format_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in reply.tool_calls
    ]


def _estimate_usage(request: ChatRequest, reply: Reply) -> dict[str, int]:
    completed = estimate_tokens(reply) * request.choices
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": completed,
        "total_tokens": request.prompt_tokens + completed,
    }


def build_completion_body(request: ChatRequest, reply: Reply, model: str, name: str) -> bytes:
    """Return an answer's body. `created` is 0: equal requests have equal answers, byte for byte."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.content}
    if reply.tool_calls:
        message["tool_calls"] = _format_calls(reply)
    value = {
        "id": name,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {"index": n, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
            for n in range(request.choices)
        ],
        "usage": _estimate_usage(request, reply),
    }
    return json.dumps(value).encode()


def stream_events(request: ChatRequest, reply: Reply, model: str, name: str) -> Iterator[bytes]:
    """Yield the same completion as server-sent events."""
    base = {"id": name, "object": "chat.completion.chunk", "created": 0, "model": model}

    def event(delta: dict[str, Any], index: int, finish: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _format_event({**base, "choices": [choice]})

    for index in range(request.choices):
        yield event({"role": "assistant", "content": ""}, index)
        text = reply.content or ""
        for start in range(0, len(text), 64):
            yield event({"content": text[start : start + 64]}, index)
        for number, call in enumerate(_format_calls(reply)):
            yield event({"tool_calls": [{"index": number, **call}]}, index)
        yield event({}, index, reply.finish_reason)
    if request.include_usage:
        yield _format_event({**base, "choices": [], "usage": _estimate_usage(request, reply)})
    yield b"data: [DONE]\n\n"


def _format_event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
