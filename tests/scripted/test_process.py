"""The real process: start, URL, key from the environment, stop by signal, wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emobench.scripted.command import KEY_VARIABLES, main
from tests.support.scripted import Client

HELLO = [{"role": "user", "content": "Hello"}]


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    kept = {k: v for k, v in os.environ.items() if k not in ("EMOBENCH_API_KEY", "VLLM_API_KEY")}
    child = subprocess.Popen(
        [sys.executable, "-m", "emobench.scripted", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**kept, **environment},
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("listening on http://"), line
        yield child, line.split()[-1]
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def test_serves_and_stops_on_sigterm(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"model": "org/model", "variants": {"control": ""}}))
    with process("--settings", str(settings), VLLM_API_KEY="k") as (child, url):
        assert Client(url).request("/v1/models").status == 401
        assert Client(url, "k").request("/v1/models").json["data"][0]["id"] == "org/model"
        child.terminate()
        assert child.wait(240) == 0


def test_stops_although_a_request_hangs(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"faults": {"hang": 1}}))
    with process("--settings", str(settings), "--without-key") as (child, url):
        with pytest.raises(TimeoutError):
            Client(url).chat(HELLO, timeout=0.2)
        child.terminate()
        assert child.wait(240) == 0


def test_does_not_import_the_benchmark() -> None:
    code = (
        "import sys; from emobench.scripted.server import build_app; "
        "from emobench.scripted.server import ServerSettings; "
        "build_app(ServerSettings()); "
        "print([m for m in ('litellm', 'tau_trait', 'tau_bench') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"latency": 1}', "latency_ms"),
        ('{"faults": {"hang": 2}}', "faults.hang"),
        ("{", "is no JSON"),
        ("[]", "valid dictionary"),
        (None, "cannot be read"),
    ],
)
def test_wrong_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, expected: str
) -> None:
    settings = tmp_path / "settings.json"
    if text is not None:
        settings.write_text(text)
    assert main(["--settings", str(settings)]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(settings) in error


def test_a_model_that_no_cache_is_left_beside_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"hardware": "a100", "model_size": 70}')
    assert main(["--without-key", "--settings", str(settings)]) == 2
    assert "70B leaves no room for a cache on 1 x A100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "key", "expected"),
    [
        ([], None, "without a key this server would answer everybody"),
        ([], " ", "give --without-key for tests on this machine alone"),
        (["--host", "0.0.0.0", "--without-key"], None, "other machines reach 0.0.0.0"),
        (["--host", "::", "--without-key"], "k", "other machines reach ::"),
        (["--host", "node1", "--without-key"], None, "other machines reach node1"),
    ],
)
def test_without_a_key_it_does_not_start(
    arguments: list[str],
    key: str | None,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("emobench.scripted.server.serve", lambda _: pytest.fail("it starts"))
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if key is not None:
        monkeypatch.setenv("EMOBENCH_API_KEY", key)
    assert main(arguments) == 2
    assert expected in capsys.readouterr().err


def test_without_a_key_only_this_machine_is_answered() -> None:
    with process("--without-key") as (_, url):
        assert url.startswith("http://127.0.0.1:")
        assert Client(url).request("/v1/models").status == 200


def test_a_taken_port(capsys: pytest.CaptureFixture[str]) -> None:
    with process("--without-key") as (_, url):
        port = url.rsplit(":", 1)[1]
        assert main(["--port", port, "--without-key"]) == 1
    assert "cannot listen on" in capsys.readouterr().err
