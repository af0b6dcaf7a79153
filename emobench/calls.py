"""The LLM calls of an episode: sent to the role's endpoint, recorded, and their failures sorted.

tau-bench's modules each hold a `completion` of their own; `variants.inject.seams` points them
all here. Which episode a call belongs to is known from the thread: an episode runs in one thread
from beginning to end, and enters it there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["user", "assistant"]
Kind = Literal["infra", "context_overflow", "rejected", "no_reply"]


@dataclass(frozen=True)
class Target:
    """Where a role's model answers, and what every request of the role carries."""

    model: str
    url: str | None
    """Base URL; None is the provider's own address."""
    api_key: str | None
    provider: str = "openai"
    incarnation: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0

    def __repr__(self) -> str:  # the key stays out of tracebacks and logs
        return f"Target({self.model!r} at {self.url or self.provider})"


class CallFailed(Exception):
    """A call that gave no usable reply, with the boundary that it failed at.

    infra: no answer, a time-out, a 5xx, a refused key; context_overflow: the conversation is
    longer than the model's context; rejected: the server calls the request itself invalid;
    no_reply: an answer without text and without a tool call.
    """

    def __init__(self, role: Role, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.role = role
        self.kind = kind


@dataclass
class CallLog:
    """The calls of one episode, and the newest messages of each role's view."""

    targets: dict[Role, Target]
    seed: int
    calls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The assistant's view: the very list that tau-bench's agent appends to."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """Own every LLM call of this thread. Must be entered in the thread that calls."""
        _thread.log = self
        try:
            yield
        finally:
            _thread.log = None


_thread = threading.local()


def complete(role: Role, stock: Any, *args: Any, **kwargs: Any) -> Any:
    """`completion` as tau-bench calls it; outside an episode it is the stock function."""
    log: CallLog | None = getattr(_thread, "log", None)
    if log is None:
        return stock(*args, **kwargs)
    if role == "assistant":
        log.messages = kwargs["messages"]
    return _send(log, role, stock, kwargs)


def _send(log: CallLog, role: Role, stock: Any, kwargs: dict[str, Any]) -> Any:
    target = log.targets[role]
    request = {
        **kwargs,
        "model": target.model,
        "custom_llm_provider": target.provider,
        "timeout": target.timeout_s,
        "max_retries": 0,
        "drop_params": True,
        "seed": log.seed,
        **target.sampling,
    }
    if target.url is not None:
        request["api_base"] = target.url
    if target.api_key is not None:
        request["api_key"] = target.api_key
    started = time.monotonic()
    record: dict[str, Any] = {"role": role, "incarnation": target.incarnation}
    log.calls.append(record)
    try:
        response = stock(**request)
    except Exception as error:
        record["error"] = type(error).__name__
        raise CallFailed(role, _kind(error), _message(error, target)) from error
    finally:
        record["latency_s"] = round(time.monotonic() - started, 4)
    choice = response.choices[0]
    usage = getattr(response, "usage", None)
    record["prompt_tokens"] = getattr(usage, "prompt_tokens", None)
    record["completion_tokens"] = getattr(usage, "completion_tokens", None)
    record["finish_reason"] = choice.finish_reason
    hidden = response._hidden_params
    record["cost"] = hidden.get("response_cost")
    # Stock adds costs up and raises TypeError for models without a price.
    hidden["response_cost"] = record["cost"] or 0.0
    if not choice.message.content and not getattr(choice.message, "tool_calls", None):
        raise CallFailed(role, "no_reply", f"the {role}'s model sent neither text nor a tool call")
    return response


def _kind(error: Exception) -> Kind:
    from litellm import exceptions

    if isinstance(error, exceptions.ContextWindowExceededError):
        return "context_overflow"
    if isinstance(error, exceptions.BadRequestError):
        text = str(error).lower()
        if "context length" in text or "context window" in text or "max_model_len" in text:
            return "context_overflow"
        return "rejected"
    return "infra"


def _message(error: Exception, target: Target) -> str:
    text = " ".join(str(error).split())[:500]
    if target.api_key:
        text = text.replace(target.api_key, "[key]")
    return f"{type(error).__name__}: {text} ({target!r})"
