"""How a request reaches a model: the lean client for OpenAI-compatible URLs, litellm for the rest.

Both give a `Reply` or raise `CallFailed`; nothing else of a provider's ways is seen outside.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from emobench.core.models import Price
from emobench.core.redaction import hide, hide_environment, hide_password, redact, redact_values
from emobench.core.wording import format_duration
from emobench.llm.client import Answer, ChatClient, Identity, Unreachable, needs_proxy
from emobench.llm.endpoint_limits import Effort, EndpointLimit
from emobench.llm.prices import compute_cost, find_listed_price
from emobench.llm.rate_limits import (
    RATE_LIMITED,
    UNAVAILABLE,
    Allowance,
    Busy,
    read_allowance,
    read_busy,
)
from emobench.llm.refusals import (
    INVALID,
    has_made_up_call,
    is_context_overflow,
    is_of_content,
    remove_calls,
)
from emobench.llm.replies import NoCompletion, count_in, read_completion, read_error_words

Role = Literal["user", "assistant"]
Kind = Literal["infra", "context_overflow", "rejected", "no_reply"]

RETRY_AFTER_S = (0.5, 2.0)
"""Pauses before a call that got no answer is sent again; a chat call may be repeated freely."""
RATE_LIMIT_WAIT_S = 1800.0
"""Of a call, where nothing says how long it may wait for rate limits."""
TIMED_OUT = 408
"""litellm's status of a call that was not answered in time."""


class CallFailed(Exception):
    """A call that gave no usable reply, with the boundary that it failed at.

    infra: no answer, a time-out, a 5xx, a refused key, a request that the server would refuse in
    every conversation; context_overflow: the conversation is longer than the model's context;
    rejected: the server refuses what this conversation holds, or fails on the model's own
    malformed call; no_reply: neither text nor a tool call.
    """

    def __init__(
        self, role: Role, kind: Kind, message: str, status: int = 0, busy: Busy | None = None
    ) -> None:
        super().__init__(message)
        self.role = role
        self.kind = kind
        self.status = status
        """Of the server's answer; 0 where none came."""
        self.busy = busy
        """Set where the endpoint has had too many requests, and takes this one later."""


@dataclass(frozen=True)
class ModelEndpoint:
    """Where a role's model answers, and what every request of the role carries."""

    model: str
    url: str | None
    """Base URL; None is the provider's own address."""
    api_key: str | None
    provider: str = "openai"
    incarnation: str = ""
    server: str = ""
    """Name of one of our own servers, which has to prove itself; empty: it is none."""
    sampling: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0
    rate_limit_wait_s: float = RATE_LIMIT_WAIT_S
    """A call waits so long for rate limits, all of its waits together."""
    price: Price | None = None
    """Of a hosted model, where the sweep file names it."""

    def __post_init__(self) -> None:
        hide(self.api_key)
        hide_password(self.url or "")

    @property
    def identity(self) -> Identity | None:
        """What a server of our own has to prove; None where it is none."""
        return Identity(self.server, self.incarnation) if self.server else None

    @property
    def direct(self) -> bool:
        """Whether it is an OpenAI-compatible URL that is reached without a proxy, as our own
        servers are whatever the environment says."""
        if self.provider != "openai" or self.url is None:
            return False
        return bool(self.server) or not needs_proxy(self.url)

    def __repr__(self) -> str:  # the key stays out of tracebacks and logs
        return redact(f"{self.model} at {self.url or self.provider}")


@dataclass
class Message:
    """A reply's message, with what tau-bench's code uses of litellm's."""

    content: str | None
    tool_calls: list[dict[str, Any]] | None
    role: str = "assistant"

    def model_dump(self) -> dict[str, Any]:
        """Return the message as it goes back into the conversation."""
        dumped: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            dumped["tool_calls"] = self.tool_calls
        return dumped

    def __repr__(self) -> str:
        # The verify prompt shows the user's reply as the object's repr, as litellm prints it.
        calls = self.tool_calls or None
        return f"Message(content={self.content!r}, role={self.role!r}, tool_calls={calls!r})"


@dataclass
class Choice:
    message: Message
    finish_reason: str | None


class Reply:
    """A response with what tau-bench's code uses of litellm's, and the usage for the record."""

    def __init__(
        self, message: Message, finish_reason: str | None, usage: dict[str, Any], cost: float | None
    ) -> None:
        self.choices = [Choice(message, finish_reason)]
        self.usage = usage
        self.cost = cost
        self.allowance: Allowance | None = None
        """What is left of the endpoint's limits, where it says so."""
        # Stock adds costs up and raises TypeError for models without a price.
        self._hidden_params: dict[str, float | None] = {"response_cost": cost or 0.0}

    @property
    def message(self) -> Message:
        return self.choices[0].message


class Transport(Protocol):
    """Sends one request of a role. Raises CallFailed, and Stopped where it was waiting."""

    def send(self, role: Role, request: dict[str, Any], effort: Effort | None = None) -> Reply: ...


