"""A sweep that finishes by itself, in whatever order Slurm starts and ends its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path)


def ended_by_itself(site: Site, cells: int = 2) -> None:
    """Every cell is done, no episode is there twice, and none is missing."""
    status = site.wait_until_ended()
    assert status["cells"]["done"] == cells, status["cells"]
    for number in range(cells):
        lines = (site.run_dir / "cells" / str(number) / "episodes.jsonl").read_text().splitlines()
        assert len(lines) == 10, number


def test_a_cell_that_meets_its_time_limit_goes_on_by_itself(site: Site) -> None:
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    until(lambda: site.status()["cells"]["running"] == 2, "both cells to run", 240, poll=0.3)
    tasks = [f"{site.job('scripted')}_{index}" for index in (0, 1)]
    for task in tasks:
        site.lab.run("scontrol", "update", f"JobId={task}", "EndTime=now+90")
    until(lambda: _restarts(site, tasks) == [1, 1], "both to be queued again", 240, poll=0.3)
    ended_by_itself(site)


def _restarts(site: Site, tasks: list[str]) -> list[int]:
    shown = [site.lab.ask("scontrol", "--oneliner", "show", "job", task) for task in tasks]
    return [int(text.partition(" Restarts=")[2].split()[0]) for text in shown]


def test_servers_of_a_heterogeneous_job_start_together(site: Site) -> None:
    """While the assistant's cards are taken the user's server holds none."""
    site.profile["placement"] = "hetjob"
    taken = site.lab.run(
        *("sbatch", "--parsable", "--partition=gaudi", "--nodes=2", "--exclusive"),
        *("--output=/dev/null", "--wrap", "sleep 600"),
    ).stdout.strip()
    until(lambda: site.lab.queue().get(taken) == "RUNNING", "the cards to be taken", 240, poll=0.3)
    assert site.sweep(tasks="0-9").returncode == 0
    user, assistant = site.job("user"), site.job("assistant_scripted")
    assert int(assistant) == int(user) + 1

    def reason() -> str:
        shown = site.lab.ask("scontrol", "--oneliner", "show", "job", assistant)
        return shown.partition(" Reason=")[2].split()[0]

    until(lambda: reason() != "None", "Slurm to plan the pair", 240, poll=0.3)
    states = {server["name"]: server["state"] for server in site.status()["servers"]}
    assert states == {"user": "pending", "assistant_scripted": "pending"}
    site.lab.run("scancel", taken)
    ended_by_itself(site)
    starts = [
        site.lab.ask("scontrol", "--oneliner", "show", "job", job).partition(" StartTime=")[2][:19]
        for job in (user, assistant)
    ]
    assert starts[0] == starts[1]
    reasons = {server["reason"] for server in site.status()["servers"]}
    assert reasons == {"all cells are done"}
    for log in (f"user_vllm_{user}.out", f"assistant_vllm_{assistant}.out"):
        assert "is ready after" in (site.folder / "logs" / log).read_text()


def test_both_parts_of_a_heterogeneous_job_are_cancelled_queued_or_running(site: Site) -> None:
    site.profile["placement"] = "hetjob"
    site.lab.run("scontrol", "update", "nodename=gaudi[1-2]", "state=drain", "reason=test")
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    until(lambda: not site.lab.queue(), "an empty queue", 240, poll=0.3)
    site.lab.resume_nodes()
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    site.wait_for_cell()
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    until(lambda: not site.lab.queue(), "an empty queue", 240, poll=0.3)
