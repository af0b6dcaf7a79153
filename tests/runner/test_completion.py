"""One call of an episode, over real HTTP: what is sent, what is noted of it, whose fault it is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from emobench.core.errors import ServersGone
from emobench.core.models import Price
from emobench.core.sweep import Fidelity
from emobench.llm.transport import CallFailed, ModelEndpoint, Role
from emobench.runner.completion import CallLog, StockDraws, complete, get_current_log
from emobench.runner.endpoint_resolver import RoleEndpoints
from tests.support.model_server import LOOKUP, ModelServer, Reply, proving, recording

BLANK_REFUSED = Reply(status=400, error="messages: text content must be non-empty")
TOOLS = [{"type": "function", "function": {"name": LOOKUP[0], "parameters": {}}}]
SYSTEM = {"role": "system", "content": "Policy."}
USER = {"role": "user", "content": "Hi."}
ASKED = [SYSTEM, USER]


@dataclass(frozen=True)
class Counted(Reply):
    """A reply of a server that counts tokens it had in its cache."""

    cached: Any = 2

    def body(self) -> dict[str, Any]:
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return {**super().body(), "usage": {**usage, "prompt_tokens_details": self.cached}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0, 0.0))
    with recording(lambda request: Reply("Hello.")) as server:
        yield server


def log_of(server: ModelServer, **options: Any) -> CallLog:
    """An episode of two models behind one server; options that are no field are repairs."""
    endpoint = ModelEndpoint("m", server.url, "k", incarnation="i1", sampling={"top_p": 0.5})
    fields = {name: options.pop(name) for name in list(options) if name in CallLog.__annotations__}
    roles: dict[Role, ModelEndpoint] = {"assistant": endpoint, "user": endpoint}
    return CallLog(**{"endpoints": roles, "seed": 7, "fidelity": Fidelity(**options), **fields})


def stock(**arguments: Any) -> object:
    """Stands in for litellm's function, of which it returns no completion."""
    return object()


