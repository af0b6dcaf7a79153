"""A sweep of 10,000 cells: time and memory from the file to the scripts, and the sbatch calls.

The peer is the least that any generator has to do: one product loop that writes a JSON line for
each cell.
"""

from __future__ import annotations

import itertools
import json
import math
import resource
import tempfile
import time
from pathlib import Path

SWEEP = """
name: scale
cluster: {profile}
engine: scripted
matrix:
  env: [retail, airline]
  agent_strategy: [tool-calling, react]
  variant: [control, placebo, frustration, anxiety, anger]
assistants: {assistants}
trials: 100
"""
PROFILE = "name: scale\nscheduler: slurm\nmax_array_size: 1001\n"
ASSISTANTS = [f"lab/model-{letter}" for letter in "abcde"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder))


def _measure(folder: Path) -> None:
    from emobench.runs.planning import read_inputs
    from emobench.runs.submission import write_scripts

    profile = folder / "site.yaml"
    profile.write_text(PROFILE)
    file = folder / "scale.yaml"
    file.write_text(SWEEP.format(profile=profile, assistants=ASSISTANTS))
    started = time.perf_counter()
    inputs = read_inputs(file, run_dir=folder / "run")
    run_dir, plan = inputs.run_dir, inputs.plan()
    expanded = time.perf_counter()
    scripts = write_scripts(plan, run_dir)
    rendered = time.perf_counter()
    peer = _peer(folder / "peer.jsonl")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = plan.profile.max_array_size or 1001
    per_array = len(plan.cells) / len(ASSISTANTS)
    calls = len(plan.blocks)
    print(f"expand and render {len(plan.cells)} cells ({len(scripts)} scripts):")
    print(f"  load, check, expand   {expanded - started:6.2f} s")
    print(f"  render and write      {rendered - expanded:6.2f} s")
    print(f"  peak memory           {peak:6.0f} MB")
    print(f"  against a bare loop   {(rendered - started) / peer:6.1f} times its {peer:.3f} s")
    print(
        f"  sbatch calls          {calls:6d} for arrays "
        f"(ceil({per_array:.0f} / {size}) = {math.ceil(per_array / size)} for each of "
        f"{len(ASSISTANTS)}), {1 + len(ASSISTANTS)} for servers"
    )


def _peer(path: Path) -> float:
    started = time.perf_counter()
    axes = [
        ASSISTANTS,
        ["retail", "airline"],
        ["tool-calling", "react"],
        range(1, 101),
        ["control", "placebo", "frustration", "anxiety", "anger"],
    ]
    with path.open("w") as stream:
        for number, values in enumerate(itertools.product(*axes)):
            tasks = list(range(115 if values[1] == "retail" else 50))
            stream.write(json.dumps({"number": number, "key": values, "tasks": tasks}) + "\n")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
