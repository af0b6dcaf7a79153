"""What goes wrong on a cluster: nothing that a fault touched is scored, and the sweep completes."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.files import write_json
from emobench.store.endpoints import Endpoint, load_api_key
from tests.cluster.drill import Drill, incarnations
from tests.cluster.lab import Lab
from tests.support import processes
from tests.support.model_server import ModelServer, Reply, answering
from tests.support.processes import until


@pytest.fixture
def drill(lab: Lab, tmp_path: Path) -> Drill:
    return Drill(lab, tmp_path)


def kill(drill: Drill, endpoint: Endpoint) -> None:
    """The server's supervisor dies without a word, and its engine with it."""
    assert processes.has_environment(endpoint.pid, f"SLURM_JOB_ID={endpoint.job_id}")
    os.kill(endpoint.pid, signal.SIGKILL)
    drill.lab.wait_jobs(endpoint.job_id)


@contextmanager
def impostor(endpoint: Endpoint) -> Iterator[ModelServer]:
    """Listen at the endpoint's address, which must be free; serve its model to everybody."""
    url = urlsplit(endpoint.url)
    assert url.hostname and url.port
    server = ModelServer(lambda request: Reply("###STOP###"), (url.hostname, url.port))
    server.models = {"data": [{"id": endpoint.model}]}
    server.prove = lambda *_: (200, {"proof": "0" * 64})
    with answering(server):
        yield server


def rewrite(drill: Drill, endpoint: Endpoint, age_s: float) -> None:
    """The endpoint file as it was, with a heartbeat of this age."""
    beat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    write_json(drill.run.endpoint(endpoint.server), asdict(endpoint) | {"heartbeat": beat})


def servers_gone(drill: Drill) -> list[dict[str, Any]]:
    """The summaries of the cells, once the arrays have ended for lack of a server."""
    until(lambda: not drill.lab.queue(), "the arrays to end", poll=0.3)
    summaries = [json.loads(p.read_text()) for p in drill.run_dir.glob("cells/*/variant*.json")]
    assert {summary["exit_reason"] for summary in summaries} == {"endpoint_unavailable"}
    assert {record["outcome"] for record in drill.records()} <= {"solved", "infra_error"}
    scored = [record for record in drill.records() if record["outcome"] == "solved"]
    assert len(scored) < drill.cells * drill.tasks
    return summaries


