"""Servers reach their time limit while conversations are under way."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.store.jobs import read_jobs
from tests.cluster.drill import Drill, failed_calls, incarnations
from tests.cluster.lab import Lab
from tests.support.processes import until

SERVERS = ("user", "assistant_scripted")


@pytest.fixture
def drill(lab: Lab, tmp_path: Path) -> Drill:
    site = Drill(lab, tmp_path)
    for role in ("user_server", "assistant_server"):
        # Slurm's warning comes up to a minute early.
        site.profile[role]["sbatch"] = ["--signal=B:USR1@10"]
    site.profile["handover_lead_min"] = 4
    return site


def shorten(drill: Drill, *servers: str, seconds: int) -> None:
    for server in servers:
        drill.lab.run("scontrol", "update", f"jobid={drill.job(server)}", f"EndTime=now+{seconds}")


def bind_to_node(drill: Drill) -> None:
    drill.profile["user_server"]["sbatch"] += ["--nodelist=cuda2"]


def close_node(drill: Drill) -> None:
    """The user's server stays where it is, and no other can start."""
    drill.lab.run("scontrol", "update", "nodename=cuda2", "state=drain", "reason=test")


def test_successors_take_over_and_no_conversation_notices(drill: Drill) -> None:
    # Long enough for the successors to start on a loaded machine, and so many conversations at a
    # time that not all of them are between two calls of a role when its server changes.
    drill.begin(tasks=40, latency=300, concurrency=5)
    before = {server: drill.endpoint(server) for server in SERVERS}
    shorten(drill, *SERVERS, seconds=200)
    until(
        lambda: all(drill.endpoint(s).job_id != before[s].job_id for s in SERVERS),
        "successors to take over",
        poll=0.2,
    )
    after = {server: drill.endpoint(server) for server in SERVERS}
    records = drill.finish()
    assert not any(record["history"] for record in records)
    assert {record["attempt"] for record in records} == {1}
    assert failed_calls(records) == []
    for server, role in zip(SERVERS, ("user", "assistant"), strict=True):
        old, new = before[server].incarnation, after[server].incarnation
        assert list(after[server].follows) == [old]
        seen = [incarnations(record, role) for record in records]
        assert [old, new] in seen, "a conversation in progress went on with the successor"
        assert {each for part in seen for each in part} == {old, new}
        states = drill.states(server)
        assert states == {before[server].job_id: "COMPLETED", after[server].job_id: "COMPLETED"}
        log = Path(drill.folder / "logs" / f"{log_kind(server)}_{before[server].job_id}.out")
        assert f"handed over to job {after[server].job_id}" in log.read_text()
        assert not drill.run.successor(server).exists()
    records_of_jobs = {job.job_id: job for job in read_jobs(drill.run)}
    assert records_of_jobs[after["user"].job_id].takes_over == before["user"].job_id


def test_conversations_wait_for_a_successor_that_is_still_queued(drill: Drill) -> None:
    bind_to_node(drill)
    drill.begin(tasks=16, latency=250)
    before = drill.endpoint("user")
    close_node(drill)
    shorten(drill, "user", seconds=200)
    until(lambda: drill.job("user") != before.job_id, "a successor", poll=0.2)
    row = next(row for row in drill.status()["servers"] if row["name"] == "user")
    assert row["job_id"] == before.job_id
    assert f"job {drill.job('user')} is to take over (PENDING" in row["reason"]
    # Slurm's own warning comes somewhere within a minute.
    drill.lab.run("scancel", "--signal=USR1", "--batch", before.job_id)
    until(lambda: drill.endpoint("user").state == "left", "the server to leave", poll=0.2)
    drill.lab.resume_nodes()
    records = drill.finish()
    assert not any(record["history"] for record in records)
    assert failed_calls(records) == []
    assert [before.incarnation, drill.endpoint("user").incarnation] in [
        incarnations(record, "user") for record in records
    ]


def test_a_warning_that_comes_before_the_lead_loses_no_conversation(drill: Drill) -> None:
    drill.profile["handover_lead_min"] = 0.1
    drill.begin(tasks=16, latency=250)
    before = {server: drill.endpoint(server) for server in SERVERS}
    for server in SERVERS:
        shorten(drill, server, seconds=280)
        drill.lab.run("scancel", "--signal=USR1", "--batch", before[server].job_id)
    records = drill.finish()
    assert not any(record["history"] for record in records)
    assert failed_calls(records) == []
    for server, role in zip(SERVERS, ("user", "assistant"), strict=True):
        chain = [before[server].incarnation, drill.endpoint(server).incarnation]
        assert chain in [incarnations(record, role) for record in records]


def test_a_successor_that_nobody_needs_any_more_is_taken_back(drill: Drill) -> None:
    bind_to_node(drill)
    # Long enough for the successor to be submitted before the last conversation ends.
    drill.begin(tasks=10, latency=400)
    first = drill.job("user")
    close_node(drill)
    shorten(drill, "user", seconds=200)
    until(lambda: drill.job("user") != first, "a successor", poll=0.2)
    second = drill.job("user")
    drill.finish()
    assert drill.states("user") == {first: "COMPLETED", second: "CANCELLED"}


def log_kind(server: str) -> str:
    return "user_vllm" if server == "user" else "assistant_vllm"
