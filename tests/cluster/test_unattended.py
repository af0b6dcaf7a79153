"""A sweep that finishes by itself, in whatever order Slurm starts and ends its jobs."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from emobench.core.run_dir import RunDir
from emobench.store.events import read_events
from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import PATIENCE_S, until

IDLE = "idle_limit_min: 1\n"


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path)


def ended_by_itself(site: Site, cells: int = 2, seconds: float = PATIENCE_S) -> None:
    """Every cell is done, no episode is there twice, and none is missing."""
    status = site.wait_until_ended(seconds)
    assert status["cells"]["done"] == cells, status["cells"]
    for number in range(cells):
        text = (site.run_dir / "cells" / str(number) / "episodes.jsonl").read_text()
        episodes = [json.loads(line) for line in text.splitlines()]
        ended = [each["task_id"] for each in episodes if each["outcome"] != "infra_error"]
        assert sorted(ended) == list(range(10)), number


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
    site.lab.run("scontrol", "update", "nodename=gaudi[1-2]", "state=drain", "reason=test")
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    until(lambda: not site.lab.queue(), "an empty queue", 240, poll=0.3)
    site.lab.resume_nodes()
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    site.wait_for_cell()
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    until(lambda: not site.lab.queue(), "an empty queue", 240, poll=0.3)


PARTNERS = {"user": ("cuda", "gpu:h100:2"), "assistant_scripted": ("gaudi", "hpu:gaudi2:2")}
"""Partition and cards of a node, by server."""


def take_cards(site: Site, server: str) -> str:
    """Take all cards that the server could have, and leave the processors; the job's id."""
    partition, cards = PARTNERS[server]
    job = site.lab.run(
        *("sbatch", "--parsable", f"--partition={partition}", "--nodes=2", f"--gres={cards}"),
        *("--ntasks-per-node=1", "--output=/dev/null", "--wrap", "sleep 900"),
    ).stdout.strip()
    until(lambda: site.lab.queue().get(job) == "RUNNING", "the cards to be taken", 240, poll=0.3)
    return job


def list_departures(site: Site, server: str) -> list[str]:
    """Why each job of a server ended that has, by its own word."""
    jobs = read_events(RunDir(site.run_dir)).values()
    events = [event for job in jobs for event in job if event.server == server]
    return [event.reason for event in events if event.event in ("left", "failed")]


def goes_back(site: Site, server: str) -> None:
    until(
        lambda: any("back in the queue" in reason for reason in list_departures(site, server)),
        f"{server} to go back into the queue",
        240,
        poll=0.3,
    )


@pytest.mark.parametrize("late", PARTNERS)
def test_a_server_whose_partner_is_queued_gives_its_cards_back(site: Site, late: str) -> None:
    site.profile["placement"] = "apart"
    taken = take_cards(site, late)
    assert site.sweep(tasks="0-9", cards=1, more=IDLE).returncode == 0
    (early,) = set(PARTNERS) - {late}
    goes_back(site, early)
    # Both wait, and no card is held.
    until(
        lambda: {server["state"] for server in site.status()["servers"]} == {"pending"},
        "both servers to be queued",
        240,
        poll=0.3,
    )
    site.lab.run("scancel", taken)
    ended_by_itself(site)


def test_a_server_whose_partner_was_taken_away_goes_back_with_it_as_one_job(site: Site) -> None:
    site.profile["placement"] = "apart"
    assert site.sweep(tasks="0-9", latency=1000, cards=1, more=IDLE).returncode == 0
    site.wait_for_cell()
    # Written anew, the scripts start pairs.
    site.profile["placement"] = "hetjob"
    assert site.sweep(tasks="0-9", latency=1000, cards=1, more=IDLE, trials=2).returncode == 0
    site.lab.run("scontrol", "update", "nodename=gaudi[1-2]", "state=drain", "reason=test")
    site.lab.run("scontrol", "requeue", site.job("assistant_scripted"))
    goes_back(site, "user")
    assert int(site.job("assistant_scripted")) == int(site.job("user")) + 1
    site.lab.resume_nodes()
    ended_by_itself(site, cells=4)


