"""The fake model server of the tests: an OpenAI-compatible endpoint that does what a test says.

As a program it serves as an engine that a supervisor starts, with one fixed reply:
`python -m tests.support.model_server '{"content": "Hello."}'`, the fields of a Reply as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from emobench.llm import guard

LOOKUP = (
    "find_user_id_by_name_zip",
    '{"first_name": "Fatima", "last_name": "Johnson", "zip": "78712"}',
)
ORDER = ("get_order_details", '{"order_id": "#W8665881"}')


@dataclass(frozen=True)
class Reply:
    """What the model says, or with which status the server fails."""

    content: str | None = None
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments as JSON text) of each."""
    finish_reason: str = "stop"
    status: int = 200
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        if self.status != 200:
            return {"error": {"message": self.error, "type": "error", "code": self.status}}
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": f"call_{number}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                for number, (name, arguments) in enumerate(self.tool_calls)
            ]
        choice = {"index": 0, "finish_reason": self.finish_reason, "message": message}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }


Answer = Callable[[dict[str, Any]], Reply]
"""What the model says to a request."""
Prove = Callable[[str, str, tuple[str, int]], tuple[int, object]]
"""Status and body that answer a challenge: (path before the guard's, challenge, own address)."""


def is_user(request: dict[str, Any]) -> bool:
    """Whether the request comes from the simulated user (its own prompt, not a verifier's)."""
    return str(request["messages"][0]["content"]).startswith("You are a user")


def results(request: dict[str, Any]) -> int:
    """Count the tool results in a request."""
    return sum(message["role"] == "tool" for message in request["messages"])


def good(request: dict[str, Any]) -> Reply:
    """Answer as a model that does what it should, with both lookups at once where two are due."""
    if is_user(request):
        return Reply("Hi, I would like to change an order.")
    if not request.get("tools"):
        return Reply("Of course.")
    return Reply(None, [ORDER, ORDER] if results(request) else [LOOKUP])


def proving(key: str, incarnation: str, server: str | None = None) -> Prove:
    """Prove to hold `key` as `server`, or as the server that the path names."""

    def prove(path: str, challenge: str, address: tuple[str, int]) -> tuple[int, object]:
        name = path if server is None else server
        return 200, {"proof": guard.compute_proof(key, challenge, incarnation, name, address)}

    return prove


class ModelServer(ThreadingHTTPServer):
    """Keeps every request. Its attributes say how it answers and may change at any time."""

    daemon_threads = True

    def __init__(self, answer: Answer = good, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.url = f"http://{address[0]}:{self.server_port}/v1"
        self.answer = answer
        self.models: dict[str, Any] | None = {"data": [{"id": "m", "max_model_len": 32768}]}
        """What /models lists; None: there is no such page."""
        self.key: str | None = None
        """The only key it accepts; None: any, or none."""
        self.prove: Prove | None = None
        """How it answers the guard's challenge; None: there is no such page."""
        self.moved_to: str | None = None
        """Redirect everything to this origin."""
        self.rewrite: Callable[[bytes], bytes] | None = None
        """What becomes of each answer's body before it is sent."""
        self.seen: list[tuple[str, str]] = []
        """Path and header of each request."""
        self.keys: list[str] = []
        """The key of each request, but for challenges."""
        self.bodies: list[bytes] = []
        """What was posted with a right key."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print what broke, unless it is only that the client did not wait for the answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    @property
    def probes(self) -> int:
        """How often an assistant was probed: a run never asks with 'required'."""
        return sum(request.get("tool_choice") == "required" for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ModelServer

    def do_GET(self) -> None:
        server = self.server
        server.seen.append((self.path, str(self.headers)))
        url = urlsplit(self.path)
        path, is_challenge, _ = url.path.partition(guard.PROOF_PATH)
        if server.moved_to is not None:
            self._send(302, {}, Location=server.moved_to + self.path)
        elif is_challenge and server.prove is not None:
            challenge = parse_qs(url.query)["challenge"][0]
            self._send(*server.prove(path[1:], challenge, self.connection.getsockname()))
        elif url.path == "/health":
            self._send(200, {})
        elif not self._refused():
            known = url.path.endswith("/v1/models") and server.models is not None
            self._send(200 if known else 404, server.models if known else {"detail": "none"})

    def do_POST(self) -> None:
        self.server.seen.append((self.path, str(self.headers)))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._refused():
            self.server.bodies.append(body)
            reply = self.server.answer(json.loads(body))
            answer = reply.body()
            if isinstance(answer, dict) and "choices" in answer:
                answer["id"] = f"chatcmpl-{uuid4().hex}"
            self._send(reply.status, answer, **reply.headers)

    def _refused(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.keys.append(given)
        wrong = self.server.key is not None and given != self.server.key
        if wrong:
            self._send(401, {"error": f"no such key: {given}"})
        return wrong

    def _send(self, status: int, data: object, **headers: str) -> None:
        answer = json.dumps(data).encode()
        if self.server.rewrite is not None:
            answer = self.server.rewrite(answer)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def answering(server: ModelServer) -> Iterator[ModelServer]:
    """Answer in a thread of this process; at the end the thread and the socket are gone."""
    with server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def recording(answer: Answer) -> AbstractContextManager[ModelServer]:
    """A server on a free port of this machine for the length of the block."""
    return answering(ModelServer(answer))


@pytest.fixture
def endpoint() -> Iterator[ModelServer]:
    """A server that answers well until a test says otherwise."""
    with answering(ModelServer()) as server:
        yield server


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, in every test of a conftest that imports this."""
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.endpoint_limits.BACKOFF_S", 0.001)


def main() -> None:
    """Serve where the supervisor says, with its key, until killed."""
    reply = Reply(**json.loads(sys.argv[1]))
    address = (os.environ["EMOBENCH_HOST"], int(os.environ["EMOBENCH_PORT"]))
    server = ModelServer(lambda request: reply, address)
    server.models = {"data": [{"id": "scripted"}]}
    key, incarnation = os.environ["VLLM_API_KEY"], os.environ["EMOBENCH_INCARNATION"]
    server.prove = proving(key, incarnation, os.environ["EMOBENCH_SERVER"])
    server.serve_forever()


if __name__ == "__main__":
    main()
