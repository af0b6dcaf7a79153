"""HTTP as servers speak it: every framing, in pieces of any size, and answers that break off."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.llm.client import ChatClient
from emobench.llm.wire import Connection, NoHttp, Stale

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "bare minimum": b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n",
    "an interim answer first": b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "to the end": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
}
KEPT = {"length", "bare minimum", "chunks", "an interim answer first"}


@contextmanager
def answering(
    answer: Callable[[socket.socket], None], timeout_s: float = 5.0
) -> Iterator[Connection]:
    """A connection to a server that reads one request at a time and lets `answer` answer it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            while peer.recv(65536):
                answer(peer)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection("127.0.0.1", listener.getsockname()[1], timeout_s, None)
    try:
        yield connection
    finally:
        connection.close()
        thread.join(10)
        listener.close()


class Sent:
    """A socket that gives the bytes of an answer in given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def sendall(self, _: bytes) -> None:
        return None

    def recv(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        return None


def in_pieces(answer: bytes, cuts: list[int]) -> Connection:
    edges = [0, *sorted(cuts), len(answer)]
    pieces = [answer[a:b] for a, b in pairwise(edges) if a < b]
    connection = Connection.__new__(Connection)
    connection._socket = Sent(pieces)  # type: ignore[assignment]
    connection._used, connection.open = False, True
    return connection


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FRAMINGS)), st.lists(st.integers(0, 120), max_size=12))
def test_every_framing_in_pieces_of_any_size(framing: str, cuts: list[int]) -> None:
    answer = FRAMINGS[framing]
    connection = in_pieces(answer, [cut for cut in cuts if cut < len(answer)])
    assert connection.exchange(REQUEST) == (200, b"hello")
    assert connection.open is (framing in KEPT)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KEPT | {"closing", "HTTP/1.0"})), st.integers(1, 200))
def test_an_answer_that_breaks_off_is_none(framing: str, length: int) -> None:
    answer = FRAMINGS[framing]
    connection = in_pieces(answer[: min(length, len(answer) - 1)], [])
    with pytest.raises(NoHttp):
        connection.exchange(REQUEST)
    assert not connection.open


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\x00\x01\x02",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
    ],
)
def test_what_is_no_http(garbage: bytes) -> None:
    with pytest.raises(NoHttp):
        in_pieces(garbage, []).exchange(REQUEST)


def test_a_kept_connection_that_was_closed_is_stale_and_a_new_one_is_not() -> None:
    said = iter([FRAMINGS["length"]])

    def answer(peer: socket.socket) -> None:
        text = next(said, b"")
        peer.sendall(text) if text else peer.shutdown(socket.SHUT_RDWR)

    with answering(answer) as connection:
        assert connection.exchange(REQUEST) == (200, b"hello")
        with pytest.raises(Stale):
            connection.exchange(REQUEST)
    with (
        answering(lambda peer: peer.shutdown(socket.SHUT_RDWR)) as connection,
        pytest.raises((NoHttp, ConnectionError)),
    ):
        connection.exchange(REQUEST)


def test_an_answer_that_never_ends_times_out() -> None:
    with (
        answering(lambda peer: peer.sendall(b"HTTP/1.1 200 OK\r\n"), 0.2) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.exchange(REQUEST)
    assert not connection.open


def test_large_bodies_go_both_ways() -> None:
    body = b"x" * 3_000_000
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            have = b""
            while not have.endswith(b"END"):
                have += peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = Connection("127.0.0.1", listener.getsockname()[1], 5.0, None)
    assert connection.exchange(REQUEST + body + b"END") == (200, body)
    connection.close()
    thread.join()
    listener.close()


def test_the_same_request_as_http_client_sends() -> None:
    """What a server sees, header by header."""
    seen: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(2):
            peer, _ = listener.accept()
            with peer:
                have = b""
                while not have.endswith(b'{"model":"m"}'):
                    have += peer.recv(65536)
                seen.append(have)
                peer.sendall(FRAMINGS["closing"])

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    ChatClient(f"http://127.0.0.1:{port}/v1/", "k\n", 5).chat({"model": "m"})
    stock = http.client.HTTPConnection("127.0.0.1", port)
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Authorization": "Bearer k",
    }
    stock.request("POST", "/v1/chat/completions", b'{"model":"m"}', headers)
    stock.getresponse().read()
    stock.close()
    thread.join()
    listener.close()
    ours, theirs = (sorted(text.split(b"\r\n")) for text in seen)
    assert ours == theirs


def test_a_key_with_a_line_break_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="control character"):
        ChatClient("http://127.0.0.1:1/v1", "a\r\nX: y", 5)