def make_transport(
    endpoint: ModelEndpoint,
    stock: Callable[..., Any],
    *,
    through_litellm: bool,
    plain_messages: bool = True,
    limit: EndpointLimit | None = None,
) -> Transport:
    """Return the lean client where it can serve, litellm otherwise (or where stock's own is asked
    for). `limit` is the endpoint's, shared with whoever else asks it."""
    if endpoint.direct and not through_litellm:
        return HttpTransport(endpoint, limit)
    return LitellmTransport(endpoint, stock, plain_messages, limit)


def is_silent(message: Mapping[str, Any]) -> bool:
    """Return whether a message has neither text nor a tool call, as its model sent none."""
    return message.get("content") is None and not message.get("tool_calls")


class _Resending(ABC):
    """Sends a request again that got no usable answer, and waits while the endpoint is busy."""

    def __init__(self, endpoint: ModelEndpoint, limit: EndpointLimit | None) -> None:
        self._endpoint = endpoint
        self._limit = limit or EndpointLimit(repr(endpoint))

    def send(self, role: Role, request: dict[str, Any], effort: Effort | None = None) -> Reply:
        """Return the reply; `effort` is filled in with what it took."""
        effort = Effort() if effort is None else effort
        budget_s = self._endpoint.rate_limit_wait_s
        pauses = list(RETRY_AFTER_S)
        while True:
            if budget_s and not self._limit.wait_for_turn(effort, budget_s):
                raise self._make_late_failure(role, 429, self._limit.words, effort)
            if effort.has_moved():
                raise CallFailed(role, "infra", f"{self._endpoint!r} has moved")
            began = time.monotonic()
            try:
                reply = self.send_once(role, request, is_last=not pauses)
                tokens = count_in(reply.usage, "completion_tokens") or 0
                self._limit.note_reply(time.monotonic() - began, tokens, reply.allowance)
                return reply
            except CallFailed as failure:
                if failure.busy is not None and budget_s:
                    words = str(failure)
                    if self._limit.wait_after(failure.busy, words, effort, budget_s):
                        continue
                    raise self._make_late_failure(role, failure.status, words, effort) from failure
                # Who calls a request invalid is not asked to think again.
                if failure.kind != "infra" or failure.status in INVALID or not pauses:
                    raise
            effort.retries += 1
            time.sleep(pauses.pop(0))

    def _make_late_failure(self, role: Role, status: int, words: str, effort: Effort) -> CallFailed:
        waited = format_duration(effort.rate_limit_wait_s)
        limit = format_duration(self._endpoint.rate_limit_wait_s)
        why = f"a call may wait {limit} for rate limits (rate_limit_wait_min)"
        return CallFailed(role, "infra", f"{words}: waited {waited}, and {why}", status)

    @abstractmethod
    def send_once(self, role: Role, request: dict[str, Any], *, is_last: bool) -> Reply:
        """Send a request that is not sent again. Raises CallFailed."""


class HttpTransport(_Resending):
    """An OpenAI-compatible endpoint over one kept connection a thread."""

    def __init__(self, endpoint: ModelEndpoint, limit: EndpointLimit | None = None) -> None:
        super().__init__(endpoint, limit)
        assert endpoint.url is not None
        self._price = endpoint.price or find_listed_price(endpoint.model, endpoint.url)
        self._client = ChatClient(
            endpoint.url, endpoint.api_key, endpoint.timeout_s, endpoint.identity
        )

    def send_once(self, role: Role, request: dict[str, Any], *, is_last: bool) -> Reply:
        if any(map(is_silent, request["messages"])):  # litellm leaves the key out as well
            messages = [
                {key: value for key, value in message.items() if key != "content"}
                if is_silent(message)
                else message
                for message in request["messages"]
            ]
            request = {**request, "messages": messages}
        try:
            answer = self._client.chat(request)
            if answer.status != 200:
                raise self._make_failure(role, request, answer, is_last=is_last)
            said = read_completion(answer)
        except (Unreachable, NoCompletion) as error:
            text = read_error_words(str(error))
            raise CallFailed(role, "infra", f"{text} ({self._endpoint!r})") from None
        message = Message(said.content, said.tool_calls or None)
        cost = compute_cost(said.usage, self._price)
        reply = Reply(message, said.finish_reason, said.usage, cost)
        reply.allowance = answer.allowance
        return reply

    def _make_failure(
        self, role: Role, request: dict[str, Any], answer: Answer, *, is_last: bool
    ) -> CallFailed:
        words = read_error_words(answer.describe_error())
        kind = _classify_refusal(request, answer.status, words)
        # Some servers answer 500 to a tool name that their model made up, each time.
        if (
            is_last
            and answer.status == 500
            and has_made_up_call(request, words)
            and self._goes_on(request)
        ):
            kind = "rejected"
        message = f"HTTP {answer.status}: {words[:500]} ({self._endpoint!r})"
        return CallFailed(role, kind, message, answer.status, answer.busy)

    def _goes_on(self, request: dict[str, Any]) -> bool:
        """Return whether the server answers a request that holds no tool call and asks for none."""
        try:
            answer = self._client.chat(remove_calls(request))
            return answer.status == 200 and read_completion(answer) is not None
        except (Unreachable, NoCompletion):
            return False


