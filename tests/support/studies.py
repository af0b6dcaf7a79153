"""A user's folder with a sweep file, and the command run there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.support.commands import as_process, emobench

SWEEP = """\
name: tiny
engine: scripted
matrix: {{env: retail, variant: {variants}}}
trials: 1
tasks: {tasks}
seed: {seed}
assistants: {{scripted: {{mistakes: {{control: 0.0, anger: 1.0}}, latency_ms: {latency}}}}}
"""


class Study:
    """A folder with a sweep file in it, and the command run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "runs" / "tiny"

    def sweep(self, *options: str, **changes: object) -> subprocess.CompletedProcess[str]:
        values = {"variants": "[control, anger]", "tasks": "[0, 3]", "seed": 1, "latency": 0}
        (self.folder / "tiny.yaml").write_text(SWEEP.format(**{**values, **changes}))
        return self.submit(*options)

    def submit(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Sweep the file as it stands, in a process of its own, which the jobs outlive."""
        return as_process(self.folder, "sweep", "tiny.yaml", *options)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return emobench(self.folder, *arguments)

    def status(self) -> dict[str, Any]:
        result = self.run("status", "runs/tiny", "--json")
        assert result.returncode == 0, result.stderr
        return dict(json.loads(result.stdout))

    def episodes(self) -> list[dict[str, Any]]:
        files = sorted(self.run_dir.glob("cells/*/episodes.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def written(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.run_dir.glob("cells/*/e*.jsonl")}
