"""The lean client: kept connections, no secrets in what it says, and one answer for each call."""

from __future__ import annotations

import json
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.core.models import Price
from emobench.llm import guard
from emobench.llm.client import Answer, ChatClient, Identity, Unreachable, needs_proxy
from emobench.llm.endpoint_limits import Effort
from emobench.llm.prices import compute_cost
from emobench.llm.replies import judge_step, read_completion, read_result
from emobench.llm.transport import (
    CallFailed,
    HttpTransport,
    LitellmTransport,
    ModelEndpoint,
    make_transport,
)
from tests.support.model_server import Reply, recording
from tests.support.peer import HANG_UP, Peer, Pieces

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hé\u2028"}]}


FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "bare minimum": b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n",
    "an interim answer first": b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
}
KEPT = {"length", "bare minimum", "chunks", "an interim answer first"}
GARBAGE = (
    b"SSH-2.0-OpenSSH\r\n",
    b"\x00\x01\x02",
    b"HTTP/2 200\r\n\r\n",
    b"HTTP/1.1 abc\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\nhello",
)


@settings(max_examples=60)
@given(st.sampled_from(sorted(FRAMINGS)), st.lists(st.integers(0, 120), max_size=12))
def test_every_framing_in_pieces_of_any_size(framing: str, cuts: list[int]) -> None:
    answer = FRAMINGS[framing]
    edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    pieces: list[bytes | None] = [answer[a:b] for a, b in pairwise(edges) if a < b]
    if framing == "to the end":
        pieces.append(HANG_UP)
    with Peer(pieces, list(pieces)) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/x") == client.get("/y") == Answer(200, b"hello")
        client.close()
    assert peer.connections == (1 if framing in KEPT else 2)


@settings(max_examples=60)
@given(st.sampled_from(sorted(KEPT | {"closing", "HTTP/1.0"})), st.integers(1, 200))
def test_an_answer_that_breaks_off_is_none(framing: str, length: int) -> None:
    answer = FRAMINGS[framing]
    # After the last chunk of "chunks" there is nothing to wait for.
    whole = answer.find(b"0\r\n") + 1 if framing == "chunks" else len(answer)
    with Peer([answer[: min(length, whole - 1)], HANG_UP]) as peer, pytest.raises(Unreachable):
        ChatClient(peer.url, None, 10).get("/x")
    assert peer.connections == 1


@pytest.mark.parametrize("garbage", GARBAGE)
def test_something_that_is_no_http(garbage: bytes) -> None:
    with Peer([garbage, HANG_UP], [FRAMINGS["length"]]) as peer:
        client = ChatClient(peer.url, None, 10)
        with pytest.raises(Unreachable):
            client.get("/x")
        assert client.get("/x").body == b"hello"
        client.close()
    assert peer.connections == 2


NUMBER = b"9" * 5000
TOO_MUCH: dict[str, Pieces] = {
    "a body to the end": [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 20_000],
    "a chunk": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n", b"x" * 20_000],
    "chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"2;" + b"x" * 60 + b"\r\nab\r\n",
        *[b"1\r\nx\r\n" * 100] * 100,
    ],
    "trailers": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        *[b"X: y\r\n" * 100] * 200,
    ],
    "an announced body": [b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\nx"],
    "a length of 5,000 digits": [b"HTTP/1.1 200 OK\r\nContent-Length: " + NUMBER + b"\r\n\r\n{}"],
    "a chunk's length of 5,000 digits": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + NUMBER + b"\r\nhello"
    ],
    "a negative length": [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello"],
    "a chunk's negative length": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n"
    ],
    "a status of 5,000 digits": [b"HTTP/1.1 " + NUMBER + b" OK\r\n\r\n"],
    "header lines": [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n"],
    "long header lines": [b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 9000 + b"\r\n"] * 20],
    "interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 100,
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_an_answer_has_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a dead server's port cannot fill a memory, and provokes one error only."""
    monkeypatch.setattr("emobench.llm.client.BODY_BYTES", 10_000)
    with Peer([*TOO_MUCH[name], HANG_UP], [FRAMINGS["length"]]) as peer:
        client = ChatClient(peer.url, None, 30)
        with pytest.raises(Unreachable) as failed:
            client.get("/x")
        assert not failed.value.timed_out
        assert client.get("/x").body == b"hello"
        client.close()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "no", "code": 400}}, "no"),
        ({"error": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"detail": [{"msg": "no"}]}, "[{'msg': 'no'}]"),
        # A router, which would otherwise hide that the conversation is too long.
        ({"error": {"message": "Provider error", "metadata": {"raw": "no"}}}, "Provider error: no"),
        ({"error": {"message": "no", "metadata": ["raw"]}}, "no"),
        ({"error": None}, '{"error": null}'),
    ],
)
def test_a_servers_words(body: dict[str, Any], words: str) -> None:
    assert Answer(400, json.dumps(body).encode()).describe_error() == words


