"""A server on a bare socket, for what is no proper HTTP: the model server answers in order."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence

HANG_UP = None
Pieces = Sequence[bytes | None]


class Peer:
    """A server on a bare socket: each request gets the next answer, in the pieces given.

    A connection is kept until the client closes it, or an answer's last piece is HANG_UP. An
    answer may be made of its request.
    """

    def __init__(self, *answers: Pieces | Callable[[bytes], Pieces], pause_s: float = 0.0) -> None:
        """`pause_s` is between the pieces."""
        self.answers, self.pause_s = list(answers), pause_s
        self.requests: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.clear()
        with socket.create_connection(self._listener.getsockname(), 5):
            self._thread.join(10)  # its wait for another connection has ended
        self._listener.close()

    def _serve(self) -> None:
        while self.answers:
            connection, _ = self._listener.accept()
            connection.settimeout(10)
            with connection, contextlib.suppress(OSError):
                if self.answers:
                    self.connections += 1
                    self._answer_on(connection)

    def _answer_on(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (request := read_request(connection)) and self.answers:
            self.requests.append(request)
            answer = self.answers.pop(0)
            for piece in answer(request) if callable(answer) else answer:
                if piece is HANG_UP:
                    return
                connection.sendall(piece)
                time.sleep(self.pause_s)


def read_request(connection: socket.socket) -> bytes:
    """A whole request, or what came of it before the client closed the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return data
        data += more
    length = re.search(rb"\r\nContent-Length: (\d+)", data)
    end = data.index(b"\r\n\r\n") + 4 + int(length[1] if length else 0)
    while len(data) < end:
        data += connection.recv(65536)
    return data
