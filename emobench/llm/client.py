"""The HTTP client for OpenAI-compatible endpoints: one kept connection a thread, JSON in and out.

A conversation of tau-bench is some seventeen calls of 10 to 30 KB; litellm spends 12 ms of CPU on
each, which bounds a whole run. This client spends well under one. Other providers than an
OpenAI-compatible URL still go through litellm (see `transport`).
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import io
import ipaddress
import json
import secrets
import select
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson

from emobench.core.errors import list_names
from emobench.core.output import flatten
from emobench.core.redaction import hide, hide_password, redact, redact_values
from emobench.llm import guard
from emobench.llm.rate_limits import Allowance, Busy, read_allowance, read_busy

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BODY_BYTES = 16 << 20
"""No reply is longer: the longest context is some hundred KB of text."""
HEAD_BYTES = 64 << 10
"""Of an answer's status line and header lines, interim answers included."""
DEPTH = 64
"""Levels of objects and lists in a reply; a completion has some eight."""
NAMES_SHOWN, NAME_SHOWN = 5, 80
"""Of the models that a server lists in place of ours, and characters of each."""
VERIFY_TIMEOUT_S = 10.0


class Unreachable(OSError):
    """No answer: refused, reset, timed out, or something that is no HTTP."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(redact(message))
        self.timed_out = timed_out


class OtherServer(Unreachable):
    """Whoever answers cannot prove to be the server that was asked for; it was not sent the key."""


@dataclass(frozen=True)
class Identity:
    """One of our own servers: only it can prove that it is this one."""

    server: str
    incarnation: str


@dataclass(frozen=True)
class Answer:
    """A status and a body. Whoever answers may have repeated a key in it, which no reader sees."""

    status: int
    body: bytes
    busy: Busy | None = field(default=None, compare=False)
    """Set where the server has had too many requests, and takes this one later."""
    allowance: Allowance | None = field(default=None, compare=False)
    """What is left of the server's limits, where it says so."""

    def json(self) -> Any:
        """Return the body, or None where it is no JSON, or nested deeper than DEPTH."""
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            try:
                # Takes lone surrogates, which models do send as escapes.
                value = json.loads(self.body, parse_int=_parse_number)
            except (ValueError, RecursionError):
                return None
        return None if _is_deep(self.body, value) else redact_values(value)

    def decode(self) -> str:
        """Return the body as text, for people."""
        if b"\\" in self.body and (value := self.json()) is not None:  # an escape may hide a key
            return json.dumps(value, ensure_ascii=False)
        return redact(self.body.decode("utf-8", "replace"))

    def describe_error(self) -> str:
        """Return the server's own words, in OpenAI's error format or not; a router's words are
        followed by those of the provider behind it."""
        data = self.json()
        if isinstance(data, dict):
            inner = data.get("error", data)
            text = inner.get("message") if isinstance(inner, dict) else inner
            text = text or data.get("message") or data.get("detail")
            behind = inner.get("metadata") if isinstance(inner, dict) else None
            raw = behind.get("raw") if isinstance(behind, dict) else None
            if text:
                return f"{text}: {raw}" if raw else str(text)
        return self.decode()


def _parse_number(text: str) -> int | float:
    """Return an integer as orjson reads it: as a float where 64 bits do not hold it."""
    return int(text) if len(text) < 20 else float(text)


def _is_deep(body: bytes, value: Any) -> bool:
    """Return whether a value is nested deeper than DEPTH; `body` is its text."""
    if body.count(b"{") + body.count(b"[") <= DEPTH:
        return False
    level: list[Any] = [value]
    for _ in range(DEPTH):
        parts = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for part in parts for each in part if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def needs_proxy(url: str) -> bool:
    """Return whether this machine reaches the URL through a proxy, which this client does not
    speak.

    The environment says so as curl reads it: `<scheme>_proxy` or `all_proxy`, in small or capital
    letters, but not for the hosts, domains, hosts with a port and networks in `no_proxy`.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if not (proxies.get(parts.scheme) or proxies.get("all")):
        return False
    host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return not (urllib.request.proxy_bypass(f"{host}:{port}") or _is_within(host, proxies))


def _is_within(host: str, proxies: dict[str, str]) -> bool:
    """Return whether the host is an address of a network in `no_proxy`."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        for entry in proxies.get("no", "").split(","):
            with contextlib.suppress(ValueError):
                if address in ipaddress.ip_network(entry.strip(), strict=False):
                    return True
    return False


