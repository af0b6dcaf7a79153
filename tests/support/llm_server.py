"""An OpenAI-compatible endpoint that answers as a test says and keeps every request."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.listening import answering


@dataclass(frozen=True)
class Reply:
    """What the model says, or with which status the server fails."""

    content: str | None = None
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    """(name, arguments as JSON text) of each."""
    finish_reason: str = "stop"
    status: int = 200
    error: str = ""

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


class Recorder(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.bodies: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        assert isinstance(server, Recorder)
        server.bodies.append(body)
        reply = server.answer(json.loads(body))
        self._send(reply.status, reply.body())

    def _send(self, status: int, data: dict[str, Any]) -> None:
        answer = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        return


def recording(answer: Answer) -> AbstractContextManager[Recorder]:
    """A server on a free port of this machine for the length of the block."""
    return answering(Recorder(answer))


def is_user(request: dict[str, Any]) -> bool:
    """Whether the request comes from the simulated user (its own prompt, not a verifier's)."""
    return str(request["messages"][0]["content"]).startswith("You are a user")