def test_servers_wait_in_the_queue_for_cells_that_are_held_there(site: Site) -> None:
    site.profile["array"]["sbatch"] = ["--hold"]
    assert site.sweep(tasks="0-9", more="idle_limit_min: 0.3\n").returncode == 0
    for server in PARTNERS:
        goes_back(site, server)
    for job in ("scripted", "cleanup"):
        site.lab.run("scontrol", "release", site.job(job))
    ended_by_itself(site)


def test_both_servers_as_one_job_have_cards_of_their_own(site: Site) -> None:
    site.profile["placement"] = "together"
    site.profile["assistant_server"] = site.profile["user_server"]
    site.profile["client_setup"] = ['echo "its cards: $CUDA_VISIBLE_DEVICES"']
    assert site.sweep(tasks="0-9", latency=3000, cards=1, more=IDLE).returncode == 0
    user, assistant = site.job("user"), site.job("assistant_scripted")
    job = user.removesuffix(".0")
    assert (user, assistant) == (f"{job}.0", f"{job}.1")
    site.wait_for_cell()
    # Its successor is one job as well, whichever of the two submits it.
    site.lab.run("scontrol", "update", f"JobId={job}", "EndTime=now+115")
    until(lambda: site.job("user") != user, "the hand-over", 240, poll=0.3)
    ended_by_itself(site)
    again = site.job("user").removesuffix(".0")
    assert site.job("assistant_scripted") == f"{again}.1"
    logs = site.folder / "logs"
    shown = [
        set(re.findall("its cards: (.*)", (logs / name).read_text()))
        for name in (f"user_vllm_{user}.out", f"assistant_vllm_{assistant}.out")
    ]
    assert shown == [{"0"}, {"1"}]
    cost = site.status()["cost"]
    accounted = site.lab.ask("sacct", "-nPX", "-j", f"{job},{again}", "-o", "ElapsedRaw").split()
    hours = 2 * sum(map(int, accounted)) / 3600
    assert cost["accelerator_hours"] == pytest.approx(hours, rel=0.1)


LONG = pytest.mark.skipif(os.environ.get("EMOBENCH_FULL") != "1", reason="takes minutes")


def list_vain_starts(site: Site) -> list[float]:
    """Seconds that each server which went back into the queue had held its cards without use."""
    vain = []
    for events in read_events(RunDir(site.run_dir)).values():
        used = [event.time for event in events if event.event in ("ready", "busy", "idle")]
        if "back in the queue" in events[-1].reason:
            vain.append(events[-1].time - max(used, default=events[0].time))
    print("held its cards in vain, in seconds:", *(f"{each:.1f}" for each in vain))
    return vain


def use_placement(site: Site, placement: str) -> None:
    """The two servers are on different nodes, but for those that are one job on one."""
    site.profile["placement"] = placement
    if placement == "together":
        site.profile["assistant_server"] = site.profile["user_server"]


@LONG
@pytest.mark.parametrize("minutes", [1, 2, 3])
@pytest.mark.parametrize("late", PARTNERS)
@pytest.mark.parametrize("placement", ["hetjob", "apart"])
def test_a_partner_that_comes_minutes_late(
    site: Site, placement: str, late: str, minutes: int
) -> None:
    use_placement(site, placement)
    taken = take_cards(site, late)
    site.lab.run("scontrol", "update", f"JobId={taken}", f"EndTime=now+{60 * minutes}")
    assert site.sweep(tasks="0-9", cards=1, more=IDLE).returncode == 0
    ended_by_itself(site, seconds=600)
    assert max(list_vain_starts(site), default=0.0) < 6, "a tenth of the idle limit"


