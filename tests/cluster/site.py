"""Sweeps on the cluster: a user's folder, the command run there, and what came of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from emobench.config.profile import load_profile
from emobench.core.run_dir import RunDir
from emobench.runs.status import read_status
from tests.cluster.lab import Lab
from tests.support.processes import PATIENCE_S, changed_environment, until

RELEASE_S = 180.0
"""From the last cell to the end of the servers' jobs: some 10 s, a minute on a busy machine.
By the idle limit alone they would stay for an hour."""
SWEEP = """\
name: tiny
cluster: site.yaml
engine: scripted
matrix: {{env: retail, variant: [control, anger]}}
trials: {trials}
tasks: {tasks}
user: {{accelerators: {cards}}}
assistants: {{scripted: {{latency_ms: {latency}, accelerators: {cards}}}}}
"""


class Site:
    """A user's folder on the cluster: a profile, a sweep file, and the command run there."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.run_dir = folder / "runs" / "tiny"
        self.profile: dict[str, Any] = load_profile("lab").model_dump(mode="json")
        del self.profile["name"]

    def sweep(
        self,
        *options: str,
        trials: int = 1,
        tasks: str = "0",
        latency: int | str = 0,
        cards: int = 0,
        more: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Submit the sweep, with `more` lines in its file."""
        (self.folder / "site.yaml").write_text(json.dumps(self.profile))  # JSON is YAML
        text = SWEEP.format(trials=trials, tasks=tasks, latency=latency, cards=cards)
        (self.folder / "tiny.yaml").write_text(text + more)
        return self.emobench("sweep", "tiny.yaml", *options)

    def emobench(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "emobench.cli", *arguments)
        return self.lab.run(*command, cwd=self.folder, timeout=300, check=False)

    def status(self) -> dict[str, Any]:
        """What `emobench status --json` prints. Asked in this process, as tests wait for it: a
        command takes half a second of the processor to start."""
        with changed_environment(self.lab.env), contextlib.chdir(self.folder):
            status = read_status(RunDir(self.run_dir), cost=True)
            return dict(json.loads(json.dumps(status.to_json())))

    def job(self, name: str) -> str:
        """The newest job of a server or an array, or the clean-up job, by name."""
        jobs = json.loads((self.run_dir / "jobs.json").read_text())["jobs"]
        return next(str(job["job_id"]) for job in reversed(jobs) if job["name"] == name)

    def wait_until_ended(self, seconds: float = PATIENCE_S) -> dict[str, Any]:
        until(lambda: not self.lab.queue(), "the sweep's jobs to end", seconds, poll=0.3)
        return self.status()

    def wait_for_cell(self) -> None:
        until(lambda: self.status()["cells"]["running"], "a cell to run", poll=0.3)


def results(run_dir: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What an episode came to, by what it is; all but times, hosts and incarnations."""
    found = {}
    for file in run_dir.glob("cells/*/episodes.jsonl"):
        for line in file.read_text().splitlines():
            e = json.loads(line)
            messages = [(m["role"], m.get("content")) for m in e["traj"]]
            found[e["episode"]] = (e["variant"], e["task_id"], e["reward"], e["outcome"], messages)
    return found


def ended_at(site: Site, *jobs: str) -> float:
    """When the last of these jobs ended, by the controller's clock; whole seconds."""
    ends = []
    for job in jobs:
        shown = site.lab.ask("scontrol", "--oneliner", "show", "job", job)
        ends += [word[8:] for word in shown.split() if word.startswith("EndTime=")]
    return max(datetime.fromisoformat(end).timestamp() for end in ends)
