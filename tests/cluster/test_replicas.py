"""Two server jobs for each role: cells are spread over them, and outlive one of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.drill import Drill, incarnations
from tests.cluster.lab import Lab
from tests.support import processes
from tests.support.processes import until


@pytest.fixture
def drill(lab: Lab, tmp_path: Path) -> Drill:
    return Drill(lab, tmp_path)


def test_cells_use_both_and_move_when_one_is_killed(drill: Drill) -> None:
    drill.begin(tasks=10, trials=2, replicas=2)
    rows = {row["name"]: row for row in drill.status()["servers"]}
    assert set(rows) == {"user", "user+2", "assistant_scripted", "assistant_scripted+2"}
    until(
        lambda: all(drill.endpoint(name).state == "ready" for name in rows),
        "all replicas",
        poll=0.2,
    )
    lost = drill.endpoint("user+2")

    def users() -> set[str]:
        return {each for record in drill.records() for each in incarnations(record, "user")}

    both = {drill.endpoint("user").incarnation, lost.incarnation}
    until(lambda: users() == both, "episodes on both replicas", poll=0.2)
    # The node dies as far as its clients can see: supervisor and engine at once, without a word.
    assert processes.has_environment(lost.pid, f"SLURM_JOB_ID={lost.job_id}")
    os.kill(lost.pid, signal.SIGKILL)
    records = drill.finish()
    again = [record for record in records if record["history"]]
    assert again, "conversations were under way on the replica that died"
    for record in again:
        assert all("infra" in entry["error"]["type"] for entry in record["history"])
        assert incarnations(record, "user") == [drill.endpoint("user").incarnation]
    assert {record["reward"] for record in records} == {1.0}


def test_cells_begin_with_the_replica_that_is_there(drill: Drill) -> None:
    # Its first replica alone finds a place.
    drill.profile["assistant_server"]["sbatch"] = ["--nodelist=gaudi1", "--mem=40000M"]
    drill.begin(tasks=4, replicas=2)
    with processes.stopped_cells(drill.run_dir):
        assert drill.endpoint("assistant_scripted").state == "ready"
        status = drill.status()
    second = next(row for row in status["servers"] if row["name"] == "assistant_scripted+2")
    assert second["state"] == "pending"
    records = drill.finish()
    only = [drill.endpoint("assistant_scripted").incarnation]
    assert all(incarnations(record, "assistant") == only for record in records)
