"""The lean client: kept connections, no secrets in what it says, and one answer for each call."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from emobench.llm.client import ChatClient, Unreachable, needs_proxy
from emobench.llm.transport import (
    CallFailed,
    HttpTransport,
    LitellmTransport,
    ModelEndpoint,
    make_transport,
)
from tests.support.model_server import Reply, recording

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hé\u2028"}]}


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    """A server may close an idle connection at any time; that fails no call."""
    answers = 0
    listener = socket.create_server(("127.0.0.1", 0))
    body = json.dumps(Reply("Hi.").body()).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    def serve() -> None:
        nonlocal answers
        for _ in range(3):
            connection, _ = listener.accept()
            with connection:
                received = b""
                while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                    received += connection.recv(65536)
                connection.sendall(head + body)
                answers += 1

    thread = threading.Thread(target=serve)
    thread.start()
    client = ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", None, 5)
    for _ in range(3):
        assert client.chat(REQUEST).json()["choices"][0]["message"]["content"] == "Hi."
    thread.join()
    client.close()
    listener.close()
    assert answers == 3


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
    ],
)
def test_nobody_there(url: str, said: str) -> None:
    with pytest.raises(Unreachable, match=said):
        ChatClient(url, None, 5).chat(REQUEST)


def test_no_answer_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", None, 0.2)
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            client.chat(REQUEST)


def test_something_that_is_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(Unreachable):
            ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", None, 5).chat(REQUEST)
        thread.join()


def test_the_key_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    with recording(lambda request: Reply(status=401, error="bad key s3cret given")) as server:
        target = ModelEndpoint("m", server.url, "s3cret")
        with pytest.raises(CallFailed) as failed:
            HttpTransport(target).send("user", dict(REQUEST))
    assert "bad key [key] given" in str(failed.value)
    assert "s3cret" not in repr(target) + repr(failed.value) + str(failed.value)


def test_an_answer_that_is_no_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())

    class Odd(Reply):
        def body(self) -> dict[str, Any]:
            return {"choices": []}

    with (
        recording(lambda request: Odd()) as server,
        pytest.raises(CallFailed, match="no chat completion") as failed,
    ):
        HttpTransport(ModelEndpoint("m", server.url, None)).send("assistant", dict(REQUEST))
    assert failed.value.kind == "infra"


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
