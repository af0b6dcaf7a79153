"""The scripted engine's injected faults, through a whole cell, each to its outcome."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main


@contextmanager
def scripted(folder: Path, role: str, **settings: Any) -> Iterator[str]:
    """The base URL of a scripted server of one role with such settings."""
    file = folder / f"{role}.json"
    file.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "emobench.scripted", "--without-key", "--model", "m"]
    command += ["--role", role, "--settings", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1].rstrip("/") + "/v1"
        finally:
            server.terminate()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    monkeypatch.setattr("emobench.runner.endpoint_resolver.OUTAGE_S", 0.5)


def converse(folder: Path, settings: dict[str, Any], *options: str) -> tuple[int, dict[str, Any]]:
    """Exit code and record of one conversation with two servers of such settings, by role."""
    with (
        scripted(folder, "user", **settings.get("user", {})) as user,
        scripted(folder, "assistant", **settings.get("assistant", {})) as assistant,
    ):
        arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--probe", "off"]
        arguments += ["--model-base-url", assistant, "--user-base-url", user]
        code = main([*arguments, "--run-dir", str(folder / "run"), *options], command="run")
    return code, json.loads((folder / "run/cells/0/episodes.jsonl").read_text())


@pytest.mark.parametrize(
    ("role", "fault", "outcome"),
    [
        ("assistant", "http_500", "infra_error"),
        ("assistant", "disconnect", "infra_error"),
        ("assistant", "hang", "infra_error"),
        ("assistant", "bad_tool_json", "agent_error"),
        ("assistant", "null_content", "max_steps"),
        ("assistant", "think_complete", "solved"),
        ("assistant", "think_closing_only", "solved"),
        ("assistant", "think_unterminated", "max_steps"),
        ("user", "http_500", "infra_error"),
        ("user", "disconnect", "infra_error"),
        ("user", "null_content", "user_error"),
        ("user", "think_complete", "solved"),
        ("user", "think_closing_only", "solved"),
        ("user", "think_unterminated", "max_steps"),
    ],
)
def test_each_fault_has_its_outcome(
    tmp_path: Path, impatient: None, role: str, fault: str, outcome: str
) -> None:
    code, record = converse(tmp_path, {role: {"faults": {fault: 1.0}}}, "--timeout", "0.5")
    assert record["outcome"] == outcome
    assert code == (1 if outcome == "infra_error" else 0)
    assert record["reward"] == {"solved": 1.0, "infra_error": None}.get(outcome, 0.0)
    assert len(record["history"]) == (2 if outcome == "infra_error" else 0)
    if outcome == "solved":
        assert any(call.get("think") for call in record["calls"] if call["role"] == role)
    said = [message["content"] or "" for message in record["traj"][1:]]
    assert not any("<think" in text or "</think" in text for text in said)


@pytest.mark.parametrize(
    ("role", "strategy"),
    [
        ("user", "llm"),
        ("user", "react"),
        ("user", "verify"),
        ("user", "reflection"),
        ("assistant", "llm"),
    ],
)
def test_a_variant_that_a_server_does_not_know_is_never_played_as_control(
    tmp_path: Path, impatient: None, role: str, strategy: str
) -> None:
    """Such as one that was added to a sweep whose server is running."""
    older = {role: {"variants": {"control": "", "anxiety": "You are anxious."}}}
    options = ("--variant", "anger", "--user-strategy", strategy)
    code, record = converse(tmp_path, older, *options)
    assert (code, record["outcome"], record["reward"]) == (1, "infra_error", None)
    assert "was started without that variant" in record["error"]["message"]
    assert record["error"]["type"] == f"{role}:infra"