def ask(
    log: CallLog,
    role: Role = "assistant",
    messages: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Any:
    """One call as tau-bench makes it."""
    more = {"messages": ASKED if messages is None else messages, "temperature": 0.0, **more}
    with log.active():
        return complete(role, stock, model="x", custom_llm_provider="openai", **more)


def failed(log: CallLog, *arguments: Any, **more: Any) -> tuple[str, str, int, str]:
    """(role, kind, status, words) of a call that fails."""
    with pytest.raises(CallFailed) as failure:
        ask(log, *arguments, **more)
    error = failure.value
    return error.role, error.kind, error.status, str(error)


class Clock:
    """Stands in for the time of emobench.runner.completion: each look is 1.23456 s later."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self._looks * 1.23456


def test_what_is_sent_and_what_is_noted(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.runner.completion.time", Clock())
    log = log_of(server)
    server.answer = lambda request: Counted(None, [LOOKUP, LOOKUP], cached={"cached_tokens": 0})
    messages = [SYSTEM, USER]
    reply = ask(log, messages=messages, tools=TOOLS)
    assert (log.messages is messages, log.reading) == (True, "assistant")
    expected = {"model": "m", "messages": ASKED, "tools": TOOLS, "seed": 7, "top_p": 0.5}
    assert server.requests == [{**expected, "temperature": 0.0}]
    (record,) = log.calls
    assert record == {
        "role": "assistant",
        "incarnation": "i1",
        "latency_s": 1.2346,
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cached_tokens": 0,
        "finish_reason": "stop",
        "tool_calls": 2,
    }
    assert reply._hidden_params["response_cost"] == 0.0, "agents add it up"
    ask(log, "user", messages=[SYSTEM])
    assert (log.messages is messages, log.reading) == (True, "user"), "the assistant's view stays"
    assert server.keys == ["k", "k"]


def test_the_cost_of_a_call(server: ModelServer) -> None:
    log = log_of(server)
    assert ask(log, "user")._hidden_params["response_cost"] is None, "as stock's user tells it"
    assert "cost" not in log.calls[0]
    price = Price(input=2e5, output=2e5)
    log = log_of(server)
    log.endpoints = {role: replace(each, price=price) for role, each in log.endpoints.items()}
    assert ask(log, "user")._hidden_params["response_cost"] == pytest.approx(1.0)
    assert log.calls[0]["cost"] == pytest.approx(1.0)


def test_counts_that_are_none_are_not_noted(server: ModelServer) -> None:
    log = log_of(server)
    for details in (None, "2", {}, {"cached_tokens": None}):
        server.answer = lambda request, details=details: Counted("Hi.", cached=details)  # type: ignore[misc]
        ask(log)
    noted = [
        call.keys() & {"cached_tokens", "tool_calls", "retries", "error"} for call in log.calls
    ]
    assert noted == [set()] * 4


def test_absurd_counts_are_left_out_and_named(server: ModelServer) -> None:
    """A server that takes tokens off would take money off a limit."""
    log = log_of(server)
    price = Price(input=2e5, output=2e5)
    log.endpoints = {role: replace(each, price=price) for role, each in log.endpoints.items()}
    wrong: list[Any] = [-5, 10**9, True, "3", 2.5]
    for count in wrong:
        usage = {"prompt_tokens": count, "completion_tokens": 2}
        details = {"prompt_tokens_details": {"cached_tokens": count}}
        server.rewrite = lambda body, usage=usage | details: json.dumps(
            {**json.loads(body), "usage": usage}
        ).encode()
        ask(log)
    for call in log.calls:
        assert (call["prompt_tokens"], call["completion_tokens"]) == (None, 2)
        assert "cached_tokens" not in call
        assert call["odd_counts"] == ["prompt_tokens", "cached_tokens"]
        assert "cost" not in call


def test_a_seed_and_litellm_by_the_repairs(server: ModelServer) -> None:
    ask(log_of(server, send_seed=False))
    assert "seed" not in server.requests[0]
    words = "a reply that is no chat completion: 'object' object has no attribute 'choices'"
    strange = [SYSTEM, {"role": "user", "content": object()}]
    assert words in failed(log_of(server, lean_client=False), "user", strange)[3]


def test_a_transport_is_kept_from_call_to_call(server: ModelServer) -> None:
    transports: dict[Role, Any] = {}
    log = log_of(server, transports=transports)
    ask(log)
    (first,) = transports.values()
    ask(log)
    ask(log, "user")
    assert transports["assistant"] is first
    assert transports["user"] is not first


def test_plain_messages_by_the_repair(server: ModelServer) -> None:
    for plain in (True, False):
        log = log_of(server, lean_client=False, plain_messages=plain)
        failed(log)
        assert vars(log.transports["assistant"])["_plain_messages"] is plain


def test_what_is_noted_of_a_call_that_fails(server: ModelServer) -> None:
    log = log_of(server)
    replies = iter([Reply(status=503), Reply("Hi."), Reply("Hi.")])
    server.answer = lambda request: next(replies, Reply(status=503, error="away"))
    ask(log)
    ask(log)
    assert [call.get("retries") for call in log.calls] == [1, None]
    log.reading = "user"
    role, kind, status, words = failed(log)
    assert (role, kind, status) == ("assistant", "infra", 503)
    assert "HTTP 503: away" in words
    assert log.reading is None
    assert (log.calls[2]["error"], log.calls[2]["retries"]) == ("infra", 2)
    assert log.calls[2]["latency_s"] >= 0


def test_outside_an_episode_it_is_the_stock_function(server: ModelServer) -> None:
    assert get_current_log() is None
    assert complete("user", lambda *args, **kwargs: (args, kwargs), 1, a=2) == ((1,), {"a": 2})
    log, others = log_of(server), []
    with pytest.raises(ValueError), log.active():
        assert get_current_log() is log
        thread = threading.Thread(target=lambda: others.append(get_current_log()))
        thread.start()
        thread.join()
        raise ValueError
    assert (get_current_log(), others) == (None, [None])


@pytest.mark.parametrize(
    ("role", "reading", "status", "blamed"),
    [
        ("user", "assistant", 400, ("assistant", "rejected")),
        ("user", "assistant", 503, ("user", "infra")),
        ("user", None, 400, ("user", "infra")),
        ("user", "user", 400, ("user", "infra")),
        ("assistant", "assistant", 400, ("assistant", "infra")),
    ],
)
def test_words_that_are_no_text_are_their_writers(
    server: ModelServer, role: Role, reading: Role | None, status: int, blamed: tuple[str, str]
) -> None:
    server.answer = lambda request: Reply(status=status, error="Input should be a valid string")
    log = log_of(server, reading=reading)
    found = failed(log, role)
    assert (found[:2], found[2]) == (blamed, status)
    assert "Input should be a valid string" in found[3]


def said(role: str, content: str | None = "") -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("role", "messages", "writer"),
    [
        ("user", [SYSTEM, USER, said("assistant", "Hi."), said("user")], "assistant"),
        ("assistant", [SYSTEM, said("user", None)], "user"),
        ("assistant", [SYSTEM, said("user"), said("assistant")], "user"),  # whose own is none of it
        ("assistant", [SYSTEM, USER, said("assistant")], None),
        ("user", [said("user")], None),  # alone, it is about the user's own reply
    ],
)
def test_who_sent_nothing_is_at_fault_where_a_server_refuses_it(
    server: ModelServer, role: Role, messages: list[dict[str, Any]], writer: str | None
) -> None:
    server.answer = lambda request: BLANK_REFUSED
    log = log_of(server)
    refusal = f"HTTP 400: {BLANK_REFUSED.error} (m at {server.url})"
    told = (
        f"the {writer}'s model sent neither text nor a tool call, which the {role}'s server "
        f"refuses: {refusal}"
    )
    own = (role, "rejected", 400, refusal)
    assert failed(log, role, messages) == ((writer, "no_reply", 400, told) if writer else own)
    assert log.calls[0]["error"] == "rejected"
    server.answer = lambda request: Reply(status=503)
    assert failed(log, role, messages)[:3] == (role, "infra", 503)


def test_a_tool_that_answers_with_nothing_is_nobodys_fault(server: ModelServer) -> None:
    server.answer = lambda request: BLANK_REFUSED
    kind = failed(log_of(server), "assistant", [SYSTEM, USER, said("tool")])[1]
    assert kind == "infra"


@pytest.mark.parametrize(
    ("role", "messages", "writer"),
    [
        ("assistant", [SYSTEM, said("user", "\ud800")], "user"),
        ("user", [SYSTEM, said("user", "\ud800")], "assistant"),
        ("assistant", [SYSTEM, USER, said("assistant", "\udfff"), USER], "assistant"),
        ("assistant", [SYSTEM, USER, said("assistant"), said("tool", "\udfff")], "assistant"),
        ("user", [said("user", "\ud800")], "user"),
    ],
)
def test_half_a_character_is_its_writers(
    server: ModelServer, role: Role, messages: list[dict[str, Any]], writer: str
) -> None:
    words = f"the {writer}'s model wrote half of a character, which no request can carry"
    log = log_of(server)
    assert failed(log, role, messages) == (writer, "no_reply", 0, words)
    assert (server.bodies, log.calls) == ([], [])
    whole = [{**message, "content": "\U0001f600 é"} for message in messages]
    assert ask(log_of(server), role, whole).message.content == "Hello."


THOUGHT = "<think>Hm.</think>"
NOTHING = "the {}'s model sent neither text nor a tool call"


@pytest.mark.parametrize(
    ("role", "reply", "heard", "noted"),
    [
        ("assistant", Reply(f"{THOUGHT}Yes."), "Yes.", {"think": ["complete"]}),
        ("assistant", Reply("<think>Hm."), "", {"think": ["unterminated"], "empty": True}),
        ("assistant", Reply(THOUGHT, [LOOKUP]), None, {"think": ["complete"]}),
        ("assistant", Reply(None, [LOOKUP]), None, {}),
        ("assistant", Reply(""), "", {"empty": True}),
        ("assistant", Reply(None), None, {"empty": True}),
        ("user", Reply(""), "", {"empty": True}),
        ("user", Reply(None, [LOOKUP]), None, {"empty": True}),
        ("user", Reply("Yes.", [LOOKUP]), "Yes.", {}),
        ("user", Reply("I think so."), "I think so.", {}),
    ],
    ids=str,
)
def test_what_is_heard_of_a_reply(
    server: ModelServer, role: Role, reply: Reply, heard: str | None, noted: dict[str, Any]
) -> None:
    """By default no conversation ends where stock's goes on."""
    server.answer = lambda request: reply
    log = log_of(server)
    assert ask(log, role, tools=TOOLS).message.content == heard
    assert {key: log.calls[0][key] for key in ("think", "empty") if key in log.calls[0]} == noted
    log = log_of(server, sanitize_think=False)
    assert ask(log, role, tools=TOOLS).message.content == reply.content
    assert "think" not in log.calls[0]


@pytest.mark.parametrize(
    ("role", "reply", "words"),
    [
        ("assistant", Reply(THOUGHT), "the assistant's reply was reasoning and nothing else"),
        ("user", Reply(None, [LOOKUP]), "the user's model sent a tool call and no text"),
        ("user", Reply(None), NOTHING.format("user")),
        (
            *("assistant", Reply("", finish_reason="length")),
            NOTHING.format("assistant") + " before it was cut off",
        ),
    ],
    ids=str,
)
def test_an_empty_reply_ends_a_conversation_where_that_is_asked_for(
    server: ModelServer, role: Role, reply: Reply, words: str
) -> None:
    server.answer = lambda request: reply
    log = log_of(server, end_at_empty_reply=True)
    assert failed(log, role, tools=TOOLS) == (role, "no_reply", 0, words)
    assert log.calls[0]["empty"] is True
    assert log.reading is None


VERIFIER = [{"role": "user", "content": "Was that good?"}]


@pytest.mark.parametrize(
    ("role", "messages", "tools", "ends"),
    [
        ("assistant", ASKED, TOOLS, False),
        ("assistant", ASKED, None, True),
        ("user", ASKED, None, False),
        ("user", VERIFIER, None, True),
    ],
)
def test_a_reply_without_text_ends_it_where_stocks_code_takes_the_text_apart(
    server: ModelServer, role: Role, messages: list[dict[str, Any]], tools: Any, ends: bool
) -> None:
    more = {} if tools is None else {"tools": tools}
    server.answer = lambda request: Reply(None)
    log = log_of(server)
    if ends:
        assert failed(log, role, messages, **more)[3] == NOTHING.format(role)
    else:
        assert ask(log, role, messages, **more).message.content is None
    server.answer = lambda request: Reply("")
    assert ask(log, role, messages, **more).message.content == ""


@pytest.mark.parametrize(
    ("role", "strategy", "begins"),
    [
        ("assistant", "act", "Action: "),
        ("assistant", "react", "Action: "),
        ("user", "react", "Thought: "),
        ("user", "react", "User Response: "),
        ("user", "reflection", "Response: "),
        ("assistant", "tool-calling", ""),
        ("user", "llm", ""),
    ],
)
def test_a_reply_in_form_within_open_reasoning_is_heard_as_in_stock(
    server: ModelServer, role: Role, strategy: str, begins: str
) -> None:
    server.answer = lambda request: Reply(f"<think>Hm. {begins}go")
    strategies: dict[Role, str] = {role: strategy}
    options: dict[str, Any] = {"strategies": strategies}
    heard = f"{begins}go" if begins else ""
    assert ask(log_of(server, **options), role).message.content == heard
    ending = log_of(server, end_at_empty_reply=True, **options)
    assert failed(ending, role)[3] == f"the {role}'s reply was reasoning and nothing else"


class Moving:
    """Stands in for a conversation's Follower."""

    def __init__(self, *places: RoleEndpoints | ServersGone, can_move: bool | ServersGone) -> None:
        self._places, self._can_move = list(places), can_move
        self.moves = 0

    def resolve(self) -> RoleEndpoints:
        place = self._places.pop(0) if len(self._places) > 1 else self._places[0]
        if isinstance(place, ServersGone):
            raise place
        return place

    def move(self) -> bool:
        self.moves += 1
        if isinstance(self._can_move, ServersGone):
            raise self._can_move
        return self._can_move


def test_a_call_follows_its_server(server: ModelServer) -> None:
    with recording(lambda request: Reply(status=503, error="moved")) as old:
        places = [RoleEndpoints(n, log_of(each).endpoints) for n, each in enumerate((old, server))]
        follower = Moving(*places, can_move=True)
        log = log_of(old, follower=follower)
        assert ask(log).message.content == "Hello."
        assert (log.endpoints, log.transports) == (places[1].roles, places[1].transports)
        assert list(places[0].transports) == list(places[1].transports) == ["assistant"]
        assert [call.get("error") for call in log.calls] == ["infra", None]
        stays = Moving(places[0], can_move=False)
        assert failed(log_of(old, follower=stays))[:3] == ("assistant", "infra", 503)
        assert stays.moves == 1
        gone = Moving(places[0], can_move=ServersGone("the job has ended"))
        lost = ("user", "infra", 0, "the job has ended")
        assert failed(log_of(old, follower=gone), "user") == lost
    gone = Moving(ServersGone("the job has ended"), can_move=True)
    assert failed(log_of(server, follower=gone), "user") == lost
    litellms = Moving(RoleEndpoints(2, log_of(server).endpoints), can_move=False)
    odd = failed(log_of(server, lean_client=False, follower=litellms))[3]
    assert "a reply that is no chat completion" in odd
    server.answer = lambda request: Reply(status=400, error="maximum context length is 5")
    told = Moving(places[1], can_move=True)
    assert failed(log_of(server, follower=told))[1] == "context_overflow"
    assert told.moves == 0, "a server that answers is where it was"


def test_a_call_that_waits_for_a_rate_limit_follows_its_server(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hands over while it refuses is not waited for until its time is over."""
    monkeypatch.setattr("emobench.llm.endpoint_limits.LOOK_S", 0.01)
    server.prove = proving("k", "i1", "user")
    with recording(lambda request: busy) as old:
        old.prove = server.prove
        busy = Reply(status=503, error="draining", headers={"Retry-After": "600"})
        places = [
            RoleEndpoints(
                number,
                {
                    role: replace(endpoint, server="user")
                    for role, endpoint in log_of(each).endpoints.items()
                },
            )
            for number, each in enumerate((old, server))
        ]
        follower = Moving(*[places[0]] * 5, places[1], can_move=False)
        log = log_of(old, follower=follower)
        assert ask(log).message.content == "Hello."
        assert len(old.requests) == 1
    assert [call.get("error") for call in log.calls] == ["infra", None]
    assert [call.get("rate_limits") for call in log.calls] == [1, None]


def test_stocks_draws_are_those_of_one_generator() -> None:
    generator: Random = Random(5)
    generator.randint(0, 9)
    draws = [generator.sample(range(20), 3) for _ in range(3)]
    assert [StockDraws(5, 9, n).sample(range(20), 3) for n in range(3)] == draws


def test_each_episode_draws_by_its_own_seed(server: ModelServer) -> None:
    assert log_of(server).random.random() == Random(7).random()