DEEP = b'{"a":' * 5000 + b"1" + b"}" * 5000
ATTACKS = {
    **{name: TOO_MUCH[name] for name in ("a length of 5,000 digits", "a status of 5,000 digits")},
    "deeply nested": [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DEEP), DEEP],
    "a number of 5,000 digits": [
        b'HTTP/1.1 200 OK\r\nContent-Length: 5011\r\n\r\n{"proof": ' + NUMBER + b"}"
    ],
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("identity", [True, False], ids=["as the proof", "as the reply"])
def test_no_answer_of_an_attackers_is_the_agents(name: str, identity: bool) -> None:
    """Whoever has a dead server's port cannot make a conversation count as the agent's failure."""
    server = "user" if identity else ""
    with Peer(*[[*ATTACKS[name], HANG_UP]] * 3) as peer:
        endpoint = ModelEndpoint("m", peer.url, "s3cret", timeout_s=10, server=server)
        with pytest.raises(CallFailed) as failed:
            HttpTransport(endpoint).send("assistant", dict(REQUEST))
    assert failed.value.kind == "infra"
    assert not identity or b"s3cret" not in b"".join(peer.requests)


@pytest.mark.parametrize("digits", [19, 20, 4000, 5000])
def test_counts_of_many_digits_break_nothing(digits: int) -> None:
    number = "9" * digits
    usage = f'{{"prompt_tokens": {number}, "completion_tokens": {number}, "cost": {number}}}'
    body = f'{{"choices": [{{"message": {{"content": "Hi"}}}}], "usage": {usage}}}'.encode()
    said = read_completion(Answer(200, body))
    assert said.content == "Hi"
    assert all(count is None or count < 1 << 64 for count in said.tokens)
    cost = compute_cost(said.usage, Price(input=1, output=1))
    assert cost is None or cost < 1e21


def test_a_tool_call_of_deeply_nested_arguments_is_bad_json() -> None:
    call = {"id": "1", "function": {"name": "t", "arguments": DEEP.decode()}}
    body = json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call]}}]}).encode()
    tools = [{"type": "function", "function": {"name": "t", "parameters": {}}}]
    assert judge_step(read_result(Answer(200, body)), tools).kind == "bad_json"


