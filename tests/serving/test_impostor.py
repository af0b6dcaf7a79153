"""Who listens at a server's address is asked for a proof before it is given the key."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.errors import ServersGone
from emobench.core.run_dir import RunDir
from emobench.llm import guard
from emobench.llm.client import ChatClient, Identity, OtherServer, Unreachable, verify_server
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import (
    Endpoint,
    load_api_key,
    publish,
)
from tests.support.model_server import ModelServer, Prove, answering, proving
from tests.support.serving import READY, make_run, supervising, until_state

WANTED = replace(READY, incarnation="new")


@contextmanager
def listening(prove: Prove) -> Iterator[ModelServer]:
    """Serve model m to everybody, and prove what `prove` does."""
    with answering(ModelServer()) as server:
        server.prove = prove
        yield server


def problem_of(endpoint: Endpoint, key: str = "the-key") -> str:
    identity = Identity(endpoint.server, endpoint.incarnation)
    try:
        verify_server(endpoint.url, endpoint.model, key, identity)
    except Unreachable as error:
        return f"{type(error).__name__}: {error}"
    return ""


def announced(server: ModelServer) -> Endpoint:
    """The expected endpoint at this server's address."""
    return replace(WANTED, url=server.url)


def proof(key: str, incarnation: str = "new", server: str = "user") -> Prove:
    return proving(key, incarnation, server)


@pytest.mark.parametrize(
    ("prove", "words"),
    [
        (lambda *_: (404, {"error": "Not Found"}), "cannot prove itself (HTTP 404)"),
        (lambda *_: (401, None), "cannot prove itself (HTTP 401)"),
        (lambda *_: (200, {"proof": None}), "cannot prove itself (HTTP 200)"),
        (lambda *_: (200, ["proof"]), "cannot prove itself (HTTP 200)"),
        (lambda *_: (200, {"proof": "\u00e9" * 64}), "wrong proof"),
        (lambda _, challenge, address: (200, {"proof": challenge}), "wrong proof"),
        (proof("another run's key"), "wrong proof"),
        (proof("the-key", incarnation="old"), "wrong proof"),
        (proof("the-key", server="assistant_a"), "wrong proof"),
    ],
)
def test_an_impostor_is_told_apart_and_never_given_the_key(prove: Prove, words: str) -> None:
    with listening(prove) as server:
        said = problem_of(announced(server))
    assert words in said and "another server has that port" in said
    assert said.startswith("OtherServer")
    assert [path.partition("?")[0] for path, _ in server.seen] == [guard.PROOF_PATH]
    assert "the-key" not in str(server.seen)
    assert "authorization" not in str(server.seen).lower()


def test_a_long_list_of_other_models_is_cut() -> None:
    with listening(proof("the-key")) as server:
        server.models = {"data": [{"id": f"\n{number} " * 10_000} for number in range(100)]}
        said = problem_of(announced(server))
    assert "serves 0 0 0" in said and "and 95 more, not m" in said
    assert len(said) < 600 and "\n" not in said


def test_a_server_that_proves_itself_is_given_the_key() -> None:
    with listening(proof("the-key")) as server:
        assert problem_of(announced(server)) == ""
    assert [path.partition("?")[0] for path, _ in server.seen] == [guard.PROOF_PATH, "/v1/models"]
    assert "the-key" not in str(server.seen[0])
    assert "Authorization: Bearer the-key" in server.seen[1][1]


def test_a_proof_that_was_overheard_proves_nothing() -> None:
    heard: list[str] = []

    def overhear(_: str, challenge: str, address: tuple[str, int]) -> tuple[int, object]:
        heard.append(guard.compute_proof("the-key", challenge, "new", "user", address))
        return 200, {"proof": heard[0]}

    with listening(overhear) as server:
        assert problem_of(announced(server)) == ""
        assert "wrong proof" in problem_of(announced(server))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_proof_that_is_passed_on_proves_nothing(host: str) -> None:
    """Somebody who has another port, or the same one of another interface, asks the server itself,
    and repeats what it answers."""
    with listening(proof("the-key")) as server:

        def relay(_: str, challenge: str, address: tuple[str, int]) -> tuple[int, object]:
            origin = server.url.removesuffix("/v1")
            path = f"{guard.PROOF_PATH}?challenge={challenge}"
            answer = ChatClient(origin, None, 5).get(path)
            return answer.status, answer.json()

        port = 0 if host == "127.0.0.1" else server.server_port
        with answering(ModelServer(address=(host, port))) as between:
            between.prove = relay
            assert "passes another's proof on" in problem_of(announced(between))
        assert problem_of(announced(server)) == ""
    assert "the-key" not in str(between.seen)
    assert len(between.seen) == 1


def test_a_server_of_an_earlier_release_is_named_and_given_no_key() -> None:
    def earlier(_: str, challenge: str, address: tuple[str, int]) -> tuple[int, object]:
        text = f"emobench-proof\n{challenge}\nnew\nuser"
        return 200, {"proof": hmac.new(b"the-key", text.encode(), "sha256").hexdigest()}

    with listening(earlier) as server:
        said = problem_of(announced(server))
    assert "as an earlier release of emobench does" in said
    assert "start it again with the same emobench sweep" in said
    assert "the-key" not in str(server.seen)


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with listening(proof("the-key")) as server, answering(ModelServer()) as other:
        other.moved_to = server.url.removesuffix("/v1")
        said = problem_of(announced(other))
    assert "cannot prove itself (HTTP 302)" in said
    assert server.seen == []


def test_a_client_waits_on_and_keeps_the_key_to_itself(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    key = load_api_key(run_dir, create=True)
    with listening(proof(key, incarnation="old")) as server:
        publish(run_dir, announced(server))
        with pytest.raises(ServersGone, match="another server has that port"):
            wait_for_endpoint(run_dir, "user", deadline_s=0.1, poll_s=0.02)
    assert server.seen and key not in str(server.seen)


def test_a_server_that_came_back_is_another_than_before(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        key = load_api_key(run_dir)
        assert problem_of(endpoint, key) == ""
        assert "wrong proof" in problem_of(replace(endpoint, incarnation="old"), key)
        assert "wrong proof" in problem_of(replace(endpoint, server="assistant_a"), key)
        assert "serves scripted" in problem_of(replace(endpoint, model="other"), key)
        process.terminate()
        assert process.wait(240) == 0


def test_a_conversation_that_connects_again_asks_again(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir):
        endpoint = until_state(run_dir, "ready")
        key = load_api_key(run_dir)
        right = ChatClient(endpoint.url, key, 5, Identity("user", endpoint.incarnation))
        assert [right.get("/models").status for _ in range(2)] == [200, 200]
        right.close()
        assert right.get("/models").status == 200
        for wrong in (Identity("user", "earlier"), Identity("user+2", endpoint.incarnation)):
            with pytest.raises(OtherServer, match="another server has that port"):
                ChatClient(endpoint.url, key, 5, wrong).get("/models")


@pytest.mark.parametrize("answer", [(200, {"proof": "0" * 64}), (404, {}), (200, ["x"])])
def test_a_conversation_sends_an_impostor_nothing(answer: tuple[int, object]) -> None:
    with listening(lambda *_: answer) as server:
        client = ChatClient(announced(server).url, "s3cret", 5, Identity("user", "new"))
        with pytest.raises(OtherServer, match="another server has that port"):
            client.chat({"model": "m", "messages": [{"role": "user", "content": "hello"}]})
        assert len(server.seen) == 1
        assert "s3cret" not in str(server.seen)
        assert "hello" not in str(server.seen)