class ChatClient:
    """Talks to one base URL (ending in /v1). Safe to share among threads.

    No proxy is used and no redirect followed. With an `identity`, whoever answers has to prove on
    each new connection that it is that server, before it is sent the key and the conversation: a
    port is taken by others when a server dies.
    """

    def __init__(
        self, url: str, api_key: str | None, timeout_s: float, identity: Identity | None = None
    ) -> None:
        """`timeout_s` is for a whole call: connecting, proof, request and the last byte of its
        answer. Raises ValueError for a port that is no number, or a control character."""
        parts = urlsplit(url.rstrip("/"))
        self._url, self._host = url, parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (80 if self._tls is None else 443)
        self._path = quote(parts.path, safe="/%:@!$&'()*+,;=~-._")
        self._timeout_s = timeout_s
        self._identity, self._key = identity, (api_key or "").strip()
        hide(self._key)
        hide_password(url)
        if any(ord(letter) < 32 for letter in url + self._key):
            raise ValueError("the API key or the URL holds a control character")
        self._public: dict[str, str | bytes] = {"Accept": "application/json"}
        self._private = dict(self._public)
        if self._key:
            bearer = f"Bearer {self._key}".encode("utf-8", "surrogateescape")
            self._private["Authorization"] = bearer
        self._threads = threading.local()

    def chat(self, request: dict[str, Any]) -> Answer:
        """Send POST /chat/completions. Raises Unreachable."""
        try:
            body = orjson.dumps(request)
        except orjson.JSONEncodeError:  # a lone surrogate, which a model can send as an escape
            body = json.dumps(request).encode()
        return self._send("POST", "/chat/completions", body)

    def get(self, path: str) -> Answer:
        """Send GET for a path below the base URL. Raises Unreachable."""
        return self._send("GET", path, None)

    def close(self) -> None:
        """Close this thread's connection."""
        connection: _Connection | None = getattr(self._threads, "connection", None)
        if connection is not None:
            connection.close()
            self._threads.connection = None

    def _send(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = self._private
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        request = _Request(method, self._path + path, headers, body)
        deadline = time.monotonic() + self._timeout_s
        try:
            answer = self._ask_on_kept(request, deadline)
            if answer is None:
                self.close()
                self._threads.connection = connection = self._connect(deadline)
                answer = _read(connection.begin(request, deadline))
            if body is not None:
                self._threads.connection.answered.add(hash(answer))
            return answer
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                message = f"no answer within {self._timeout_s:g} s"
                raise Unreachable(message, timed_out=True) from None
            if isinstance(error, Unreachable) or not isinstance(error, Exception):
                raise
            # Whatever a peer can provoke in the libraries: it is never the agent's doing.
            raise Unreachable(f"{type(error).__name__}: {error}") from error

    def _ask_on_kept(self, request: _Request, deadline: float) -> Answer | None:
        """Return the answer on this thread's connection; None where there is none that can be told
        from an earlier one."""
        kept: _Connection | None = getattr(self._threads, "connection", None)
        if kept is None or not kept.is_clean():
            return None
        try:
            response = kept.begin(request, deadline)
        except (BrokenPipeError, ConnectionResetError):
            # A server may close a connection that lay idle; that is no failure of the call.
            return None
        answer = _read(response)
        if request.body is None or hash(answer) not in kept.answered:
            return answer
        # Every completion has an id of its own: this is an earlier one, come a second time.
        data = answer.json()
        return None if isinstance(data, dict) and data.get("id") else answer

    def _connect(self, deadline: float) -> _Connection:
        """Return a new connection, to a server that has proved itself where it has to."""
        if not self._host:
            raise Unreachable(f"{self._url!r} is no address")
        left_s = _compute_time_left(deadline)
        connection = (
            _Connection(self._host, self._port, timeout=left_s)
            if self._tls is None
            else _TlsConnection(self._host, self._port, timeout=left_s, context=self._tls)
        )
        try:
            connection.connect()
            if self._identity is not None:
                self._ask_for_proof(connection, self._identity, deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _ask_for_proof(self, connection: _Connection, identity: Identity, deadline: float) -> None:
        """Ask for the server's proof. Raises OtherServer where another one has the port."""
        challenge = secrets.token_hex(32)
        path = f"{self._path.removesuffix('/v1')}{guard.PROOF_PATH}?challenge={challenge}"
        answer = _read(connection.begin(_Request("GET", path, self._public, None), deadline))
        data = answer.json()
        given = data.get("proof") if answer.status == 200 and isinstance(data, dict) else None
        other = "another server has that port"
        if not isinstance(given, str):
            guardless = ", or its script does not load the guard (docs/security.md)"
            raise OtherServer(
                f"{self._url} cannot prove itself (HTTP {answer.status}): {other}"
                f"{guardless if answer.status == 404 else ''}"
            )
        host, port, *_ = connection.sock.getpeername()
        right = guard.compute_proof(
            self._key, challenge, identity.incarnation, identity.server, (host, port)
        )
        said = given.encode("utf-8", "replace")
        if hmac.compare_digest(
            said, _compute_earlier_proof(self._key, challenge, identity).encode()
        ):
            raise OtherServer(
                f"{self._url} proves itself as an earlier release of emobench does, which "
                "somebody who only passes it on could do as well: end that server (emobench "
                "cancel) and start it again with the same emobench sweep"
            )
        if not hmac.compare_digest(said, right.encode()):
            raise OtherServer(
                f"{self._url} gives a wrong proof: {other}, of another run, of another role or "
                f"of an earlier start than {identity.incarnation}, or it passes another's proof on"
            )
        if not connection.is_clean():
            raise Unreachable(f"{self._url} proves itself and hangs up, so that it proves nothing")


def _compute_earlier_proof(key: str, challenge: str, identity: Identity) -> str:
    """Return the proof of releases before this one: it is told apart, and not accepted."""
    text = f"emobench-proof\n{challenge}\n{identity.incarnation}\n{identity.server}"
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest()


class _Connection(http.client.HTTPConnection):
    """A connection that does not open itself again: the next server might not be the one that
    proved itself."""

    auto_open = 0
    _deadline = 0.0
    _parts: list[bytes] | None = None
    _incoming: _Incoming | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.answered: set[int] = set()
        """Hashes of the answers to chat calls."""

    def send(self, data: Any) -> None:
        if self._parts is None:
            super().send(data)
        else:
            self._parts.append(data)

    def begin(self, request: _Request, deadline: float) -> http.client.HTTPResponse:
        """Send a request, and wait for the head of its answer, which has to be whole by then."""
        # Head and body at once: each send gives the interpreter to another thread.
        self._parts = []
        self.request(request.method, request.path, request.body, request.headers)
        whole, self._parts = b"".join(self._parts), None
        if self.sock is None:
            raise http.client.NotConnected
        self.sock.settimeout(_compute_time_left(deadline))
        self.send(whole)
        self._deadline = deadline
        response = self.getresponse()
        assert self._incoming is not None
        self._incoming.allow(BODY_BYTES)
        return response

    def response_class(  # type: ignore[override]
        self, sock: socket.socket, method: str | None = None
    ) -> http.client.HTTPResponse:
        """Return an answer that is read until the deadline, and no longer than it may be."""
        response = http.client.HTTPResponse(sock, method=method)
        self._incoming = _Incoming(response.fp.detach(), sock, self._deadline)
        response.fp = _Reader(self._incoming)
        return response

    def is_clean(self) -> bool:
        """Return whether it is open, and everything that came on it was asked for.

        Bytes that wait would be taken for the answer to the next request, and every answer from
        then on for that to another one. What comes later than this look is told by its words.
        """
        if self.sock is None or (self._incoming is not None and self._incoming.surplus):
            return False
        if isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return False
        waiting = select.poll()
        waiting.register(self.sock, select.POLLIN)
        return not waiting.poll(0)


class _Incoming(io.RawIOBase):
    """The bytes of one answer, until its deadline and up to its limit."""

    def __init__(self, source: io.RawIOBase, sock: socket.socket, deadline: float) -> None:
        self._source, self._sock, self._deadline = source, sock, deadline
        self._allowed = HEAD_BYTES
        self.ended = False
        """Nothing more is wanted."""
        self.surplus = False
        """More came than the answer."""

    def allow(self, length: int) -> None:
        """Let so many more bytes come."""
        self._allowed += length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read into a buffer. Raises TimeoutError, HTTPException where too much comes, OSError."""
        if self.ended:
            return 0
        self._sock.settimeout(_compute_time_left(self._deadline))
        length = self._source.readinto(buffer) or 0
        self._allowed -= length
        if self._allowed < 0:
            raise http.client.HTTPException("an answer that is too long")
        return length

    def close(self) -> None:
        self._source.close()
        super().close()


class _Reader(io.BufferedReader):
    """Notes what was read ahead and not taken."""

    raw: _Incoming

    def close(self) -> None:
        if not self.closed:
            self.raw.ended = True
            self.raw.surplus = bool(self.peek())
        super().close()


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str | bytes]
    body: bytes | None


def _compute_time_left(deadline: float) -> float:
    """Return the seconds until then. Raises TimeoutError where there are none."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _read(response: http.client.HTTPResponse) -> Answer:
    """Return the whole answer. Raises HTTPException where it breaks off or is too long."""
    if response.status < 200:  # its answer proper is still to come, and would be the next call's
        raise http.client.HTTPException(f"an interim answer (HTTP {response.status})")
    if (response.length or 0) > BODY_BYTES:
        raise http.client.HTTPException("an answer that is too long")
    if response.length is not None:
        return _make_answer(response, response.read())
    if not response.chunked and "Content-Length" in response.headers:
        raise http.client.HTTPException("a length that is no number")
    # No length was announced; with one, a read with a limit would not tell what breaks off.
    body = response.read(BODY_BYTES + 1)
    if len(body) > BODY_BYTES:
        raise http.client.HTTPException("an answer that is too long")
    if not body and not response.chunked:  # http.client takes an end within the head for its end
        raise http.client.HTTPException("the answer breaks off")
    return _make_answer(response, body)


def _make_answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    status, now_s = response.status, time.time()
    headers = {name.lower(): value for name, value in response.headers.items()}
    busy = read_busy(status, headers, body[:HEAD_BYTES].decode("utf-8", "replace"), now_s)
    return Answer(status, body, busy, read_allowance(headers, now_s))


def verify_server(
    url: str, model: str, key: str, identity: Identity, timeout_s: float = VERIFY_TIMEOUT_S
) -> None:
    """Check that one of our own servers answers at `url`, and serves the model.

    Raises OtherServer where somebody else does, Unreachable for any other reason against it.
    """
    try:
        with contextlib.closing(ChatClient(url, key, timeout_s, identity)) as client:
            answer = client.get("/models")
    except OtherServer:
        raise
    except (Unreachable, ValueError) as error:
        raise Unreachable(f"{url} does not answer: {error}") from error
    if answer.status in (401, 403):
        said = f"{url} refuses this run's key (HTTP {answer.status})"
        raise OtherServer(f"{said}: another server has that port")
    if answer.status != 200:
        raise Unreachable(f"{url}/models answers HTTP {answer.status}")
    try:
        served = [entry["id"] for entry in answer.json()["data"]]
    except (TypeError, KeyError):
        raise Unreachable(f"{url}/models is no list of models") from None
    if model not in served:
        names = [flatten(str(each)[:NAME_SHOWN]) for each in served]
        raise Unreachable(
            f"{url} serves {list_names(names, NAMES_SHOWN) or 'nothing'}, not {model}"
        )


def check_health(url: str, timeout_s: float) -> None:
    """Ask the server whose API is at `url` (ending in /v1) for its health. Raises Unreachable."""
    root = url.removesuffix("/v1")
    try:
        with contextlib.closing(ChatClient(root, None, timeout_s)) as client:
            status = client.get("/health").status
    except Unreachable as error:
        raise Unreachable(f"{root} does not answer: {error}") from error
    if status != 200:
        raise Unreachable(f"{root}/health answers HTTP {status}")
