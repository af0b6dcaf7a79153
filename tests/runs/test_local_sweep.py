"""A sweep on this machine without Slurm, from the file to the report, with real tasks."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import until
from tests.support.studies import SWEEP, Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "with space and ü"
    folder.mkdir()
    return Study(folder)


def test_from_a_sweep_file_to_a_report_and_on(study: Study) -> None:
    first = study.sweep("--wait")
    assert first.returncode == 0, first.stdout + first.stderr
    assert str(study.run_dir / "report.html") in first.stdout
    assert "Scripted models" in (study.run_dir / "report.html").read_text()
    episodes = study.episodes()
    assert [(e["variant"], e["task_id"]) for e in sorted(episodes, key=lambda e: e["cell"])] == [
        *(("control", task) for task in sorted_tasks(episodes, 0)),
        *(("anger", task) for task in sorted_tasks(episodes, 1)),
    ]
    rewards = Counter((e["variant"], e["reward"]) for e in episodes)
    assert rewards == {("control", 1.0): 2, ("anger", 0.0): 2}
    assert all({"task_id", "reward", "info", "traj", "trial"} <= set(e) for e in episodes)
    assert all(call["incarnation"] for e in episodes for call in e["calls"])
    assert stock_reads(study.run_dir / "cells/0/results.json") == [1.0, 1.0]
    names = [path.name.rsplit("_", 1)[0] for path in (study.folder / "logs").iterdir()]
    assert {"user_vllm", "assistant_vllm"} <= set(names)
    assert sum(name.startswith("run_retail_tool-calling_scripted") for name in names) == 2

    before = study.written()
    again = study.sweep("--wait")
    assert again.returncode == 0, again.stderr
    assert "finished: every cell is done, nothing to submit" in again.stdout
    assert study.written() == before

    refused = study.sweep(seed=2)
    assert refused.returncode == 2
    assert "seed: was 1, now 2" in refused.stderr
    assert study.written() == before

    wider = study.sweep("--wait", variants="[control, anger, anxiety]")
    assert wider.returncode == 0, wider.stdout + wider.stderr
    assert "submitted 1 of 3 cells" in wider.stdout
    after = study.written()
    assert {path: after[path] for path in before} == before
    assert len(after) == 3
    assert study.status()["finished"]
    key = (study.run_dir / "endpoints/api_key").read_text().strip()
    files = [path for path in study.folder.rglob("*") if path.is_file()]
    holders = [path.name for path in files if key.encode() in path.read_bytes()]
    assert holders == ["api_key"]


def sorted_tasks(episodes: list[dict[str, Any]], cell: int) -> list[int]:
    return [e["task_id"] for e in episodes if e["cell"] == cell]


def stock_reads(path: Path) -> list[float]:
    from emobench.benchmarks.adapter import load_benchmark

    result_type = load_benchmark().import_module("types").EnvRunResult
    return [result_type(**item).reward for item in json.loads(path.read_text())]


def test_cancel_leaves_nothing_running_and_the_same_command_completes(study: Study) -> None:
    started = study.sweep(latency=3000, tasks="0-3")
    assert started.returncode == 0, started.stderr
    until(lambda: study.status()["cells"]["running"], "a cell to run", poll=0.2)
    cancelled = study.run("cancel", "runs/tiny")
    assert cancelled.returncode == 0, cancelled.stderr
    assert "server user" in cancelled.stdout or "user (" in cancelled.stdout
    assert not processes_of(study.folder)
    status = study.status()
    assert not status["live"]
    assert not status["finished"]
    assert (status["cells"]["cancelled"], status["cells"]["failed"]) == (2, 0)
    assert {server["state"] for server in status["servers"]} == {"left"}
    assert "nothing of" in study.run("cancel", "runs/tiny").stdout
    kept = study.written()

    completed = study.sweep("--wait", tasks="0-3")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    after = study.written()
    assert all(after[path].startswith(text) for path, text in kept.items())
    tasks = Counter((e["variant"], e["task_id"]) for e in study.episodes())
    assert tasks == {(v, task): 1 for v in ("control", "anger") for task in range(4)}


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that mention the folder, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_server_that_cannot_start_is_a_clear_failure(study: Study) -> None:
    """vLLM is not installed here: the server's job fails, the cells say why, nothing hangs."""
    (study.folder / "bin").mkdir()
    text = SWEEP.format(variants="control", tasks="0", seed=1, latency=0)
    (study.folder / "tiny.yaml").write_text(text + "user: {engine: vllm, model: Qwen/Qwen3-0.6B}\n")
    result = study.submit("--wait")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "vllm" in result.stdout
    assert "failed" in result.stdout
    status = study.status()
    assert status["cells"]["failed"] == 1
    assert status["episodes"]["finished"] == 0
    server = next(s for s in status["servers"] if s["name"] == "user")
    assert "vllm" in server["reason"]
