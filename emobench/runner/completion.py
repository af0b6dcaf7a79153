"""The LLM calls of an episode: sent to the role's endpoint, recorded, and their replies checked.

tau-bench's modules each hold a `completion` of their own; `injection.seams` points them
all here. Which episode a call belongs to is known from the thread: an episode runs in one thread
from beginning to end, and enters it there.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from emobench.core.errors import ServersGone
from emobench.core.sweep import Fidelity
from emobench.llm.endpoint_limits import Effort, EndpointLimits
from emobench.llm.reasoning import sanitize
from emobench.llm.refusals import INVALID, is_blank
from emobench.llm.replies import count_in, read_token_counts
from emobench.llm.transport import (
    CallFailed,
    ModelEndpoint,
    Reply,
    Role,
    Transport,
    make_transport,
)

if TYPE_CHECKING:
    from emobench.runner.endpoint_resolver import Follower

_FORMS: Mapping[tuple[Role, str], re.Pattern[str]] = {
    ("assistant", "act"): re.compile("Action:"),
    ("assistant", "react"): re.compile("Action:"),
    ("user", "react"): re.compile("Thought:|User Response:"),
    ("user", "reflection"): re.compile("Response:"),
}
"""By strategy: where tau-bench's parser lets a reply begin."""


@dataclass(frozen=True)
class StockDraws:
    """The examples that stock draws at concurrency 1, where one generator serves a whole run."""

    seed: int
    """Of the run."""
    tasks: int
    """The largest number that stock may draw for a task of the run's own environment."""
    earlier: int
    """Conversations of the run before this one."""

    def sample(self, population: Sequence[Any], k: int) -> list[Any]:
        """Return the examples of this conversation."""
        generator = Random(self.seed)
        generator.randint(0, self.tasks)
        for _ in range(self.earlier):
            generator.sample(population, k)
        return generator.sample(population, k)


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
    strategies: Mapping[Role, str] = field(default_factory=dict)
    """tau-bench's strategy of each role."""
    stock_draws: StockDraws | None = None
    """Where a few-shot agent draws its examples as stock does; None: by the episode's seed."""
    limits: EndpointLimits = field(default_factory=EndpointLimits)
    """Of the endpoints, shared among the episodes of a cell."""

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


def get_current_log() -> CallLog | None:
    """Return the episode that this thread runs."""
    log: CallLog | None = getattr(_thread, "log", None)
    return log


def complete(role: Role, stock: Any, *args: Any, **kwargs: Any) -> Any:
    """Answer as tau-bench's `completion` does; outside an episode call the stock function."""
    log = get_current_log()
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
    """Send the call, again where the server moves to meanwhile."""
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
            if error.kind != "infra" or not _move(log, log.follower, error):
                raise


def _move(log: CallLog, follower: Follower, failure: CallFailed) -> bool:
    """Return whether a call that failed may be sent again, to where its server is now."""
    try:
        return _has_moved(log, failure.role) or follower.move()
    except ServersGone as error:
        raise CallFailed(failure.role, "infra", str(error)) from failure


def _has_moved(log: CallLog, role: Role) -> bool:
    """Return whether a server of ours is elsewhere than where the call was sent. Raises
    ServersGone."""
    used = log.endpoints[role]
    return bool(log.follower and used.server and log.follower.resolve().roles[role] != used)


def _send(log: CallLog, role: Role, stock: Any, kwargs: dict[str, Any]) -> Any:
    """Send one call to where the role answers now, and record it."""
    endpoint = log.endpoints[role]
    request = {**kwargs, "model": endpoint.model, **endpoint.sampling}
    del request["custom_llm_provider"]
    if log.fidelity.send_seed:
        request["seed"] = log.seed
    transport = log.transports.get(role)
    if transport is None:
        transport = log.transports[role] = make_transport(
            endpoint,
            stock,
            through_litellm=not log.fidelity.lean_client,
            plain_messages=log.fidelity.plain_messages,
            limit=log.limits.find(endpoint),
        )
    _refuse_half_characters(role, request["messages"])
    record: dict[str, Any] = {"role": role, "incarnation": endpoint.incarnation}
    log.calls.append(record)
    started, effort = time.monotonic(), Effort(has_moved=partial(_has_moved, log, role))
    try:
        reply = transport.send(role, request, effort)
    except CallFailed as error:
        record["error"] = error.kind
        if error.kind == "rejected":
            _blame_blank(role, request["messages"], error)
        raise
    finally:
        waited_s = effort.rate_limit_wait_s
        record["latency_s"] = round(time.monotonic() - started - waited_s, 4)
        if effort.retries:
            record["retries"] = effort.retries
        if effort.refusals:
            record["rate_limits"] = effort.refusals
        if waited_s:
            record["rate_limit_wait_s"] = round(waited_s, 4)
    if role == "user":  # what stock's user tells of its cost, while its agents cannot add None
        reply._hidden_params["response_cost"] = reply.cost
    _note(record, reply)
    _check(log, role, request, reply, record)
    return reply


