"""What a sweep cost, from the accounting of a real cluster; and watching it there."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from emobench.core.job_id import expand_id
from emobench.core.run_dir import RunDir
from emobench.scheduler.cost import PHASES
from emobench.scheduler.interface import Accounted
from emobench.scheduler.slurm_commands import ask_slurm_accounts
from emobench.store.forecast import read_forecast
from emobench.tables.run_results import collect
from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import stopped_cells, until

SWEEP = """\
name: tiny
cluster: site.yaml
engine: scripted
matrix: {env: retail, variant: [control, anger]}
trials: 1
tasks: 0-2
user: {engine: scripted, accelerators: 1}
assistants: {scripted: {latency_ms: 60, accelerators: 2}}
"""


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    site = Site(lab, tmp_path)
    (tmp_path / "site.yaml").write_text(json.dumps(site.profile))
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    return site


def watch_once(site: Site) -> dict[str, Any]:
    done = site.emobench("watch", "--once", "--json")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return dict(json.loads(done.stdout))


def test_accelerator_hours_are_those_of_accounting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = site.emobench("sweep", "tiny.yaml", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: not site.lab.queue(), "the servers to leave", poll=0.3)
    jobs = json.loads((site.run_dir / "jobs.json").read_text())["jobs"]
    ids = {job["name"]: job["job_id"] for job in jobs if job["kind"] == "server"}
    columns = "jobid,elapsedraw,alloctres,state"
    ask = ("sacct", "-nPX", "-j", ",".join(ids.values()), "-o", columns)

    def rows() -> dict[str, list[str]]:
        lines = [line.split("|") for line in site.lab.run(*ask).stdout.splitlines()]
        return {job: row for part, *row in lines for job in expand_id(part)}

    until(lambda: {row[2] for row in rows().values()} == {"COMPLETED"}, "sacct", poll=0.3)
    found = rows()
    assert "gres/gpu=1" in found[ids["user"]][1]
    assert "gres/hpu=2" in found[ids["assistant_scripted"]][1]
    seconds = int(found[ids["user"]][0]) + 2 * int(found[ids["assistant_scripted"]][0])

    forecast = read_forecast(RunDir(site.run_dir))
    assert forecast is not None and forecast.accelerators == 3

    cost = site.status()["cost"]
    assert cost["source"] == "sacct"
    assert cost["problem"] == ""
    assert cost["accelerator_hours"] == pytest.approx(seconds / 3600, abs=1e-5)
    parts = [cost[f"accelerator_hours_{name}"] for name in PHASES]
    assert sum(parts) == pytest.approx(cost["accelerator_hours"], abs=1e-5)
    assert parts[0] > 0
    assert "accelerator-hours" in site.emobench("status", "runs/tiny").stdout

    for name, value in site.lab.env.items():
        monkeypatch.setenv(name, value)
    collected = collect(RunDir(site.run_dir))
    by_cell = collected.cost.cells
    assert set(by_cell) == {0, 1}
    assert 0 < sum(cards for cards, _ in by_cell.values()) < seconds
    tasks = [row for row in collected.cost.jobs if row.run.kind == "array"]
    assert {(row.run.cell, row.run.source) for row in tasks} == {(0, "sacct"), (1, "sacct")}

    # Without accounting the run's own records say nearly the same: not the seconds in which Slurm
    # starts and ends the job, nor those in which one part of it waits for the other's end.
    without(site, monkeypatch, "sacct")
    records = site.status()["cost"]
    assert records["source"] == "records"
    assert records["problem"]
    assert records["accelerator_hours"] == pytest.approx(cost["accelerator_hours"], abs=20 / 3600)


def without(site: Site, monkeypatch: pytest.MonkeyPatch, *commands: str) -> None:
    """From now on these commands fail, as they do where a daemon is away."""
    folder = site.folder / "broken"
    folder.mkdir(exist_ok=True)
    for command in commands:
        (folder / command).write_text(
            f"#!/bin/sh\necho '{command}: error: no answer' >&2\nexit 1\n"
        )
        (folder / command).chmod(stat.S_IRWXU)
    environment = site.lab.env
    path = f"{folder}{os.pathsep}{environment['PATH']}"
    assert shutil.which(commands[0], path=path) == str(folder / commands[0])
    monkeypatch.setattr(Lab, "env", property(lambda self: {**environment, "PATH": path}))


def test_watching_where_slurm_does_not_answer(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # Slow enough that the conversations outlast the looks at them.
    (site.folder / "tiny.yaml").write_text(SWEEP.replace("latency_ms: 60", "latency_ms: 900"))
    assert site.emobench("sweep", "tiny.yaml").returncode == 0

    def ready() -> bool:
        return {row["state"] for row in watch_once(site)["servers"]} == {"ready"}

    until(ready, "both servers to be ready", poll=0.3)
    site.wait_for_cell()
    with stopped_cells(site.run_dir):
        state = watch_once(site)
        assert state["missing"] == []
        assert all(row["running"] is not None for row in state["servers"])
        with monkeypatch.context() as patch:
            without(site, patch, "squeue", "sacct")
            state = watch_once(site)
            assert any("squeue does not answer" in text for text in state["missing"])
            assert any("sacct" in text for text in state["missing"])
            # What cannot be asked about is not said to be gone.
            assert state["cells"]["failed"] == 0
            assert all(row["running"] is not None for row in state["servers"])
    followed = site.emobench("watch", "--interval", "1")
    assert followed.returncode == 0, followed.stderr
    assert "vs control" in followed.stdout


def test_a_requeued_job_costs_both_of_its_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.env.items():
        monkeypatch.setenv(name, value)
    submit = ("sbatch", "--parsable", "--requeue", "--gres=gpu:h100:2", "--output=/dev/null")
    job = lab.run(*submit, "--wrap", "sleep 60").stdout.strip()

    def runs() -> list[Accounted]:
        accounts = ask_slurm_accounts([job])
        assert accounts.problem == ""
        return accounts.rows.get(job, [])

    def started() -> list[Accounted]:
        return [row for row in runs() if row.started is not None]

    until(lambda: len(started()) == 1, "the first run", poll=0.3)
    lab.run("scontrol", "requeue", job)
    until(lambda: len(started()) == 2, "the second run", poll=0.3)
    lab.run("scancel", job)
    until(lambda: all(row.ended for row in runs()), "both to have ended", poll=0.3)
    first, second = sorted(runs(), key=lambda row: row.started or 0)
    assert first.gres["gpu"] == second.gres["gpu"] == 2
    assert first.ended is not None and second.started is not None
    assert second.submitted is not None
    assert first.ended <= second.submitted <= second.started
