"""Two sweeps share servers: neither's end takes them from the other, and nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emobench.core.run_dir import RunDir
from emobench.store.jobs import read_jobs
from tests.cluster.drill import Drill, incarnations
from tests.cluster.lab import Lab
from tests.cluster.site import RELEASE_S, ended_at
from tests.support.processes import stopped_cells, until

SERVERS = ("user", "assistant_scripted")
SWEEP = """\
name: tiny
cluster: site.yaml
engine: scripted
matrix: {{env: retail, variant: [control, anger]}}
trials: 1
tasks: 0-{last}
concurrency: 2
probe: "off"
user: {{latency_ms: 100, reuse: {reuse}}}
assistants: {{scripted: {{latency_ms: 100, reuse: {reuse}}}}}
"""


class Sharing(Drill):
    """A sweep whose run directory lies beside those of the others."""

    def __init__(self, lab: Lab, folder: Path, name: str) -> None:
        (folder / "shared" / name).mkdir(parents=True)
        (folder / name / "runs").mkdir(parents=True)
        (folder / name / "runs" / "tiny").symlink_to(folder / "shared" / name)
        super().__init__(lab, folder / name)
        self.run_dir = folder / "shared" / name

    def submit(self, tasks: int, reuse: bool = True) -> str:
        self.tasks, self.cells = tasks, 2
        (self.folder / "site.yaml").write_text(json.dumps(self.profile))
        text = SWEEP.format(last=tasks - 1, reuse=str(reuse).lower())
        (self.folder / "tiny.yaml").write_text(text)
        done = self.emobench("sweep", "tiny.yaml")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kinds(self) -> list[str]:
        return [job.kind for job in read_jobs(self.run)]

    def complete(self) -> bool:
        return bool(self.status()["finished"])

    def check(self) -> None:
        """Every episode is there, once, and solved at the first attempt."""
        records = self.records()
        assert len(records) == self.cells * self.tasks
        assert {record["outcome"] for record in records} == {"solved"}
        assert not any(record["history"] for record in records)


@pytest.fixture
def first(lab: Lab, tmp_path: Path) -> Sharing:
    return Sharing(lab, tmp_path, "first")


@pytest.fixture
def second(first: Sharing, lab: Lab, tmp_path: Path) -> Sharing:
    return Sharing(lab, tmp_path, "second")


def ready(sweep: Sharing) -> bool:
    return {row["state"] for row in sweep.status()["servers"]} == {"ready"}


def lease_both(first: Sharing, second: Sharing, *, tasks: tuple[int, int]) -> None:
    """Both are under way, on the servers of the first."""
    # No cell starts before both are submitted, however long that takes.
    for sweep in (first, second):
        sweep.profile["array"]["partition"] = "cuda_high"
    first.lab.run("scontrol", "update", "partitionname=cuda_high", "state=down")
    try:
        said = first.submit(tasks[0])
        assert said.count("no running server can be shared") == 2
        until(lambda: ready(first), "the servers", poll=0.3)
        said = second.submit(tasks[1])
        assert said.count(f"leased from {first.run_dir}") == 2, said
        assert second.kinds() == ["array", "cleanup"]
        rows = second.status()["servers"]
        assert {row["leased_from"] for row in rows} == {str(first.run_dir)}
        assert [row["job_id"] for row in rows] == [first.job(name) for name in SERVERS]
    finally:
        first.lab.run("scontrol", "update", "partitionname=cuda_high", "state=up")
    until(lambda: first.records() and second.records(), "episodes of both", poll=0.1)


def left_in_time(first: Sharing, *arrays: str) -> None:
    """The servers have left by themselves, soon after the last cell of both sweeps."""
    servers = [first.job(name) for name in SERVERS]
    ends = first.lab.wait_jobs(*servers, *arrays)
    assert {ends[server] for server in servers} == {"COMPLETED"}
    assert ended_at(first, *servers) - ended_at(first, *arrays) <= RELEASE_S
    until(lambda: not first.lab.queue(), "nothing in the queue", poll=0.3)
    assert not list(RunDir(first.run_dir).endpoints.glob("leases/*/*.json"))


def test_the_owner_ends_first(first: Sharing, second: Sharing) -> None:
    lease_both(first, second, tasks=(8, 20))
    with stopped_cells(second.run_dir):
        first.lab.wait_jobs(first.job("scripted"), first.job("cleanup"))
        assert first.complete()
        assert not second.complete()
    log = first.folder / "logs" / f"cleanup_{first.job('cleanup')}.log"
    assert f"array scripted (job {second.job('scripted')}) of second needs it" in log.read_text()
    text = second.emobench("status", "runs/tiny").stdout
    assert f"leased from {first.run_dir}" in text
    assert f"user_vllm_{first.job('user')}.out" in second.emobench("logs", "runs/tiny").stdout
    left_in_time(first, first.job("scripted"), second.job("scripted"))
    for sweep in (first, second):
        sweep.check()
        assert sweep.complete()
    own = {first.endpoint(name).incarnation for name in SERVERS}
    used = {
        each
        for record in second.records()
        for role in ("user", "assistant")
        for each in incarnations(record, role)
    }
    assert used == own


def test_the_other_sweep_ends_first(first: Sharing, second: Sharing) -> None:
    lease_both(first, second, tasks=(20, 4))
    with stopped_cells(first.run_dir):
        second.lab.wait_jobs(second.job("scripted"), second.job("cleanup"))
        assert second.complete()
        assert not first.complete()
    left_in_time(first, first.job("scripted"), second.job("scripted"))
    for sweep in (first, second):
        sweep.check()
        assert sweep.complete()


def test_cancelling_the_owner_leaves_what_the_other_uses_unless_forced(
    first: Sharing, second: Sharing
) -> None:
    lease_both(first, second, tasks=(24, 24))
    with stopped_cells(second.run_dir):
        cancelled = first.emobench("cancel", "runs/tiny")
    assert cancelled.returncode == 0, cancelled.stderr
    assert cancelled.stdout.count("stays: another sweep uses it: array scripted") == 2
    before = len(second.records())
    until(lambda: len(second.records()) > before + 2, "further episodes", poll=0.1)

    servers = [first.job(name) for name in SERVERS]
    with stopped_cells(second.run_dir):
        forced = first.emobench("cancel", "runs/tiny", "--force")
    assert "user" in forced.stdout and "stays" not in forced.stdout
    # Its own servers are gone for good: the cells end, and the same command goes on.
    second.lab.wait_jobs(second.job("scripted"))
    assert not second.complete()
    again = second.emobench("sweep", "tiny.yaml")
    assert again.returncode == 0, again.stdout + again.stderr
    assert second.kinds().count("server") == 2
    assert not {second.job(name) for name in SERVERS} & set(servers)
    second.finish()


def test_a_lease_outlasts_a_hand_over(first: Sharing, second: Sharing) -> None:
    for role in ("user_server", "assistant_server"):
        # Else the early warning of these short jobs would come with their start.
        first.profile[role]["sbatch"] = ["--signal=B:USR1@3"]
    first.profile["handover_lead_min"] = 0.5
    lease_both(first, second, tasks=(4, 30))
    before = first.endpoint("user")
    first.lab.wait_jobs(first.job("scripted"))
    first.lab.run("scontrol", "update", f"jobid={before.job_id}", "EndTime=now+31")
    until(lambda: first.endpoint("user").job_id != before.job_id, "a successor", poll=0.2)
    assert not second.complete()
    after = first.endpoint("user")
    assert after.leases == before.leases != ()
    left_in_time(first, first.job("scripted"), second.job("scripted"))
    second.check()
    assert [before.incarnation, after.incarnation] in [
        incarnations(record, "user") for record in second.records()
    ]