def _note(record: dict[str, Any], reply: Reply) -> None:
    usage = reply.usage
    record["prompt_tokens"], record["completion_tokens"] = read_token_counts(usage)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    said = {**usage, "cached_tokens": cached}
    if (count := count_in(said, "cached_tokens")) is not None:
        record["cached_tokens"] = count
    kinds = ("prompt_tokens", "completion_tokens", "cached_tokens")
    odd = [kind for kind in kinds if said.get(kind) is not None and count_in(said, kind) is None]
    if odd:
        record["odd_counts"] = odd  # negative, absurd or no numbers: they are left out
    record["finish_reason"] = reply.choices[0].finish_reason
    if reply.cost is not None:
        record["cost"] = reply.cost
    if reply.message.tool_calls:
        record["tool_calls"] = len(reply.message.tool_calls)


_NOTHING = "the {}'s model sent neither text nor a tool call"


def _check(
    log: CallLog, role: Role, request: Mapping[str, Any], reply: Reply, record: dict[str, Any]
) -> None:
    """Take reasoning out of the text, and note a reply with nothing in it.

    Raises CallFailed at such a reply where that is asked for, or where stock's code fails at it.
    """
    message, ends = reply.message, log.fidelity.end_at_empty_reply
    if message.content and log.fidelity.sanitize_think:
        form = None if ends else _FORMS.get((role, log.strategies.get(role, "")))
        cleaned = sanitize(message.content, form)
        if cleaned.forms:
            record["think"] = list(cleaned.forms)
            message.content = cleaned.text or (None if message.tool_calls else "")
    if message.content or (message.tool_calls and role == "assistant"):
        return
    record["empty"] = True
    if ends or (message.content is None and _is_taken_apart(role, request)):
        raise CallFailed(role, "no_reply", _describe_empty(role, reply, record))


def _is_taken_apart(role: Role, request: Mapping[str, Any]) -> bool:
    """Return whether stock's code splits or searches the reply: of an agent without tools, or of
    the model that verifies a user or reflects on it."""
    if role == "assistant":
        return "tools" not in request
    return bool(request["messages"][0]["role"] != "system")


def _describe_empty(role: Role, reply: Reply, record: Mapping[str, Any]) -> str:
    if record.get("think"):
        return f"the {role}'s reply was reasoning and nothing else"
    if reply.message.tool_calls:
        return "the user's model sent a tool call and no text"
    cut = " before it was cut off" if reply.choices[0].finish_reason == "length" else ""
    return _NOTHING.format(role) + cut


def _refuse_half_characters(role: Role, messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise CallFailed where what is newest cannot be written in UTF-8, as stock's client does.

    A model can write half of a surrogate pair as an escape, in JSON or in a tool's argument.
    """
    for message in messages[-2:]:
        try:
            json.dumps(message, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            writer = _find_writer(role, message, messages)
            what = f"the {writer}'s model wrote half of a character, which no request can carry"
            raise CallFailed(writer, "no_reply", what) from None


def _blame_blank(role: Role, messages: Sequence[Mapping[str, Any]], refusal: CallFailed) -> None:
    """Raise CallFailed of the role whose empty message another's server refuses."""
    for message in reversed(messages):
        if is_blank(message) and (writer := _find_writer(role, message, messages)) != role:
            what = f"{_NOTHING.format(writer)}, which the {role}'s server refuses: {refusal}"
            raise CallFailed(writer, "no_reply", what, refusal.status) from refusal


def _find_writer(
    role: Role, message: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> Role:
    """Return whose words a message of a request of `role` holds; a tool's are its caller's."""
    if message["role"] != "user" or len(messages) == 1:  # alone, it is about the user's own reply
        return role
    return "user" if role == "assistant" else "assistant"
