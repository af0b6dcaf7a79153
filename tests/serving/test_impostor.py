"""Who listens at a server's address is asked for a proof before it is given the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from emobench.core.errors import ServersGone
from emobench.core.run_dir import RunDir
from emobench.llm import guard
from emobench.llm.client import ChatClient, Identity, Unreachable
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import (
    Endpoint,
    api_key,
    publish,
    what_is_wrong,
)
from tests.serving.runs import READY, make_run, supervising, until_state
from tests.support.listening import answering

WANTED = replace(READY, incarnation="new")
Prove = Callable[[str], tuple[int, object]]


class Listener(ThreadingHTTPServer):
    """Serves model m to everybody, proves what it is told to, and keeps what it was sent."""

    def __init__(self, prove: Prove) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prove = prove
        self.seen: list[tuple[str, str]] = []

    @property
    def endpoint(self) -> Endpoint:
        return replace(WANTED, url=f"http://127.0.0.1:{self.server_port}/v1")


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.server.seen.append((self.path, str(self.headers)))
        url = urlsplit(self.path)
        status, answer = 200, {"data": [{"id": "m"}]}
        if url.path == guard.PROOF_PATH:
            status, answer = self.server.prove(parse_qs(url.query)["challenge"][0])  # type: ignore[assignment]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_request(self, *_: object) -> None:
        return


def listening(prove: Prove) -> AbstractContextManager[Listener]:
    return answering(Listener(prove))


def proving(key: str, incarnation: str = "new", server: str = "user") -> Prove:
    return lambda challenge: (200, {"proof": guard.proof(key, challenge, incarnation, server)})


@pytest.mark.parametrize(
    ("prove", "words"),
    [
        (lambda _: (404, {"error": "Not Found"}), "cannot prove itself (HTTP 404)"),
        (lambda _: (401, None), "cannot prove itself (HTTP 401)"),
        (lambda _: (200, {"proof": None}), "cannot prove itself (HTTP 200)"),
        (lambda _: (200, ["proof"]), "cannot prove itself (HTTP 200)"),
        (lambda _: (200, {"proof": "\u00e9" * 64}), "wrong proof"),
        (lambda challenge: (200, {"proof": challenge}), "wrong proof"),
        (proving("another run's key"), "wrong proof"),
        (proving("the-key", incarnation="old"), "wrong proof"),
        (proving("the-key", server="assistant_a"), "wrong proof"),
    ],
)
def test_an_impostor_is_told_apart_and_never_given_the_key(prove: Prove, words: str) -> None:
    with listening(prove) as server:
        said = what_is_wrong(server.endpoint, "the-key")
    assert words in said and "another server has that port" in said
    assert [path.partition("?")[0] for path, _ in server.seen] == [guard.PROOF_PATH]
    assert "the-key" not in str(server.seen)
    assert "authorization" not in str(server.seen).lower()


def test_a_server_that_proves_itself_is_given_the_key() -> None:
    with listening(proving("the-key")) as server:
        assert what_is_wrong(server.endpoint, "the-key") == ""
    assert [path.partition("?")[0] for path, _ in server.seen] == [guard.PROOF_PATH, "/v1/models"]
    assert "the-key" not in str(server.seen[0])
    assert "Authorization: Bearer the-key" in server.seen[1][1]


def test_a_proof_that_was_overheard_proves_nothing() -> None:
    heard: list[str] = []

    def overhear(challenge: str) -> tuple[int, object]:
        heard.append(guard.proof("the-key", challenge, "new", "user"))
        return 200, {"proof": heard[0]}

    with listening(overhear) as server:
        assert what_is_wrong(server.endpoint, "the-key") == ""
        assert "wrong proof" in what_is_wrong(server.endpoint, "the-key")


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with listening(proving("the-key")) as server:
        port = server.server_port

        class Moved(_Handler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"http://127.0.0.1:{port}{self.path}")
                self.end_headers()

        with answering(ThreadingHTTPServer(("127.0.0.1", 0), Moved)) as other:
            moved = replace(WANTED, url=f"http://127.0.0.1:{other.server_port}/v1")
            said = what_is_wrong(moved, "the-key")
    assert "cannot prove itself (HTTP 302)" in said
    assert server.seen == []


def test_a_client_waits_on_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    key = api_key(run_dir, create=True)
    with listening(proving(key, incarnation="old")) as server:
        publish(run_dir, server.endpoint)
        with pytest.raises(ServersGone, match="another server has that port"):
            wait_for_endpoint(run_dir, "user", deadline_s=0.1, poll_s=0.02)
    assert server.seen and key not in str(server.seen)


def test_a_server_that_came_back_is_another_than_before(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        key = api_key(run_dir)
        assert what_is_wrong(endpoint, key) == ""
        assert "wrong proof" in what_is_wrong(replace(endpoint, incarnation="old"), key)
        assert "wrong proof" in what_is_wrong(replace(endpoint, server="assistant_a"), key)
        assert "serves scripted" in what_is_wrong(replace(endpoint, model="other"), key)
        process.terminate()
        assert process.wait(10) == 0


def test_a_conversation_that_connects_again_asks_again(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir):
        endpoint = until_state(run_dir, "ready")
        key = api_key(run_dir)
        right = ChatClient(endpoint.url, key, 5, Identity("user", endpoint.incarnation))
        assert [right.get("/models").status for _ in range(2)] == [200, 200]
        right.close()
        assert right.get("/models").status == 200
        for wrong in (Identity("user", "earlier"), Identity("user+2", endpoint.incarnation)):
            with pytest.raises(Unreachable, match="another server has the port"):
                ChatClient(endpoint.url, key, 5, wrong).get("/models")


@pytest.mark.parametrize("answer", [(200, {"proof": "0" * 64}), (404, {}), (200, ["x"])])
def test_a_conversation_sends_an_impostor_nothing(answer: tuple[int, object]) -> None:
    with listening(lambda challenge: answer) as server:
        client = ChatClient(server.endpoint.url, "s3cret", 5, Identity("user", "new"))
        with pytest.raises(Unreachable, match="cannot prove"):
            client.chat({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
        assert len(server.seen) == 1
        assert "s3cret" not in str(server.seen)
        assert "hello" not in str(server.seen)
