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
def scripted(folder: Path, role: str, **faults: float) -> Iterator[str]:
    """The base URL of a scripted server of one role with such faults."""
    settings = folder / f"{role}.json"
    settings.write_text(json.dumps({"faults": faults}))
    command = [sys.executable, "-m", "emobench.scripted", "--port", "0", "--model", "m"]
    command += ["--role", role, "--settings", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split()[-1].rstrip("/") + "/v1"
        finally:
            server.terminate()


@pytest.mark.parametrize(
    ("role", "fault", "outcome"),
    [
        ("assistant", "http_500", "infra_error"),
        ("assistant", "disconnect", "infra_error"),
        ("assistant", "hang", "infra_error"),
        ("assistant", "bad_tool_json", "agent_error"),
        ("assistant", "null_content", "agent_error"),
        ("assistant", "think_complete", "solved"),
        ("assistant", "think_closing_only", "solved"),
        ("assistant", "think_unterminated", "agent_error"),
        ("user", "http_500", "infra_error"),
        ("user", "disconnect", "infra_error"),
        ("user", "null_content", "user_error"),
        ("user", "think_complete", "solved"),
        ("user", "think_closing_only", "solved"),
        ("user", "think_unterminated", "user_error"),
    ],
)
def test_each_fault_has_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, fault: str, outcome: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emobench.runner.cell.BACKOFF_S", (0.0, 0.0))
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    monkeypatch.setattr("emobench.runner.endpoint_resolver.OUTAGE_S", 0.5)
    faulty = {role: {fault: 1.0}}
    with (
        scripted(tmp_path, "user", **faulty.get("user", {})) as user,
        scripted(tmp_path, "assistant", **faulty.get("assistant", {})) as assistant,
    ):
        arguments = ["--env", "retail", "--model", "m", "--tasks", "0", "--probe", "off"]
        arguments += ["--model-base-url", assistant, "--user-base-url", user]
        code = main([*arguments, "--run-dir", "run", "--timeout", "0.5"], command="run")
    record: dict[str, Any] = json.loads((tmp_path / "run/cells/0/episodes.jsonl").read_text())
    assert record["outcome"] == outcome
    assert code == (1 if outcome == "infra_error" else 0)
    assert record["reward"] == {"solved": 1.0, "infra_error": None}.get(outcome, 0.0)
    assert len(record["history"]) == (2 if outcome == "infra_error" else 0)
    if outcome == "solved":
        assert any(call.get("think") for call in record["calls"] if call["role"] == role)
    said = [message["content"] or "" for message in record["traj"][1:]]
    assert not any("<think" in text or "</think" in text for text in said)
