"""The guard around a real ASGI server, loaded as vLLM loads it, and the scripted server alike."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from emobench.config.templates import find_shipped_templates
from emobench.core.run_dir import RunDir
from emobench.llm import guard
from emobench.llm.client import ChatClient
from emobench.scheduler.render import render
from tests.support.plans import CUDA, make_plan
from tests.support.processes import until

KEY = "the-key"
CHALLENGE = "0f" * 32
ASGI_SERVER = """
import importlib, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

async def answer(request):
    return PlainTextResponse("ran " + request.url.path)

async def talk(socket):
    await socket.accept()
    await socket.send_text("ran")
    await socket.close()

app = Starlette(routes=[
    WebSocketRoute("/v1/realtime", talk),
    Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
])
module, name = sys.argv[1].rsplit(".", 1)
app.add_middleware(getattr(importlib.import_module(module), name))
uvicorn.run(app, host="127.0.0.1", port=0, log_level="info")
"""
SCRIPTED: tuple[str, ...] = (sys.executable, "-m", "emobench.scripted", "--model", "m")


@contextmanager
def _running(command: tuple[str, ...], log: Path, **environment: str) -> Iterator[str]:
    own = {"EMOBENCH_INCARNATION": "inc", "EMOBENCH_SERVER": "user", **environment}
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **own}
        ) as process,
    ):
        try:
            until(lambda: "http://127" in log.read_text(), "the server to listen")
            yield "http" + log.read_text().rpartition("http")[2].split()[0]
        finally:
            process.terminate()


def _scripts(folder: Path) -> Path:
    """The rendered guard, where vLLM's server finds it."""
    run_dir = RunDir(folder / "a b")
    run_dir.scripts.mkdir(parents=True)
    texts = render(make_plan(CUDA, folder), run_dir, [find_shipped_templates()])
    (run_dir.scripts / "emobench_guard.py").write_text(texts["emobench_guard.py"])
    return run_dir.scripts


@pytest.fixture(scope="module", params=["asgi", "scripted"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("guard")
    environment = {"VLLM_API_KEY": KEY}
    command = SCRIPTED
    if request.param == "asgi":
        command = (sys.executable, "-c", ASGI_SERVER, "emobench_guard.Guard")
        environment["PYTHONPATH"] = str(_scripts(folder))
    with _running(command, folder / "log", **environment) as url:
        yield url


def ask(url: str, method: str, path: str, *authorization: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=240)
    connection.putrequest(method, path)
    for value in authorization:
        connection.putheader("Authorization", value)
    connection.putheader("Content-Length", "0")
    connection.endheaders()
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/pooling"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("OPTIONS", "/v1/models"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/ping"),
        ("GET", "/version"),
        ("POST", "/health"),
        ("POST", "/metrics"),
        ("DELETE", "/health"),
        ("GET", "/health/"),
        ("GET", "/health/../v1/models"),
        ("GET", "/Health"),
        ("GET", "/metrics/x"),
        ("POST", guard.PROOF_PATH),
        ("GET", guard.PROOF_PATH + "/"),
    ],
)
@pytest.mark.parametrize(
    "given",
    [(), (KEY,), ("Bearer wrong",), (f"Bearer {KEY}x",), (f"Basic {KEY}",), ("Bearer \xe9",)],
)
def test_without_the_key_every_other_route_is_closed(
    url: str, method: str, path: str, given: tuple[str, ...]
) -> None:
    status, body = ask(url, method, path, *given)
    assert status == 401
    error = json.loads(body)["error"]
    assert error["code"] == 401 and error["message"] and error["type"]
    assert KEY not in body and "ran" not in body


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_health_and_metrics_stay_readable(url: str, path: str) -> None:
    assert ask(url, "GET", path)[0] == 200


def test_the_key_opens(url: str) -> None:
    assert ask(url, "GET", "/v1/models", f"Bearer {KEY}")[0] == 200
    assert ask(url, "GET", "/v1/models", f"bearer {KEY}")[0] == 200


def test_two_keys_in_one_request_open_nothing(tmp_path: Path) -> None:
    scripts = _scripts(tmp_path)
    command = (sys.executable, "-c", ASGI_SERVER, "emobench_guard.Guard")
    log = tmp_path / "log"
    with _running(command, log, VLLM_API_KEY=KEY, PYTHONPATH=str(scripts)) as url:
        assert ask(url, "POST", "/invocations", f"Bearer {KEY}") == (200, "ran /invocations")
        assert ask(url, "POST", "/invocations", f"Bearer {KEY}", "Bearer x")[0] == 401
        socket = f"ws{url.removeprefix('http')}/v1/realtime"
        with pytest.raises(InvalidStatus, match="403"):
            connect(socket, proxy=None).close()
        headers = {"Authorization": f"Bearer {KEY}"}
        with connect(socket, additional_headers=headers, proxy=None) as conversation:
            assert conversation.recv(timeout=240) == "ran"
    assert KEY not in log.read_text()


def test_a_server_proves_itself_without_the_key(url: str) -> None:
    answer = ChatClient(url, None, 20).get(f"{guard.PROOF_PATH}?challenge={CHALLENGE}")
    assert answer.status == 200
    address = ("127.0.0.1", int(url.rpartition(":")[2].rstrip("/")))
    assert answer.json() == {"proof": guard.compute_proof(KEY, CHALLENGE, "inc", "user", address)}
    others = [
        guard.compute_proof("other", CHALLENGE, "inc", "user", address),
        guard.compute_proof(KEY, "00" * 32, "inc", "user", address),
        guard.compute_proof(KEY, CHALLENGE, "old", "user", address),
        guard.compute_proof(KEY, CHALLENGE, "inc", "assistant_a", address),
        guard.compute_proof(KEY, CHALLENGE, "inc", "user", ("127.0.0.1", 1)),
        guard.compute_proof(KEY, CHALLENGE, "inc", "user", ("127.0.0.2", address[1])),
    ]
    assert answer.json()["proof"] not in others


@pytest.mark.parametrize(
    "query",
    ["", "?challenge=", "?challenge=00", "?challenge=" + "zz" * 32, "?challenge=" + "0" * 33],
)
def test_what_is_no_challenge_is_not_signed(url: str, query: str) -> None:
    status, body = ask(url, "GET", guard.PROOF_PATH + query)
    assert status == 400
    assert "proof" not in json.loads(body)
    long = guard.PROOF_PATH + "?challenge=" + "00" * 32 + "%0Ainc"
    assert ask(url, "GET", long)[0] == 400


def test_the_proof_is_the_documented_one() -> None:
    import hashlib
    import hmac

    text = f"emobench-proof 2\n{CHALLENGE}\ninc\nuser\n10.0.0.7:8005".encode()
    expected = hmac.new(KEY.encode(), text, hashlib.sha256).hexdigest()
    assert guard.compute_proof(KEY, CHALLENGE, "inc", "user", ("10.0.0.7", 8005)) == expected


def test_without_a_key_the_server_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASGI_SERVER, "emobench_guard.Guard"]
    environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    ran = subprocess.run(
        command,
        env={**environment, "PYTHONPATH": str(_scripts(tmp_path))},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode != 0
    assert "VLLM_API_KEY is not set" in ran.stderr


def test_the_guard_needs_nothing_but_an_old_python(tmp_path: Path) -> None:
    import ast

    text = (_scripts(tmp_path) / "emobench_guard.py").read_text()
    assert text == Path(guard.__file__).read_text()
    tree = ast.parse(text, feature_version=(3, 10))
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
