"""Jobs of a higher partition take the nodes of servers and cells away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.drill import Drill, incarnations
from tests.cluster.lab import Lab
from tests.support.processes import until


@pytest.fixture
def drill(lab: Lab, tmp_path: Path) -> Drill:
    return Drill(lab, tmp_path)


def preempt(drill: Drill, node: str, job: str) -> str:
    """Take the node from `job` for a few seconds; the id of the job that did it."""
    command = ["sbatch", "--parsable", "-p", "cuda_high", "-w", node, "--exclusive"]
    script = ["-o", "/dev/null", "--wrap", "sleep 2"]
    other = drill.lab.run(*command, *script).stdout.strip()
    until(lambda: drill.lab.queue().get(other) != "PENDING", "the preemption", poll=0.1)
    assert restarts(drill, job) or drill.lab.queue()[job] in ("PENDING", "COMPLETING")
    return other


def restarts(drill: Drill, job: str) -> int:
    shown = drill.lab.ask("scontrol", "--oneliner", "show", "job", job)
    return max(int(word[9:]) for word in shown.split() if word.startswith("Restarts="))


@pytest.mark.parametrize("partition", ["cuda", "cuda_grace"])
def test_a_server_comes_back_and_conversations_go_on(drill: Drill, partition: str) -> None:
    # The server alone on the node that is taken; cells and their clean-up stay on the other.
    drill.profile["user_server"].update(partition=partition, sbatch=["--nodelist=cuda2"])
    drill.profile["array"]["sbatch"] = ["--nodelist=cuda1"]
    drill.begin(tasks=10, latency=150)
    before = drill.endpoint("user")
    preempt(drill, "cuda2", before.job_id)
    records = drill.finish()
    after = drill.endpoint("user")
    assert after.job_id == before.job_id
    assert after.incarnation != before.incarnation
    assert restarts(drill, before.job_id) == 1
    assert list(after.follows) == [before.incarnation]
    assert not any(record["history"] for record in records)
    assert [before.incarnation, after.incarnation] in [
        incarnations(record, "user") for record in records
    ]


@pytest.mark.parametrize("partition", ["cuda", "cuda_grace"])
def test_cells_go_on_where_they_were(drill: Drill, partition: str) -> None:
    drill.profile["user_server"]["sbatch"] = ["--nodelist=cuda2"]
    drill.profile["array"].update(partition=partition, sbatch=["--nodelist=cuda1"])
    drill.begin(tasks=10, latency=150)
    array = drill.job("scripted")
    done = {(record["cell"], record["task_id"]) for record in drill.records()}
    preempt(drill, "cuda1", f"{array}_0")
    kept = {(record["cell"], record["task_id"]): record["started"] for record in drill.records()}
    assert done <= set(kept)
    assert len(kept) < drill.cells * drill.tasks, "the cells were under way"
    records = drill.finish()
    assert {restarts(drill, f"{array}_{cell}") for cell in range(drill.cells)} == {1}
    assert all(
        record["started"] == kept[record["cell"], record["task_id"]]
        for record in records
        if (record["cell"], record["task_id"]) in kept
    ), "what was there is not run again"
