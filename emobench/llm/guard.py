"""Asks for the key on every route of a server, and proves to a client which server it is.

vLLM's own key guards /v1 and leaves the rest open, /invocations and /tokenize among it. This file
is copied into the run directory as emobench_guard.py and loaded by `vllm serve --middleware` in
the server's environment: it needs nothing but Python 3.10.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

OPEN_PATHS = frozenset({"/health", "/metrics"})
"""What anybody may read: it runs no inference and tells no content."""
PROOF_PATH = "/emobench/proof"
_CHALLENGE = re.compile(r"(?:[0-9a-f]{2}){16,64}", re.ASCII)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def compute_proof(
    key: str, challenge: str, incarnation: str, server: str, address: tuple[str, int]
) -> str:
    """Return what only a holder of the key can answer: the HMAC-SHA256, in hexadecimal.

    `address` is the server's end of the connection, so that nobody can pass a proof on.
    """
    text = f"emobench-proof 2\n{challenge}\n{incarnation}\n{server}\n{address[0]}:{address[1]}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_challenge(text: str) -> bool:
    """Return whether the text is 16 to 64 bytes in lower-case hexadecimal; a line break would
    change what is signed."""
    return _CHALLENGE.fullmatch(text) is not None


def is_open(method: str, path: str) -> bool:
    """Return whether a request needs no key."""
    return method in ("GET", "HEAD") and path in OPEN_PATHS


def is_proof(method: str, path: str) -> bool:
    """Return whether a request asks for the proof."""
    return method == "GET" and path == PROOF_PATH


def has_key(authorization: bytes, key: str) -> bool:
    """Return whether an Authorization header carries the key; an empty key opens nothing."""
    scheme, _, given = authorization.partition(b" ")
    return (
        bool(key)
        and scheme.lower() == b"bearer"
        and hmac.compare_digest(given.strip(), key.encode())
    )


def build_error_body(message: str, status: int) -> bytes:
    """Return an error as OpenAI's API words it."""
    kind = "authentication_error" if status == 401 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error}).encode()


class Guard:
    """ASGI middleware. Takes the key and the server's name from the environment."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = os.environ.get("VLLM_API_KEY", "")
        self._incarnation = os.environ.get("EMOBENCH_INCARNATION", "")
        self._server = os.environ.get("EMOBENCH_SERVER", "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            if self._key:
                await self._app(scope, receive, send)
            else:
                # Raising would only make the server believe that the app knows no lifespan.
                message = "VLLM_API_KEY is not set: this server would answer everybody"
                await receive()
                await send({"type": "lifespan.startup.failed", "message": message})
            return
        method = scope.get("method", "") if kind == "http" else ""
        path = scope.get("path", "")
        if is_proof(method, path) and self._key:
            await self._prove(scope, send)
        elif is_open(method, path) or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif kind == "websocket":
            # Closed before it is accepted, which the server turns into HTTP 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 401, build_error_body("Unauthorized: wrong or missing key", 401))

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        return len(given) == 1 and has_key(given[0], self._key)

    async def _prove(self, scope: Scope, send: Send) -> None:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        challenge = query.get("challenge", [""])[0]
        if not is_challenge(challenge):
            message = "challenge: 16 to 64 bytes in lower-case hexadecimal"
            await _answer(send, 400, build_error_body(message, 400))
            return
        host, port = scope["server"]
        answer = compute_proof(self._key, challenge, self._incarnation, self._server, (host, port))
        await _answer(send, 200, json.dumps({"proof": answer}).encode())


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