@LONG
@pytest.mark.parametrize("placement", ["hetjob", "together", "apart"])
def test_a_partner_that_never_comes_costs_nothing(site: Site, placement: str) -> None:
    use_placement(site, placement)
    taken = take_cards(site, "user" if placement == "together" else "assistant_scripted")
    assert site.sweep(tasks="0-9", cards=1, more=IDLE).returncode == 0
    if placement == "apart":
        goes_back(site, "user")
    time.sleep(90)  # nothing is to happen
    assert {server["state"] for server in site.status()["servers"]} == {"pending"}
    assert max(list_vain_starts(site), default=0.0) < 6
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    site.lab.run("scancel", taken)
    until(lambda: not site.lab.queue(), "an empty queue", 240, poll=0.3)


@LONG
@pytest.mark.parametrize("placement", ["hetjob", "together", "apart"])
def test_cells_that_start_before_their_servers(site: Site, placement: str) -> None:
    use_placement(site, placement)
    drained = "cuda1" if placement == "together" else "gaudi[1-2]"
    site.profile["user_server"]["sbatch"] = ["--nodelist=cuda1"]
    site.profile["array"]["sbatch"] = ["--nodelist=cuda2"]
    site.lab.run("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
    assert site.sweep(tasks="0-9", cards=1, more=IDLE).returncode == 0
    site.lab.run("scontrol", "update", f"JobId={site.job('scripted')}", "Dependency=")
    site.wait_for_cell()
    time.sleep(60)
    site.lab.resume_nodes()
    ended_by_itself(site, seconds=600)


@LONG
@pytest.mark.parametrize("placement", ["hetjob", "together", "apart"])
@pytest.mark.parametrize("drained", ["before", "under way"])
def test_a_node_that_is_drained_between_the_two(site: Site, placement: str, drained: str) -> None:
    use_placement(site, placement)
    nodes = "cuda1" if placement == "together" else "gaudi[1-2]"
    site.profile["user_server"]["sbatch"] = ["--nodelist=cuda1"]
    site.profile["array"]["sbatch"] = ["--nodelist=cuda2"]

    def set_nodes(*change: str) -> None:
        site.lab.run("scontrol", "update", f"nodename={nodes}", *change)

    if drained == "before":
        set_nodes("state=drain", "reason=test")
    assert site.sweep(tasks="0-9", latency=1000, cards=1, more=IDLE).returncode == 0
    if drained == "under way":
        site.wait_for_cell()
        set_nodes("state=down", "reason=test")
    time.sleep(60)
    site.lab.resume_nodes()
    ended_by_itself(site, seconds=600)
    assert max(list_vain_starts(site), default=0.0) < 6


@LONG
@pytest.mark.parametrize("placement", ["hetjob", "together", "apart"])
def test_one_of_the_pair_is_preempted(site: Site, placement: str) -> None:
    use_placement(site, placement)
    site.profile["user_server"]["sbatch"] = ["--nodelist=cuda1"]
    site.profile["array"]["sbatch"] = ["--nodelist=cuda2"]
    assert site.sweep(tasks="0-9", latency=1000, cards=1, more=IDLE).returncode == 0
    site.wait_for_cell()
    command = ["sbatch", "--parsable", "-p", "cuda_high", "-w", "cuda1", "--exclusive"]
    site.lab.run(*command, "-o", "/dev/null", "--wrap", "sleep 60")
    ended_by_itself(site, seconds=600)
    assert max(list_vain_starts(site), default=0.0) < 6


@LONG
@pytest.mark.parametrize("placement", ["hetjob", "together", "apart"])
def test_a_study_of_ten_minutes_in_jobs_of_two(site: Site, placement: str) -> None:
    use_placement(site, placement)
    for job in ("user_server", "assistant_server", "array"):
        site.profile[job]["time"] = "2"
    one_by_one = f"{IDLE}concurrency: 1\n"
    assert site.sweep(tasks="0-9", latency=4000, cards=1, more=one_by_one).returncode == 0
    ended_by_itself(site, seconds=2400)