@pytest.mark.parametrize("depth", [65, 1000, 100_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_a_reply_that_is_nested_deeply_is_none(depth: int, begin: str, end: str) -> None:
    whole = begin * depth + "1" + end * depth
    for text in (whole, begin * depth, f'["\\ud800", {whole}]'):
        answer = Answer(200, text.encode())
        assert answer.json() is None
        assert answer.describe_error() == text


def test_a_reply_of_many_objects_is_not_deep() -> None:
    data = [{"a": [[n, "[[["]]} for n in range(100)]
    assert Answer(200, orjson.dumps(data)).json() == data
    assert Answer(200, b'"' + b"[" * 100 + b'"').json() == "[" * 100
    nested = "[" * 64 + "]" * 64
    assert Answer(200, nested.encode()).json() == json.loads(nested)
    assert Answer(200, b"1" * 5000).json() == float("inf")  # of so many digits none is counted


def hello(text: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text.encode())


def until_something_waits(client: ChatClient) -> None:
    """Return once bytes lie on this thread's kept connection, unread."""
    assert select.select([client._threads.connection.sock], [], [], 30)[0]


def test_an_answer_that_was_not_asked_for_is_nobodys() -> None:
    """A server that answers twice would shift every later answer by one request."""
    with Peer([hello("one"), hello("one")], [hello("two")]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/1").body == b"one"
        until_something_waits(client)
        assert client.get("/2").body == b"two"
        client.close()
    assert (peer.connections, len(peer.requests)) == (2, 2)


ONE, TWO, THREE = (f'{{"id": "chatcmpl-{number}"}}' for number in (1, 2, 3))


@pytest.mark.parametrize("before", [[ONE], [ONE, TWO]])
def test_an_answer_that_comes_once_more_is_no_answer_to_a_later_request(before: list[str]) -> None:
    """It may come only when a later request is on its way; then it lay on no connection before."""
    said = [*before, ONE, THREE]
    with Peer(*([hello(text)] for text in said)) as peer:
        client = ChatClient(peer.url, None, 10)
        heard = [client.chat({"n": n}).decode() for n in range(len(before) + 1)]
        client.close()
    assert heard == [*before, THREE]
    assert peer.requests[-2] == peer.requests[-1]
    assert (peer.connections, len(peer.requests)) == (2, len(said))


def test_a_server_that_says_the_same_on_a_new_connection_is_believed() -> None:
    with Peer([hello(ONE)], [hello(ONE)], [hello(ONE)]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert [client.chat({"n": n}).decode() for n in range(2)] == [ONE, ONE]
        client.close()
    assert (peer.connections, len(peer.requests)) == (2, 3)


def test_answers_without_an_id_and_lists_of_models_may_be_the_same() -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    with Peer([busy], [busy], [hello(ONE)], [hello(ONE)]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert [client.chat({}).status, client.chat({}).status] == [503, 503]
        assert client.get("/models") == client.get("/models")
        client.close()
    assert (peer.connections, len(peer.requests)) == (1, 4)


@pytest.mark.parametrize("framing", [hello("one"), FRAMINGS["chunks"]])
def test_more_than_an_answer_in_one_piece(framing: bytes) -> None:
    """What was read ahead is not lost: the rest of it may still be on its way."""
    with Peer([framing + hello("one")[:9]], [hello("two")]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/1").status == 200
        assert client.get("/2").body == b"two"
        client.close()
    assert peer.connections == 2


def test_the_time_limit_is_for_the_whole_answer() -> None:
    """One byte at a time, each of them in time: 5 seconds in all."""
    slow: Pieces = [bytes([each]) for each in hello("x" * 60)]
    with Peer(slow, pause_s=0.05) as peer:
        client = ChatClient(peer.url, None, 0.4)
        with pytest.raises(Unreachable, match=r"no answer within 0\.4 s") as late:
            client.get("/x")
    assert late.value.timed_out


IDENTITY = Identity("user", "new")


def proof_of(request: bytes, *, head: bytes = b"") -> bytes:
    challenge = request.split()[1].decode().partition("challenge=")[2]
    host, _, port = request.partition(b"Host: ")[2].split()[0].decode().partition(":")
    own = guard.compute_proof("key", challenge, "new", "user", (host, int(port)))
    body = json.dumps({"proof": own}).encode()
    return b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def test_the_time_limit_holds_for_the_proof_too() -> None:
    with Peer(lambda asked: [bytes([each]) for each in proof_of(asked)], pause_s=0.05) as peer:
        client = ChatClient(peer.url, "key", 0.4, IDENTITY)
        with pytest.raises(Unreachable, match=r"no answer within 0\.4 s"):
            client.get("/x")


@pytest.mark.parametrize(
    "prove",
    [
        lambda asked: [proof_of(asked, head=b"Connection: close\r\n")],
        lambda asked: [proof_of(asked, head=b"Connection: close\r\n"), HANG_UP],
        lambda asked: [proof_of(asked), HANG_UP],
        lambda asked: [proof_of(asked) + hello("forged")],
    ],
    ids=["says that it closes", "closes as it says", "closes", "sends an answer ahead"],
)
def test_a_proof_holds_for_its_own_connection(prove: Callable[[bytes], Pieces]) -> None:
    """The next connection may be somebody else's: it is not given the key, and its answer is no
    reply of the agent's."""
    with Peer(prove, prove, prove, [hello("forged")]) as peer:
        endpoint = ModelEndpoint(
            "m", peer.url, "key", server="user", incarnation="new", timeout_s=10
        )
        with pytest.raises(CallFailed) as failed:
            HttpTransport(endpoint).send("assistant", dict(REQUEST))
    assert failed.value.kind == "infra"
    assert (peer.connections, len(peer.requests)) == (3, 3), "the key was sent after the proof"


def test_large_bodies_go_both_ways() -> None:
    text = "x" * 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + text.encode()
    with Peer([answer]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.chat({"x": text}).body == text.encode()
        client.close()
    assert len(peer.requests[0]) > 3_000_000


def test_a_kept_connection_that_the_server_closed_is_opened_again_once() -> None:
    """A server may close an idle connection at any time; that fails no call."""
    hello = FRAMINGS["length"]
    with Peer([hello, HANG_UP], [hello, HANG_UP], [hello]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert [client.chat(REQUEST).body for _ in range(3)] == [b"hello"] * 3
        client.close()
    assert (peer.connections, len(peer.requests)) == (3, 3)
    with Peer([hello], [HANG_UP], [HANG_UP], [hello]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/x").body == b"hello"
        with pytest.raises(Unreachable, match="RemoteDisconnected"):
            client.get("/x")
    assert len(peer.requests) == 3


def test_a_call_whose_answer_began_is_not_sent_again() -> None:
    hello = FRAMINGS["length"]
    with Peer([hello], [hello[:-2], HANG_UP], [hello]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/x").body == b"hello"
        with pytest.raises(Unreachable, match="IncompleteRead"):
            client.get("/x")
        assert len(peer.requests) == 2
        assert client.get("/x").body == b"hello"
        client.close()


def test_what_a_server_is_sent() -> None:
    with Peer([FRAMINGS["closing"]]) as peer:
        url = peer.url.replace("//", "//somebody:secret@") + "/"
        ChatClient(url, " k\xe9y\n", 10).chat({"model": "m"})
    head, body = peer.requests[0].split(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert line == b"POST /v1/chat/completions HTTP/1.1"
    assert sorted(fields) == [
        b"Accept-Encoding: identity",
        b"Accept: application/json",
        b"Authorization: Bearer " + "k\xe9y".encode(),
        b"Content-Length: 13",
        b"Content-Type: application/json",
        b"Host: " + peer.url.split("/")[2].encode(),
    ]
    assert body == b'{"model":"m"}'


def test_a_key_with_a_line_break_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="control character"):
        ChatClient("http://127.0.0.1:1/v1", "a\r\nX: y", 5)


def test_a_proxy_of_the_site_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with Peer([FRAMINGS["length"]]) as peer:
        client = ChatClient(peer.url, None, 10)
        assert client.get("/models").status == 200
        client.close()


def test_one_connection_serves_many_calls() -> None:
    with recording(lambda request: Reply(str(len(request["messages"])))) as server:
        client = ChatClient(server.url, "key", 5)
        for _ in range(3):
            assert client.chat(REQUEST).status == 200
        client.close()
        assert server.requests == [REQUEST] * 3


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/v1", "refused"),
        ("http://no-such-host.invalid/v1", "gaierror"),
        ("no-address", "is no address"),
    ],
)
def test_nobody_there(url: str, said: str) -> None:
    with pytest.raises(Unreachable, match=said):
        ChatClient(url, None, 5).chat(REQUEST)


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", None, 0.2)
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s") as late:
            client.chat(REQUEST)
    assert late.value.timed_out
    with Peer([b"HTTP/1.1 200 OK\r\n"]) as peer:
        client = ChatClient(peer.url, None, 0.2)
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            client.chat(REQUEST)


def test_the_key_is_in_no_message() -> None:
    with recording(lambda request: Reply(status=401, error="bad key s3cret given")) as server:
        target = ModelEndpoint("m", server.url, "s3cret")
        with pytest.raises(CallFailed) as failed:
            HttpTransport(target).send("user", dict(REQUEST))
    assert "bad key [key] given" in str(failed.value)
    assert "s3cret" not in repr(target) + repr(failed.value) + str(failed.value)


SAID: dict[str, Any] = {"role": "assistant", "content": "Hi"}
UNUSABLE: dict[str, Any] = {
    "nothing": b"",
    "half of it": b'{"choices": [{"message": {"content": "H',
    "a page": b"<html>Please sign in</html>",
    "another type": b'"Hi"',
    "no choices": {"choices": []},
    "choices are null": {"choices": None},
    "no message": {"choices": [{"text": "Hi"}]},
    "an error": {"error": {"message": "overloaded", "code": 502}},
    "an error beside it": {"error": {"message": "cut off"}, "choices": [{"message": SAID}]},
    "an error in the choice": {"choices": [{"message": SAID, "error": {"code": 502}}]},
    "the content is a number": {"choices": [{"message": {"content": 5}}]},
    "the content is an object": {"choices": [{"message": {"content": {"text": "Hi"}}}]},
    "the calls are no list": {"choices": [{"message": {"tool_calls": {"function": 1}}}]},
    "a call is null": {"choices": [{"message": {"tool_calls": [None]}}]},
    "a call of nothing": {"choices": [{"message": {"tool_calls": [{"id": "1"}]}}]},
    "a call without a name": {"choices": [{"message": {"tool_calls": [{"function": {}}]}}]},
    "arguments of another type": {
        "choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": 5}}]}}]
    },
    "nested deeply": b'{"choices": [{"message": {"content": ' + b"[" * 2000,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_body_is_asked_for_again_as_a_502_is(name: str) -> None:
    body = UNUSABLE[name]
    unusable = hello((body if isinstance(body, bytes) else orjson.dumps(body)).decode())
    good = hello(orjson.dumps({"choices": [{"message": SAID}]}).decode())
    with Peer([unusable], [good]) as peer:
        transport = HttpTransport(ModelEndpoint("m", peer.url, None, timeout_s=10))
        effort = Effort()
        assert transport.send("assistant", dict(REQUEST), effort).message.content == "Hi"
        transport._client.close()
    assert (effort.retries, len(peer.requests)) == (1, 2)
    assert peer.requests[0] == peer.requests[1]
    with Peer(*[[unusable]] * 3) as peer:
        transport = HttpTransport(ModelEndpoint("m", peer.url, None, timeout_s=10))
        with pytest.raises(CallFailed, match="no chat completion") as failed:
            transport.send("assistant", dict(REQUEST), effort := Effort())
        transport._client.close()
    assert (failed.value.kind, effort.retries) == ("infra", 2)


def test_a_tool_call_is_filled_in_as_litellm_does() -> None:
    function = {"name": "f", "arguments": {"a": 1}}
    calls = [{"function": function}, {"id": "x", "function": {"name": "g"}}]
    answer = Answer(200, orjson.dumps({"choices": [{"message": {"tool_calls": calls}}]}))
    assert read_completion(answer).tool_calls == [
        {"id": "call_0", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "x", "function": {"name": "g", "arguments": ""}},
    ]


class LitellmReply(SimpleNamespace):
    """What litellm returns, as far as anybody here reads it."""

    @classmethod
    def of(cls, *choices: Any) -> LitellmReply:
        return cls(choices=list(choices), usage=None, _hidden_params={})


def test_what_litellm_cannot_read_is_asked_for_again() -> None:
    message = SimpleNamespace(model_dump=lambda: dict(SAID))
    good = LitellmReply.of(SimpleNamespace(message=message, finish_reason="stop"))
    answers = [LitellmReply.of(), None, good]
    transport = LitellmTransport(ModelEndpoint("m", None, None, "p"), lambda **_: answers.pop(0))
    effort = Effort()
    assert transport.send("user", dict(REQUEST), effort).message.content == "Hi"
    assert effort.retries == 2


def test_the_time_limit_holds_for_litellm_too() -> None:
    over = threading.Event()
    endpoint = ModelEndpoint("m", None, None, "p", timeout_s=0.1)
    transport = LitellmTransport(endpoint, lambda **_: over.wait(30))
    with pytest.raises(CallFailed, match=r"no answer within 0\.1 s") as failed:
        transport.send("user", dict(REQUEST))
    over.set()
    assert failed.value.kind == "infra"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "Hi"}, {"text": None}, 3, {"text": "!"}]}, "Hi!"),
        ({"content": None}, ""),
        ({}, ""),
    ],
)
def test_one_reading_of_an_odd_completion(message: dict[str, Any], text: str) -> None:
    """A conversation and the probe read the same reply alike; usage may be anything."""

    class Odd(Reply):
        def body(self) -> dict[str, Any]:
            return {"choices": [{"message": message}], "usage": ["no", "dict"]}

    with recording(lambda request: Odd()) as server:
        endpoint = ModelEndpoint("m", server.url, None)
        reply = HttpTransport(endpoint).send("user", dict(REQUEST))
        seen = read_result(ChatClient(server.url, None, 20).chat(REQUEST))
    assert ((reply.message.content or ""), reply.usage) == (text, {})
    assert (seen.status, seen.content, seen.tokens) == (200, text, (None, None))


