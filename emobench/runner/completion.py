"""The LLM calls of an episode: sent to the role's endpoint, recorded, and their replies checked.

tau-bench's modules each hold a `completion` of their own; `injection.seams` points them
all here. Which episode a call belongs to is known from the thread: an episode runs in one thread
from beginning to end, and enters it there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from emobench.core.errors import ServersGone
from emobench.core.sweep import Fidelity
from emobench.llm.reasoning import sanitize
from emobench.llm.refusals import INVALID
from emobench.llm.replies import token_counts
from emobench.llm.transport import CallFailed, ModelEndpoint, Reply, Role, Transport, make_transport

if TYPE_CHECKING:
    from emobench.runner.endpoint_resolver import Follower


@dataclass
class CallLog:
    """The calls of one episode, and the newest messages of the assistant's view."""

    endpoints: Mapping[Role, ModelEndpoint]
    seed: int
    fidelity: Fidelity
    transports: dict[Role, Transport] = field(default_factory=dict)
    """Made at the first call of a role; shared among the episodes of a cell."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    """The assistant's view: the very list that tau-bench's agent appends to."""

    reading: Role | None = None
    """Whose reply tau-bench's code is reading; None while anything else goes on."""
    follower: Follower | None = None
    """Moves the endpoints with their servers; None: they stay."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Own every LLM call of this thread. Must be entered in the thread that calls."""
        _thread.log = self
        try:
            yield
        finally:
            _thread.log = None


_thread = threading.local()


def current() -> CallLog | None:
    """The episode that this thread runs."""
    log: CallLog | None = getattr(_thread, "log", None)
    return log


def complete(role: Role, stock: Any, *args: Any, **kwargs: Any) -> Any:
    """`completion` as tau-bench calls it; outside an episode it is the stock function."""
    log = current()
    if log is None:
        return stock(*args, **kwargs)
    if role == "assistant":
        log.messages = kwargs["messages"]
    passed_on, log.reading = log.reading, None
    try:
        reply = _complete(log, role, stock, kwargs)
    except CallFailed as error:
        # What the agent said is still being read where it is passed on without being text.
        if (role, passed_on) == ("user", "assistant") and error.status in INVALID:
            raise CallFailed("assistant", "rejected", str(error), error.status) from error
        raise
    log.reading = role
    return reply


def _complete(log: CallLog, role: Role, stock: Any, kwargs: dict[str, Any]) -> Any:
    """The call, again where the server moves to meanwhile."""
    if log.follower is None:
        return _send(log, role, stock, kwargs)
    while True:
        try:
            endpoints = log.follower.resolve()
            log.endpoints, log.transports = endpoints.roles, endpoints.transports
            return _send(log, role, stock, kwargs)
        except ServersGone as error:
            raise CallFailed(role, "infra", str(error)) from error
        except CallFailed as error:
            if error.kind != "infra" or not _move(log.follower, error):
                raise


def _move(follower: Follower, failure: CallFailed) -> bool:
    try:
        return follower.move()
    except ServersGone as error:
        raise CallFailed(failure.role, "infra", str(error)) from failure


def _send(log: CallLog, role: Role, stock: Any, kwargs: dict[str, Any]) -> Any:
    """One call where the role answers now, and its record."""
    endpoint = log.endpoints[role]
    request = {**kwargs, "model": endpoint.model, **endpoint.sampling}
    del request["custom_llm_provider"]
    if log.fidelity.send_seed:
        request["seed"] = log.seed
    transport = log.transports.get(role)
    if transport is None:
        transport = log.transports[role] = make_transport(
            endpoint, stock, through_litellm=not log.fidelity.lean_client
        )
    record: dict[str, Any] = {"role": role, "incarnation": endpoint.incarnation}
    log.calls.append(record)
    started = time.monotonic()
    before = transport.retries
    try:
        reply = transport.send(role, request)
    except CallFailed as error:
        record["error"] = error.kind
        raise
    finally:
        record["latency_s"] = round(time.monotonic() - started, 4)
        if transport.retries > before:
            record["retries"] = transport.retries - before
    _note(record, reply)
    _check(role, reply, record, log.fidelity)
    return reply


def _note(record: dict[str, Any], reply: Reply) -> None:
    record["prompt_tokens"], record["completion_tokens"] = token_counts(reply.usage)
    details = reply.usage.get("prompt_tokens_details")
    if isinstance(details, dict) and details.get("cached_tokens") is not None:
        record["cached_tokens"] = details["cached_tokens"]
    record["finish_reason"] = reply.choices[0].finish_reason
    if reply.cost is not None:
        record["cost"] = reply.cost
    if reply.message.tool_calls:
        record["tool_calls"] = len(reply.message.tool_calls)


def _check(role: Role, reply: Reply, record: dict[str, Any], fidelity: Fidelity) -> None:
    """Take reasoning out of the text; raise CallFailed for a reply with nothing in it."""
    message = reply.message
    if message.content and fidelity.sanitize_think:
        cleaned = sanitize(message.content)
        if cleaned.forms:
            record["think"] = list(cleaned.forms)
            message.content = cleaned.text or None
            if cleaned.emptied and not message.tool_calls:
                raise CallFailed(
                    role, "no_reply", f"the {role}'s reply was reasoning and nothing else"
                )
    if not fidelity.check_replies:
        return
    if not message.content and not message.tool_calls:
        cut = " before it was cut off" if reply.choices[0].finish_reason == "length" else ""
        what = f"the {role}'s model sent neither text nor a tool call{cut}"
        raise CallFailed(role, "no_reply", what)
    if role == "user" and not message.content:
        raise CallFailed(role, "no_reply", "the user's model sent a tool call and no text")
