"""`emobench probe`: its exit codes, and what a person reads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from emobench.cli.main import main
from tests.support.model_server import ModelServer, Reply, good, is_user
from tests.support.scripted import Launch


def run(*arguments: str) -> int:
    return main(["probe", *arguments])


def test_a_usable_endpoint(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    url = launch().url
    assert run("--base-url", f"{url}/v1/", "--model", "scripted", "--env", "airline") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"scripted at {url}/v1, with the policy and tools of airline"
    assert "assistant: usable as assistant" in lines
    assert "user: usable as user" in lines
    assert any(line.split()[:4] == ["ok", "tool", "choice", "auto"] for line in lines)
    assert max(map(len, lines)) <= 100
    assert out.isascii()
    assert not err


def never_calls(request: dict[str, Any]) -> Reply:
    if is_user(request) or request.get("tool_choice") == "required":
        return good(request)
    return Reply("What is your name? \x1b[31m\u2603")


def test_one_that_is_not(endpoint: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answer = never_calls
    assert run("--base-url", endpoint.url, "--model", "m") == 1
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "never calls a tool by itself (tool_choice auto): every task would fail" in said
    assert "it does with 'required'" in said
    assert "user: usable as user" in said
    assert "\x1b" not in out
    assert run("--base-url", endpoint.url, "--model", "m", "--role", "user") == 0


def test_warnings_are_usable(endpoint: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.models = {"data": [{"id": "m", "max_model_len": 16384}]}
    assert run("--base-url", endpoint.url, "--model", "m", "--role", "assistant") == 0
    out = capsys.readouterr().out
    assert "assistant: usable with warnings" in out
    assert "--max-model-len 32768" in out


def test_litellms_advice_does_not_get_into_the_json(endpoint: ModelServer) -> None:
    """In a process of its own, into which no test has brought litellm."""
    endpoint.answer = lambda request: Reply(status=400, error="no")
    command = [sys.executable, "-m", "emobench.cli", "probe", "--json"]
    done = subprocess.run(
        [*command, "--provider", "mistral", "--model", "m", "--role", "user"],
        env={**os.environ, "MISTRAL_API_BASE": endpoint.url, "MISTRAL_API_KEY": "k"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode in (1, 3), done.stderr
    (report,) = json.loads(done.stdout)
    assert report["state"] != "usable"


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:  # bound and not listening: refused for sure
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        assert run("--base-url", url, "--model", "m", "--role", "user") == 3
    assert "user: not reachable: " in capsys.readouterr().out


def test_json(
    endpoint: ModelServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.answer = never_calls
    endpoint.key = "sk-right"
    monkeypatch.setenv("MY_KEY", "sk-right")
    arguments = ["--base-url", endpoint.url, "--model", "m", "--api-key-env", "MY_KEY", "--json"]
    assert run(*arguments) == 1
    out = capsys.readouterr().out
    assert "sk-right" not in out
    assistant, user = json.loads(out)
    assert (assistant["role"], assistant["state"]) == ("assistant", "not_usable")
    assert (user["role"], user["state"]) == ("user", "usable")
    auto = next(c for c in assistant["checks"] if c["name"] == "tool choice auto")
    assert set(auto) == {"name", "result", "seen", "meaning", "advice"}
    assert assistant["calls"][0]["prompt_tokens"] == 3


def test_a_provider_behind_litellm(
    endpoint: ModelServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTED_VLLM_API_BASE", endpoint.url)
    monkeypatch.setenv("HOSTED_VLLM_API_KEY", "sk-where-litellm-looks")
    assert run("--provider", "hosted_vllm", "--model", "m") == 0
    out = capsys.readouterr().out
    assert out.startswith("m at hosted_vllm, with the policy and tools of retail")
    assert "user: usable as user" in out
    assert set(endpoint.keys) == {"sk-where-litellm-looks"}
    monkeypatch.setenv("MY_KEY", "sk-mine")
    endpoint.key = "sk-mine"
    named = ["--provider", "hosted_vllm", "--model", "m", "--api-key-env", "MY_KEY"]
    assert run(*named, "--role", "user") == 0
    assert "sk-mine" not in capsys.readouterr().out


def test_a_wrong_key(endpoint: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.key = "sk-right"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert run("--base-url", endpoint.url, "--model", "m") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "m"], "--base-url"),
        (["--base-url", "http://127.0.0.1:1/v1"], "--model"),
        (["--base-url", "http://h:1/v1", "--provider", "openai", "--model", "m"], "not allowed"),
        (["--provider", "antropic", "--model", "m"], "did you mean 'anthropic'"),
        (["--provider", "anthropic", "--model", "m", "--api-key-env", "NO_SUCH"], "NO_SUCH"),
        (["--base-url", "127.0.0.1:8005", "--model", "m"], "is no address"),
        (["--base-url", "http://", "--model", "m"], "is no address"),
        (["--base-url", "http://h:99999/v1", "--model", "m"], "is no address"),
        (["--base-url", "http://h:1/v1", "--model", "m", "--timeout", "0"], "seconds"),
        (["--base-url", "http://h:1/v1", "--model", "m", "--timeout", "nan"], "seconds"),
        (["--base-url", "http://h:1/v1", "--model", "m", "--env", "telecom"], "telecom"),
        (["--base-url", "http://h:1/v1", "--model", "m", "--api-key-env", "NO_SUCH"], "NO_SUCH"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = run(*arguments)
    except SystemExit as end:  # argparse's own
        code = int(str(end.code))
    assert code == 2
    assert words in capsys.readouterr().err


def test_an_address_behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert run("--base-url", "http://models.example:8005/v1", "--model", "m") == 2
    assert "no_proxy" in capsys.readouterr().err
