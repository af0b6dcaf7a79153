"""An endpoint that plays what servers and models were seen to do, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from emobench.llm import guard
from tests.support.llm_server import Reply, is_user

LOOKUP = (
    "find_user_id_by_name_zip",
    '{"first_name": "Fatima", "last_name": "Johnson", "zip": "78712"}',
)
ORDER = ("get_order_details", '{"order_id": "#W8665881"}')
Answer = Callable[[dict[str, Any]], Reply]


def good(request: dict[str, Any]) -> Reply:
    """A model that does what it should, and both lookups at once where two are wanted."""
    if is_user(request):
        return Reply("Hi, I would like to change an order.")
    if not request.get("tools"):
        return Reply("Of course.")
    return Reply(None, [ORDER, ORDER] if results(request) else [LOOKUP])


def results(request: dict[str, Any]) -> int:
    return sum(message["role"] == "tool" for message in request["messages"])


class Endpoint(ThreadingHTTPServer):
    """`answer` says what the model says; the other attributes what the server lists."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.answer: Answer = good
        self.models: dict[str, Any] | None = {"data": [{"id": "m", "max_model_len": 32768}]}
        """What /models lists; None: there is no such page."""
        self.key: str | None = None
        self.proves: tuple[str, str] | None = None
        """(key, incarnation) that it proves to hold, under /SERVER, for whichever server."""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []

    @property
    def probes(self) -> int:
        """How often an assistant was probed: a run never asks with 'required'."""
        return sum(request.get("tool_choice") == "required" for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_GET(self) -> None:
        server, _, page = self.path[1:].partition("/")
        if page.startswith(guard.PROOF_PATH[1:]) and self.server.proves is not None:
            key, incarnation = self.server.proves
            challenge = page.partition("challenge=")[2]
            self._send(200, {"proof": guard.proof(key, challenge, incarnation, server)})
        elif not self._refused():
            known = self.path.endswith("/v1/models") and self.server.models is not None
            self._send(200 if known else 404, self.server.models if known else {"detail": "none"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._refused():
            self.server.requests.append(body)
            reply = self.server.answer(body)
            self._send(reply.status, reply.body())

    def _refused(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.server.keys.append(given)
        wrong = self.server.key is not None and given != self.server.key
        if wrong:
            self._send(401, {"error": f"no such key: {given}"})
        return wrong

    def _send(self, status: int, data: Any) -> None:
        answer = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        return
