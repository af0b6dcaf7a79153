"""A server dies in the middle of a cell and somebody else takes its port: what he answers is never
the agent's doing, and the conversations go on with the server that comes back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest

from emobench.cli.main import main
from emobench.core.run_dir import RunDir
from emobench.llm.guard import PROOF_PATH
from emobench.store.endpoints import State, load_api_key, publish
from tests.support.model_server import ModelServer, Reply, answering, good, proving
from tests.support.plans import scripted
from tests.support.runs import make_run
from tests.support.serving import READY

CELL = 8
"""Conversations, all at once."""
DEEP = b'{"proof":' * 5000 + b"1" + b"}" * 5000
ATTACKS = {
    "deeply nested JSON": [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DEEP), DEEP],
    "a length of 5,000 digits": [
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}"
    ],
    "endless header lines": [b"HTTP/1.1 200 OK\r\n", *[b"X: " + b"y" * 8000 + b"\r\n"] * 1000],
}


@contextmanager
def attacking(port: int, pieces: list[bytes], enough: Event) -> Iterator[list[bytes]]:
    """Answer everybody who connects to the port so; `enough` is set once each conversation could
    have met it. What was sent to it."""
    got: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", port), backlog=64)

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    got.append(connection.recv(65536))
                    if len(got) >= 2 * CELL:
                        enough.set()
                    for piece in pieces:
                        connection.sendall(piece)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield got
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("back", [True, False], ids=["comes back", "stays away"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_who_takes_a_dead_servers_port_scores_nothing(
    attack: str, back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("llm.transport.RETRY_AFTER_S", (0.0, 0.0)),
        ("runner.cell.BACKOFF_S", (0.05,) * 3),
    ):
        monkeypatch.setattr(f"emobench.{name}", value)
    run_dir = make_run(
        tmp_path / "run",
        assistants={"a": scripted()},
        variants=("control",),
        tasks=CELL,
        trials=1,
        concurrency=CELL,
        max_steps=4,
        probe="off",
    )
    key = load_api_key(run_dir, create=True)
    with answering(ModelServer()) as user, answering(ModelServer()) as second:
        announce(run_dir, user, "user", "u1", key)
        dies, ended, lock = Event(), Event(), Lock()
        asked = 0

        def answer(request: dict[str, Any]) -> Reply:
            nonlocal asked
            with lock:
                asked += 1
                if asked > CELL + 2:
                    dies.set()
            if dies.is_set():
                raise ConnectionResetError
            return good(request)

        first = ModelServer(answer)
        announce(run_dir, first, "assistant_a", "a1", key)
        sent: list[bytes] = []

        def take_over() -> None:
            with answering(first):
                dies.wait(60)
            enough = Event()
            with attacking(first.server_port, ATTACKS[attack], enough) as got:
                enough.wait(60)
                if not back:
                    announce(run_dir, first, "assistant_a", "a1", key, state="failed")
                    ended.wait(60)
                sent.extend(got)
            if back:
                announce(run_dir, second, "assistant_a", "a2", key)

        attacker = Thread(target=take_over)
        attacker.start()
        code = main(["run", "--run-dir", str(run_dir.path), "--cell", "0"])
        ended.set()
        attacker.join()
    lines = run_dir.cell(0).episodes.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert dies.is_set() and sent
    assert all(PROOF_PATH.encode() in request for request in sent if request)
    assert key.encode() not in b"".join(sent)
    outcomes = {(record["outcome"], record["reward"]) for record in records}
    if back:
        assert code == 0
        assert len(records) == CELL
        assert outcomes == {("max_steps", 0.0)}
        assert sum(len(record["history"]) for record in records) >= 1
    else:
        assert code == 3
        assert outcomes <= {("infra_error", None)}


def announce(
    run_dir: RunDir,
    server: ModelServer,
    name: str,
    incarnation: str,
    key: str,
    state: State = "ready",
) -> None:
    """Publish the server as this one, which it can prove to be."""
    server.prove = proving(key, incarnation, name)
    server.key = key
    about = replace(READY, url=server.url, incarnation=incarnation, state=state)
    publish(run_dir, replace(about, server=name, role="user" if name == "user" else "assistant"))