def complete(drill: Drill) -> None:
    """The same command again brings what is missing."""
    again = drill.emobench("sweep", "tiny.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    drill.finish()


def test_an_impostor_at_a_dead_servers_address(drill: Drill) -> None:
    drill.profile["placement"] = "apart"
    drill.begin(tasks=8, latency=200)
    endpoint = drill.endpoint("user")
    kill(drill, endpoint)
    with impostor(endpoint) as server:
        rewrite(drill, endpoint, age_s=0)
        servers_gone(drill)
        seen = server.seen
    assert seen, "clients came to its address"
    assert {path.partition("?")[0] for path, _ in seen} == {"/emobench/proof"}
    sent = str(seen)
    assert load_api_key(drill.run) not in sent
    assert "authorization" not in sent.lower()
    complete(drill)


@pytest.mark.parametrize(("placement", "age_s"), [("apart", 120), ("hetjob", 0)])
def test_the_file_of_a_server_that_is_gone(drill: Drill, placement: str, age_s: float) -> None:
    drill.profile["placement"] = placement
    drill.begin(tasks=8, latency=200)
    endpoint = drill.endpoint("user")
    kill(drill, endpoint)
    rewrite(drill, endpoint, age_s)
    for summary in servers_gone(drill):
        assert f"server user is gone: its job {endpoint.job_id}" in summary["message"]
    complete(drill)


def test_an_engine_that_is_killed_under_conversations(drill: Drill) -> None:
    drill.begin(tasks=12, latency=150)
    endpoint = drill.endpoint("user")
    engines = [
        pid
        for pid in processes.pids()
        if processes.has_environment(pid, f"EMOBENCH_INCARNATION={endpoint.incarnation}")
        and processes.has_environment(pid, f"SLURM_JOB_ID={endpoint.job_id}")
    ]
    assert engines
    for pid in engines:
        os.kill(pid, signal.SIGKILL)
    records = drill.finish()
    after = drill.endpoint("user")
    assert after.job_id == endpoint.job_id
    assert after.incarnation != endpoint.incarnation
    begun_again = [record for record in records if record["history"]]
    assert begun_again, "conversations were under way"
    for record in begun_again:
        assert all("infra" in entry["error"]["type"] for entry in record["history"])
    # No conversation has answers from before and after.
    assert {len(incarnations(record, "user")) for record in records} == {1}


def engine(drill: Drill, *lines: str) -> Path:
    """From now on every engine is this script."""
    file = drill.folder / "slurm_templates" / "serve_scripted.sh.j2"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    return file


@pytest.mark.parametrize(
    ("lines", "words", "cause"),
    [
        (["exec sleep 600"], "not ready 0.15 minutes (server_deadline_min)", "timeout"),
        (
            [
                "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB'",
                "exit 1",
            ],
            "out of the accelerator's memory",
            "device_memory",
        ),
    ],
    ids=["never ready", "crashes"],
)
def test_an_engine_that_does_not_come_up(
    drill: Drill, lines: list[str], words: str, cause: str
) -> None:
    drill.profile["server_deadline_min"] = 0.15
    broken = engine(drill, *lines)
    drill.write(tasks=2)
    assert drill.emobench("sweep", "tiny.yaml").returncode == 0
    until(lambda: not drill.lab.queue(), "everything to end", poll=0.3)
    status = drill.status()
    for server in status["servers"]:
        assert (server["state"], server["cause"]) == ("failed", cause)
        assert words in server["reason"]
        assert "what to do: " in server["reason"]
    assert status["cells"]["failed"] == 2
    for problem in status["problems"]:
        # Whoever's clock is ahead: the cells have the same deadline as their servers.
        assert re.search(r"server \S+ (failed|was not ready within)", problem["reason"])
    failed = max(seconds(server["heartbeat"]) for server in status["servers"])
    ended = max(seconds(problem["ended"]) for problem in status["problems"])
    assert ended - failed < 180
    assert drill.records() == []

    broken.unlink()
    assert broken.name in {path.name for path in find_shipped_templates().iterdir()}
    drill.profile["server_deadline_min"] = 5
    drill.write(tasks=2)
    complete(drill)


def seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()


@pytest.mark.parametrize("node", ["cuda1", "cuda2"], ids=["of the cells", "of a server"])
def test_a_node_goes_down(drill: Drill, node: str) -> None:
    # Slurm 22.05 queues the first part of a heterogeneous job alone, where that one's node fails.
    drill.profile["placement"] = "apart"
    drill.profile["array"]["sbatch"] = ["--nodelist=cuda1"]
    drill.profile["user_server"]["sbatch"] = ["--nodelist=cuda2"]
    drill.begin(tasks=12, latency=150)
    job = f"{drill.job('scripted')}_0" if node == "cuda1" else drill.job("user")
    kept = {(record["cell"], record["task_id"]): record["started"] for record in drill.records()}
    drill.lab.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    until(lambda: drill.lab.queue().get(job) == "PENDING", "the requeue", poll=0.1)
    assert len(drill.records()) < drill.cells * drill.tasks
    # It may have come back by itself, as soon as its daemon was heard of.
    drill.lab.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    records = drill.finish()
    assert restarts(drill, job) == 1
    for record in records:
        identity = record["cell"], record["task_id"]
        assert record["started"] == kept.get(identity, record["started"])


def restarts(drill: Drill, job: str) -> int:
    shown = drill.lab.ask("scontrol", "--oneliner", "show", "job", job)
    return max(int(word[9:]) for word in shown.split() if word.startswith("Restarts="))
