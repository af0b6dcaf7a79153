"""One server over several nodes: what starts on each, with which cards, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile, JobResources, ServerResources
from emobench.core.models import VllmModel
from emobench.core.plan import save_plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.render import render
from emobench.scheduler.schedulers import SCHEDULERS
from emobench.store.endpoints import load_api_key, read_endpoint
from emobench.store.jobs import read_jobs
from tests.cluster.lab import Lab
from tests.support.plans import make_plan
from tests.support.processes import until

# Writes down how it was called, then is the scripted server, or waits as a headless vLLM does.
VLLM = """#!{python}
import json, os, sys
names = ("SLURMD_NODENAME", "HABANA_VISIBLE_MODULES", "VLLM_API_KEY", "SLURM_CPUS_PER_TASK")
found = {{"argv": sys.argv[1:], "pid": os.getpid(), **{{n: os.environ.get(n) for n in names}}}}
with open({folder!r} + "/" + os.environ["SLURMD_NODENAME"] + ".json", "w") as stream:
    json.dump(found, stream)
if "--headless" in sys.argv:
    os.execvp("sleep", ["sleep", "600"])
value = dict(zip(sys.argv, sys.argv[1:]))
os.execv(sys.executable, [
    sys.executable, "-m", "emobench.scripted", "--host", value["--host"],
    "--port", value["--port"], "--role", "user", "--model", value["--served-model-name"],
])
"""
HL_SMI = "#!/bin/sh\nprintf 'index, module_id\\n0, 6\\n1, 4\\n'\n"
SMALL = {"cpus": 2, "mem": "200M", "time": "10"}


@pytest.fixture
def run_dir(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    """A run whose user server spans two Gaudi nodes; gaudi2's first card is another job's."""
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    for name, text in (
        ("vllm", VLLM.format(python=sys.executable, folder=str(tmp_path))),
        ("hl-smi", HL_SMI),
    ):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    resources = ServerResources(partition="gaudi", gres="hpu:gaudi2", **SMALL)  # type: ignore[arg-type]
    profile = ClusterProfile(
        name="lab",
        scheduler="slurm",
        accelerator="gaudi",
        user_server=resources,
        assistant_server=resources,
        array=JobResources(partition="cuda", **SMALL),  # type: ignore[arg-type]
        python=sys.executable,
        server_setup=(f"PATH={tmp_path / 'bin'}:$PATH",),
        server_deadline_min=1,
    )
    run = RunDir(tmp_path / "a b" / "study")
    for folder in (run.scripts, run.endpoints, tmp_path / "logs"):
        folder.mkdir(parents=True)
    user = VllmModel(model="/models/large", served_name="large", tensor_parallel=2, nodes=2)
    plan = make_plan(profile, tmp_path / "logs", user)
    save_plan(run, plan)
    for name, text in render(plan, run, [find_shipped_templates()]).items():
        (run.scripts / name).write_text(text)
    other = ("sbatch", "--parsable", "-p", "gaudi", "-w", "gaudi2", "--gres=hpu:gaudi2:1")
    job = lab.run(*other, "-o", "/dev/null", "--wrap", "sleep 600").stdout.strip()
    until(lambda: lab.queue().get(job) == "RUNNING", "the other job to run")
    SCHEDULERS.find_for(plan.profile).submit(plan, run, {}, ["user"])
    yield run
    lab.run("scancel", job)
    SCHEDULERS.cancel(read_jobs(run))
    until(lambda: not lab.queue(), "the jobs to be gone", poll=0.2)


def found(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in folder.glob("gaudi?.json")}


def test_each_node_gets_its_rank_its_cards_and_the_heads_address(
    run_dir: RunDir, lab: Lab, tmp_path: Path
) -> None:
    def state() -> str:
        endpoint = read_endpoint(run_dir, "user")
        return endpoint.state if endpoint else ""

    until(lambda: state() == "ready", "the server to be ready", poll=0.2)
    until(lambda: len(found(tmp_path)) == 2, "both nodes to have started")
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None and endpoint.model == "large"
    nodes = found(tmp_path)
    jobs = read_jobs(run_dir)
    batch_host = lab.ask("squeue", "-h", "-j", jobs[0].job_id, "-o", "%B").strip()
    host, port = endpoint.url.removeprefix("http://").removesuffix("/v1").split(":")
    ranks, master_ports = {}, set()
    for name, node in nodes.items():
        argv = node["argv"]
        value = dict(pairwise(argv))
        assert (value["--host"], value["--port"]) == (host, port)
        assert value["--master-addr"] == host
        master_ports.add(value["--master-port"])
        assert (value["--nnodes"], value["--tensor-parallel-size"]) == ("2", "2")
        assert value["serve"] == "/models/large"
        assert node["SLURM_CPUS_PER_TASK"] == "2"
        assert node["VLLM_API_KEY"] == load_api_key(run_dir)
        assert load_api_key(run_dir) not in " ".join(argv)
        assert node["HABANA_VISIBLE_MODULES"] == {"gaudi1": "6", "gaudi2": "4"}[name]
        ranks[value["--node-rank"]] = name
        assert ("--headless" in argv) == (name != batch_host)
    assert ranks["0"] == batch_host and set(ranks) == {"0", "1"}
    assert len(master_ports) == 1 and port not in master_ports

    SCHEDULERS.cancel(jobs)
    until(
        lambda: not any(Path(f"/proc/{node['pid']}").exists() for node in nodes.values()),
        "the engine to be gone on both nodes",
    )


def test_a_node_that_dies_ends_all_and_the_server_starts_again(
    run_dir: RunDir, lab: Lab, tmp_path: Path
) -> None:
    def incarnation() -> str:
        endpoint = read_endpoint(run_dir, "user")
        return endpoint.incarnation if endpoint and endpoint.state == "ready" else ""

    until(lambda: bool(incarnation()) and len(found(tmp_path)) == 2, "the server", poll=0.2)
    first, nodes = incarnation(), found(tmp_path)
    headless = next(node for node in nodes.values() if "--headless" in node["argv"])
    lab.run("kill", "-9", str(headless["pid"]))
    until(lambda: incarnation() not in ("", first), "the server to be back", poll=0.2)
    again = found(tmp_path)
    assert all(again[name]["pid"] != nodes[name]["pid"] for name in nodes)