class LitellmTransport(_Resending):
    """Any provider that litellm knows, through the function that the benchmark imported."""

    def __init__(
        self,
        endpoint: ModelEndpoint,
        stock: Callable[..., Any],
        plain_messages: bool = True,
        limit: EndpointLimit | None = None,
    ) -> None:
        super().__init__(endpoint, limit)
        self._price = endpoint.price  # litellm looks up the listed one itself
        self._stock = stock
        hide_environment(os.environ)  # where litellm finds the keys that it is not given
        self._plain_messages = plain_messages
        self._own = {"client": _make_client_without_proxy(endpoint)} if endpoint.server else {}

    def send_once(self, role: Role, request: dict[str, Any], *, is_last: bool) -> Reply:
        endpoint = self._endpoint
        where = {"api_base": endpoint.url, "api_key": endpoint.api_key}
        call = partial(
            self._stock,
            **request,
            custom_llm_provider=endpoint.provider,
            timeout=endpoint.timeout_s,
            num_retries=0,
            drop_params=True,
            **self._own,
            **{name: value for name, value in where.items() if value is not None},
        )
        try:
            response = _call_within(endpoint.timeout_s, call)
        except TimeoutError:
            what = f"no answer within {endpoint.timeout_s:g} s ({endpoint!r})"
            raise CallFailed(role, "infra", what, TIMED_OUT) from None
        except Exception as error:
            words = read_error_words(str(error))
            status = getattr(error, "status_code", None)
            status = status if isinstance(status, int) else 0
            kind = _classify_litellm_error(error) or _classify_refusal(request, status, words)
            message = f"{type(error).__name__}: {words[:500]} ({endpoint!r})"
            raise CallFailed(role, kind, message, status, _read_litellm_busy(error)) from error
        try:
            choice = response.choices[0]
            said = choice.message
            if self._plain_messages:
                dumped = said.model_dump()
                calls = redact_values(dumped.get("tool_calls") or None)
                said = Message(redact_values(dumped.get("content")), calls)
            usage = response.usage.model_dump() if getattr(response, "usage", None) else {}
            cost = compute_cost(usage, self._price)
            hidden = response._hidden_params
            cost = hidden.get("response_cost") if cost is None else cost
            reply = Reply(said, choice.finish_reason, usage, cost)
            headers = _list_headers(hidden.get("additional_headers"))
            reply.allowance = read_allowance(headers, time.time())
            return reply
        except (AttributeError, IndexError, TypeError) as error:
            what = f"a reply that is no chat completion: {error} ({endpoint!r})"
            raise CallFailed(role, "infra", what) from error


def _make_client_without_proxy(endpoint: ModelEndpoint) -> Any:
    """Return the client by which litellm reaches one of our own servers; its own ones take the
    environment's proxy."""
    import httpx
    from openai import OpenAI

    unlimited = httpx.Limits(max_connections=None)
    return OpenAI(
        base_url=endpoint.url,
        api_key=endpoint.api_key,
        max_retries=0,
        http_client=httpx.Client(trust_env=False, limits=unlimited),
    )


def _call_within(timeout_s: float, call: Callable[[], Any]) -> Any:
    """Return what `call` returns, or raise what it raises. Raises TimeoutError where it takes
    longer: litellm's own limit is for each piece of an answer."""
    ended: Future[Any] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:
            ended.set_exception(error)

    # A daemon: a call that hangs does not keep the process.
    threading.Thread(target=run, daemon=True, name="litellm").start()
    return ended.result(timeout_s)


def _classify_refusal(request: dict[str, Any], status: int, words: str) -> Kind:
    """Return the boundary at which a request failed that was answered with another status than
    200."""
    if is_context_overflow(status, words):
        return "context_overflow"
    return "rejected" if is_of_content(status, words, request) else "infra"


def _read_litellm_busy(error: Exception) -> Busy | None:
    """Return what the provider said of its rate limits, where litellm made an error of that."""
    chain: list[BaseException] = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 10:
        chain.append(behind)
    # Of Anthropic's 529 litellm makes a 500.
    statuses = {getattr(each, "status_code", None) for each in chain}
    status = next((each for each in (*RATE_LIMITED, UNAVAILABLE) if each in statuses), 0)
    headers = _list_headers(getattr(error, "litellm_response_headers", None))
    words = " ".join(f"{each} {getattr(each, 'body', '')}" for each in chain)
    return read_busy(status, headers, words, time.time())


def _list_headers(given: Any) -> dict[str, str]:
    """Return the headers that litellm hands on, by the names under which the provider sent them."""
    return {
        str(name).lower().removeprefix("llm_provider-"): str(value)
        for name, value in dict(given or {}).items()
    }


def _classify_litellm_error(error: Exception) -> Kind | None:
    """Return what litellm itself says of a provider's words; None where it says nothing."""
    from litellm import exceptions

    if isinstance(error, exceptions.ContextWindowExceededError):
        return "context_overflow"
    return "rejected" if isinstance(error, exceptions.ContentPolicyViolationError) else None