def test_who_goes_through_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    ours, hosted = (
        ModelEndpoint("m", "http://node:8000/v1", None),
        ModelEndpoint("m", None, "k", "anthropic"),
    )
    assert isinstance(make_transport(ours, max, through_litellm=False), HttpTransport)
    assert isinstance(make_transport(hosted, max, through_litellm=False), LitellmTransport)
    assert isinstance(make_transport(ours, max, through_litellm=True), LitellmTransport)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert needs_proxy("https://api.example.org/v1")
    assert not needs_proxy("http://node:8000/v1")
    monkeypatch.setenv("no_proxy", "api.example.org")
    assert not needs_proxy("https://api.example.org/v1")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of this machine's loopback that signs itself, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on this machine to make a certificate with")
    file = tmp_path / "certificate.pem"
    made = [*("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"), "-subj", "/CN=local"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, *made, *names, "-keyout", str(file), "-out", str(tmp_path / "public.pem")]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + (tmp_path / "public.pem").read_text())
    return file


def test_tls_answers_only_where_the_certificate_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with recording(lambda request: Reply("hello")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
            ChatClient(url, None, 60).chat(REQUEST)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        client = ChatClient(url, "key", 60)
        answers = [client.chat(REQUEST).json() for _ in range(3)]
        client.close()
    assert [answer["choices"][0]["message"]["content"] for answer in answers] == ["hello"] * 3
    assert len(server.requests) == 3
