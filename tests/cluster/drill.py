"""A sweep with a steady load on the cluster, long enough to take its servers away meanwhile."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import Any

from emobench.core.run_dir import RunDir
from emobench.store.endpoints import Endpoint, read_endpoint
from emobench.store.jobs import read_jobs
from tests.cluster.site import Site
from tests.support.processes import until

SWEEP = """\
name: tiny
cluster: site.yaml
engine: scripted
matrix: {{env: retail, variant: [control, anger]}}
trials: {trials}
tasks: 0-{last}
concurrency: {concurrency}
probe: "off"
timeout_s: 20
user: {{latency_ms: {latency}, replicas: {replicas}}}
assistants: {{scripted: {{latency_ms: {latency}, replicas: {replicas}}}}}
"""


class Drill(Site):
    """A run whose records tell what became of each conversation."""

    tasks = 0
    cells = 0

    def begin(
        self,
        *,
        tasks: int = 8,
        trials: int = 1,
        latency: int = 100,
        replicas: int = 1,
        concurrency: int = 2,
    ) -> subprocess.CompletedProcess[str]:
        """Submit it, and return once conversations are under way."""
        self.write(tasks, trials, latency, replicas, concurrency)
        done = self.emobench("sweep", "tiny.yaml")
        assert done.returncode == 0, done.stderr
        until(self.records, "the first episodes", poll=0.2)
        return done

    def write(
        self,
        tasks: int,
        trials: int = 1,
        latency: int = 100,
        replicas: int = 1,
        concurrency: int = 2,
    ) -> None:
        """The profile and the sweep file."""
        self.tasks, self.cells = tasks, 2 * trials
        (self.folder / "site.yaml").write_text(json.dumps(self.profile))
        text = SWEEP.format(
            trials=trials,
            last=tasks - 1,
            latency=latency,
            replicas=replicas,
            concurrency=concurrency,
        )
        (self.folder / "tiny.yaml").write_text(text)

    @property
    def run(self) -> RunDir:
        return RunDir(self.run_dir)

    def endpoint(self, instance: str) -> Endpoint:
        found = read_endpoint(self.run, instance)
        assert found is not None
        return found

    def records(self) -> list[dict[str, Any]]:
        """Every line of every cell that is whole by now."""
        return [
            json.loads(line)
            for file in self.run_dir.glob("cells/*/episodes.jsonl")
            for line in file.read_bytes().splitlines(keepends=True)
            if line.endswith(b"\n")
        ]

    def finish(self) -> list[dict[str, Any]]:
        """Wait for the end; every episode is there, once, and nobody is left in the queue."""
        try:
            until(lambda: not self.lab.queue(), "the sweep's jobs to end", poll=0.3)
        except TimeoutError as error:
            ends = [f.name + ": " + f.read_text()[-300:] for f in self.folder.glob("logs/*")]
            queue = self.lab.ask("squeue", "-o", "%i %j %T %r %N")
            raise AssertionError("\n".join([str(error), queue, *ends])) from None
        records = self.records()
        good = [record for record in records if record["outcome"] != "infra_error"]
        wanted = {(cell, task): 1 for cell in range(self.cells) for task in range(self.tasks)}
        assert Counter((record["cell"], record["task_id"]) for record in good) == wanted
        assert {record["outcome"] for record in good} == {"solved"}
        assert self.status()["finished"], self.status()
        return records

    def states(self, *names: str) -> dict[str, str]:
        """The controller's state of every job of these servers, by job id."""
        ids = [job.job_id for job in read_jobs(self.run) if job.name in names]
        return self.lab.wait_jobs(*ids)


def incarnations(record: dict[str, Any], role: str) -> list[str]:
    """Who answered the calls of a role, in order and without repeats."""
    return list(dict.fromkeys(c["incarnation"] for c in record["calls"] if c["role"] == role))


def failed_calls(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for record in records for call in record["calls"] if "error" in call]
