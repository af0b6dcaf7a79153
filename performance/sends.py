"""When this process handed each POST request to the kernel, whatever HTTP client it uses."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any


class Sends:
    """Notes (seconds of the monotonic clock, thread) of each POST, from `begin` on.

    Times are those of a request's last piece: some clients send its head and its body apart.
    """

    def __init__(self) -> None:
        self.times: list[tuple[float, int]] = []
        self._thread = threading.local()

    def begin(self) -> None:
        """From now on every socket of this process is watched."""
        send, sendall = socket.socket.send, socket.socket.sendall
        recv, recv_into = socket.socket.recv, socket.socket.recv_into
        sends = self

        def noted(call: Any) -> Any:
            def sending(self: socket.socket, data: Any, *rest: Any) -> Any:
                thread = sends._thread
                if bytes(data[:5]) == b"POST ":
                    thread.post = True
                if getattr(thread, "post", False):
                    thread.sent = time.perf_counter()
                return call(self, data, *rest)

            return sending

        def waiting(call: Any) -> Any:
            def reading(self: socket.socket, *rest: Any) -> Any:
                thread = sends._thread
                if getattr(thread, "post", False):
                    thread.post = False
                    sends.times.append((thread.sent, threading.get_ident()))
                return call(self, *rest)

            return reading

        socket.socket.send = noted(send)  # type: ignore[method-assign]
        socket.socket.sendall = noted(sendall)  # type: ignore[method-assign]
        socket.socket.recv = waiting(recv)  # type: ignore[method-assign]
        socket.socket.recv_into = waiting(recv_into)  # type: ignore[method-assign]
