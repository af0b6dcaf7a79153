"""HTTP/1.1 for one kind of call: a small request out, a whole answer back, on a kept connection.

`http.client` spends half of an episode's CPU on parsing headers as if they were mail. This speaks
only what a chat completion needs: one write, and as a rule one read, for each call.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct

_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d+)[ \t]*\r?\n")
_CHUNKED = re.compile(rb"\ntransfer-encoding:[^\n]*chunked")
_CLOSE = re.compile(rb"\nconnection:[^\n]*close")
_KEEP = re.compile(rb"\nconnection:[^\n]*keep-alive")
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})[ \r\n]")
_MAX_HEAD = 64 * 1024
_READ = 256 * 1024


class NoHttp(Exception):
    """What came back is no HTTP/1 answer, or breaks off."""


class Stale(Exception):
    """A kept connection was closed by the server before a byte of the answer came."""


class Connection:
    """One connection to a server. Not for sharing among threads."""

    def __init__(self, host: str, port: int, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        """Connects. Raises OSError."""
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        else:
            # The kernel's time-out: Python's own polls before each read and write, which gives the
            # interpreter to another thread twice as often.
            self._socket.settimeout(None)
            limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._used = False
        self.open = True

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a whole request; the answer's status and body.

        The connection is closed where the server says so, and after every failure. Raises Stale,
        NoHttp, TimeoutError, OSError.
        """
        keep = False
        try:
            status, body, keep = self._exchange(request)
            return status, body
        except BlockingIOError:
            raise TimeoutError from None
        finally:
            self._used = True
            if not keep:
                self.close()

    def close(self) -> None:
        self.open = False
        with contextlib.suppress(OSError):
            self._socket.close()

    def _exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        try:
            self._socket.sendall(request)
            data = self._socket.recv(_READ)
        except (BrokenPipeError, ConnectionResetError) as error:
            if self._used:
                raise Stale from error
            raise
        if not data and self._used:
            raise Stale
        head, rest = self._head(data)
        answered = _STATUS.match(head)
        while answered is not None and answered[2].startswith(b"1"):  # 100 Continue and the like
            head, rest = self._head(rest)
            answered = _STATUS.match(head)
        if answered is None:
            raise NoHttp(f"an answer that is no HTTP: {head[:80]!r}")
        status, fields = int(answered[2]), head.lower()
        keep = _KEEP.search(fields) if answered[1] == b"0" else not _CLOSE.search(fields)
        if status in (204, 304):
            return status, b"", bool(keep)
        if _CHUNKED.search(fields):
            return status, self._chunks(rest), bool(keep)
        length = _LENGTH.search(fields)
        if length is None:
            return status, self._to_the_end(rest), False
        return status, self._exactly(rest, int(length[1]))[0], bool(keep)

    def _more(self) -> bytes:
        data = self._socket.recv(_READ)
        if not data:
            raise NoHttp("the answer breaks off")
        return data

    def _head(self, data: bytes) -> tuple[bytes, bytes]:
        """Status line and headers with their last line break, and what follows the empty line."""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MAX_HEAD or data[:5] != b"HTTP/"[: len(data)]:
                raise NoHttp(f"an answer that is no HTTP: {data[:80]!r}")
            data += self._more()
        return data[: end + 2], data[end + 4 :]

    def _exactly(self, data: bytes, length: int) -> tuple[bytes, bytes]:
        if len(data) < length:
            parts, have = [data], len(data)
            while have < length:
                parts.append(self._more())
                have += len(parts[-1])
            data = b"".join(parts)
        return data[:length], data[length:]

    def _chunks(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while True:
            line, data = self._line(data)
            try:
                size = int(line.split(b";")[0], 16)
            except ValueError:
                raise NoHttp(f"an answer that is no HTTP: chunk {line[:80]!r}") from None
            if size == 0:
                while line:  # trailers, up to an empty line
                    line, data = self._line(data)
                return b"".join(parts)
            part, data = self._exactly(data, size + 2)
            parts.append(part[:-2])

    def _line(self, data: bytes) -> tuple[bytes, bytes]:
        while (end := data.find(b"\r\n")) < 0:
            if len(data) > _MAX_HEAD:
                raise NoHttp(f"an answer that is no HTTP: {data[:80]!r}")
            data += self._more()
        return data[:end], data[end + 2 :]

    def _to_the_end(self, data: bytes) -> bytes:
        parts = [data]
        while data := self._socket.recv(_READ):
            parts.append(data)
        return b"".join(parts)
