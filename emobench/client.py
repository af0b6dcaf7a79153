"""A lean client for OpenAI-compatible endpoints: one kept connection a thread, JSON in and out.

A conversation of tau-bench is some seventeen calls of 10 to 30 KB; litellm spends 12 ms of CPU on
each, which bounds a whole run. This client spends well under one. Other providers than an
OpenAI-compatible URL still go through litellm (see `calls`).
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson


class Unreachable(Exception):
    """No answer: refused, reset, timed out, or something that is no HTTP."""


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
    """Talks to one base URL (ending in /v1). Safe to share among threads."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float) -> None:
        parts = urlsplit(url.rstrip("/"))
        self._host, self._port = parts.hostname or "", parts.port
        self._path = parts.path
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._threads = threading.local()

    def chat(self, request: dict[str, Any]) -> Answer:
        """POST /chat/completions. Raises Unreachable."""
        return self._send("POST", "/chat/completions", orjson.dumps(request))

    def get(self, path: str) -> Answer:
        """GET a path below the base URL. Raises Unreachable."""
        return self._send("GET", path, None)

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._threads, "connection", None)
        if connection is not None:
            connection.close()
            self._threads.connection = None

    def _send(self, method: str, path: str, body: bytes | None) -> Answer:
        kept = getattr(self._threads, "connection", None)
        if kept is not None:
            try:
                return self._exchange(kept, method, path, body)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # A server may close a connection that lay idle; that is no failure of the call.
                kept.close()
            except (OSError, http.client.HTTPException) as error:
                raise self._gone(error) from error
        try:
            fresh = self._connect()
            self._threads.connection = fresh
            return self._exchange(fresh, method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> Answer:
        connection.request(method, self._path + path, body=body, headers=self._headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        else:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._tls
            )
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _gone(self, error: Exception) -> Unreachable:
        self.close()
        if isinstance(error, TimeoutError):
            return Unreachable(f"no answer within {self._timeout_s:g} s")
        return Unreachable(f"{type(error).__name__}: {error}")
