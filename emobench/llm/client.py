"""A lean client for OpenAI-compatible endpoints: one kept connection a thread, JSON in and out.

A conversation of tau-bench is some seventeen calls of 10 to 30 KB; litellm spends 12 ms of CPU on
each, which bounds a whole run. This client spends well under one. Other providers than an
OpenAI-compatible URL still go through litellm (see `calls`).
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import ssl
import threading
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from emobench.llm import guard
from emobench.llm.wire import Connection, NoHttp, Stale


class Unreachable(Exception):
    """No answer: refused, reset, timed out, or something that is no HTTP."""


@dataclass(frozen=True)
class Identity:
    """One of our own servers: only it can prove that it is this one."""

    server: str
    incarnation: str


@dataclass(frozen=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, or None where it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            pass
        try:
            return json.loads(self.body)  # takes lone surrogates, which models do send as escapes
        except ValueError:
            return None

    def error(self) -> str:
        """The server's own words, in OpenAI's error format or not."""
        data = self.json()
        if isinstance(data, dict):
            inner = data.get("error", data)
            text = inner.get("message") if isinstance(inner, dict) else inner
            text = text or data.get("message") or data.get("detail")
            if text:
                return str(text)
        return self.body.decode("utf-8", "replace")


def needs_proxy(url: str) -> bool:
    """Whether this machine reaches the URL through a proxy, which this client does not speak."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


class ChatClient:
    """Talks to one base URL (ending in /v1). Safe to share among threads.

    With an `identity`, whoever answers has to prove on each new connection that it is that server,
    before it is sent the key and the conversation: a port is taken by others when a server dies.
    """

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, identity: Identity | None = None
    ) -> None:
        parts = urlsplit(url.rstrip("/"))
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (80 if self._tls is None else 443)
        self._timeout_s = timeout_s
        fields = [
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "Accept: application/json",
            "Accept-Encoding: identity",
        ]
        public = "\r\n".join(fields)
        if api_key:
            fields.append(f"Authorization: Bearer {api_key.strip()}")
        if any(ord(letter) < 32 for field in fields for letter in field):
            raise ValueError("the API key or the URL holds a control character")
        self._path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        self._fields = "\r\n".join(fields).encode("utf-8", "surrogateescape")
        self._public = public.encode("utf-8", "surrogateescape")
        self._identity, self._key = identity, (api_key or "").strip()
        self._threads = threading.local()

    def chat(self, request: dict[str, Any]) -> Answer:
        """POST /chat/completions. Raises Unreachable."""
        try:
            body = orjson.dumps(request)
        except orjson.JSONEncodeError:  # a lone surrogate, which a model can send as an escape
            body = json.dumps(request).encode()
        return self._send("POST", "/chat/completions", body)

    def get(self, path: str) -> Answer:
        """GET a path below the base URL. Raises Unreachable."""
        return self._send("GET", path, None)

    def close(self) -> None:
        """Close this thread's connection."""
        connection: Connection | None = getattr(self._threads, "connection", None)
        if connection is not None:
            connection.close()
            self._threads.connection = None

    def _send(self, method: str, path: str, body: bytes | None) -> Answer:
        request = f"{method} {self._path}{path} HTTP/1.1\r\n".encode() + self._fields
        if body is not None:
            request += b"\r\nContent-Type: application/json\r\nContent-Length: %d" % len(body)
        request += b"\r\n\r\n" + (body or b"")
        kept: Connection | None = getattr(self._threads, "connection", None)
        try:
            if kept is not None and kept.open:
                # A server may close a connection that lay idle; that is no failure of the call.
                with contextlib.suppress(Stale):
                    return Answer(*kept.exchange(request))
            fresh = Connection(self._host, self._port, self._timeout_s, self._tls)
            if self._identity is not None:
                self._ask_for_proof(fresh, self._identity)
            self._threads.connection = fresh
            return Answer(*fresh.exchange(request))
        except TimeoutError:
            raise Unreachable(f"no answer within {self._timeout_s:g} s") from None
        except (OSError, NoHttp, Stale) as error:
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def _ask_for_proof(self, connection: Connection, identity: Identity) -> None:
        """Raises Unreachable where another server has the port; closes the connection then."""
        challenge = secrets.token_hex(32)
        path = f"{self._path.removesuffix('/v1')}{guard.PROOF_PATH}?challenge={challenge}"
        request = f"GET {path} HTTP/1.1\r\n".encode() + self._public + b"\r\n\r\n"
        answer = Answer(*connection.exchange(request))
        right = guard.proof(self._key, challenge, identity.incarnation, identity.server)
        data = answer.json()
        given = data.get("proof") if answer.status == 200 and isinstance(data, dict) else None
        if isinstance(given, str) and hmac.compare_digest(given.encode(), right.encode()):
            return
        connection.close()
        raise Unreachable(
            f"another server has the port of {identity.server}: it cannot prove that it is the "
            f"start {identity.incarnation} (HTTP {answer.status})"
        )
