"""Commands that are killed, or meet another one, while they submit or cancel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import until

NAMES = ["user", "assistant_scripted", "scripted", "cleanup"]
CALLS = {"hetjob": [NAMES[:2], NAMES[2:3], NAMES[3:]], "apart": [[name] for name in NAMES]}
"""What each call of sbatch submits, by placement."""
SBATCH = """\
#!/bin/bash
# At the nth call the command that called is killed: before Slurm hears of the job, or after.
count=$(($(cat {folder}/count 2>/dev/null || echo 0) + 1))
echo "$count" >{folder}/count
kill_it() {{
  # Its child is `timeout`, ours.
  kill -9 "$(cut -d " " -f 4 "/proc/$PPID/stat")"
}}
if [ "$count {when}" = "{nth} before" ]; then kill_it; exit 1; fi
{sbatch} "$@"
code=$?
if [ "$count {when}" = "{nth} after" ]; then kill_it; fi
exit $code
"""
SLOW = """\
#!/bin/bash
touch {folder}/begun
while [ ! -e {folder}/go ]; do sleep 0.05; done
exec {sbatch} "$@"
"""


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    site = Site(lab, tmp_path)
    # Nothing starts, so that what is in the queue stays there.
    lab.run("scontrol", "update", "nodename=cuda[1-2],gaudi[1-2]", "state=drain", "reason=test")
    return site


def with_sbatch(site: Site, text: str, **values: object) -> dict[str, str]:
    """An environment in which sbatch is this script."""
    folder = site.folder / "bin"
    folder.mkdir(exist_ok=True)
    file = folder / "sbatch"
    sbatch = shutil.which("sbatch", path=site.lab.env["PATH"])
    file.write_text(text.format(folder=folder, sbatch=sbatch, **values))
    file.chmod(0o755)
    return {**site.lab.env, "PATH": f"{folder}:{site.lab.env['PATH']}"}


def start(site: Site, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "emobench.cli", *arguments],
        cwd=site.folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def in_queue(site: Site) -> dict[str, str]:
    """Name by job id, as the comments say."""
    lines = site.lab.ask("squeue", "--noheader", "-o", "%F|%k").splitlines()
    return {line.split("|")[0]: line.split()[3].rstrip(":") for line in lines}


def list_names(placement: str, calls: int) -> list[str]:
    """What this many calls of sbatch have submitted."""
    return [name for call in CALLS[placement][:calls] for name in call]


def recorded(site: Site) -> dict[str, str]:
    jobs = json.loads((site.run_dir / "jobs.json").read_text())["jobs"]
    return {job["job_id"]: job["name"] for job in jobs}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("placement", "nth"), [("hetjob", 1), ("hetjob", 2), ("hetjob", 3), ("apart", 2)]
)
def test_a_sweep_that_is_killed_at_any_job_is_completed_by_the_next_one(
    site: Site, placement: str, nth: int, when: str
) -> None:
    site.profile["placement"] = placement
    assert site.sweep("--dry-run").returncode == 0  # writes the files of the site
    killed = start(site, with_sbatch(site, SBATCH, nth=nth, when=when), "sweep", "tiny.yaml")
    killed.communicate(timeout=240)
    assert killed.returncode == -9
    noted = list_names(placement, nth - 1)
    there = list_names(placement, nth if when == "after" else nth - 1)
    until(lambda: len(in_queue(site)) == len(there), "sbatch to have ended", poll=0.2)
    before = in_queue(site)
    assert Counter(before.values()) == Counter(there)
    known = recorded(site) if (site.run_dir / "jobs.json").exists() else {}
    assert list(known.values()) == noted

    again = site.emobench("sweep", "tiny.yaml")
    assert again.returncode == 0, again.stderr
    after = in_queue(site)
    assert Counter(after.values()) == Counter(NAMES)
    assert before.items() <= after.items(), "nothing was submitted a second time"
    assert after.items() <= recorded(site).items()
    assert again.stdout.count("nobody had recorded it") == len(there) - len(noted)

    cancelled = site.emobench("cancel", "runs/tiny")
    assert cancelled.returncode == 0, cancelled.stderr
    assert in_queue(site) == {}


@pytest.mark.parametrize("nth", [1, 2])
def test_a_cancellation_takes_the_job_that_a_killed_sweep_left(site: Site, nth: int) -> None:
    assert site.sweep("--dry-run").returncode == 0
    killed = start(site, with_sbatch(site, SBATCH, nth=nth, when="after"), "sweep", "tiny.yaml")
    killed.communicate(timeout=240)
    there = list_names("hetjob", nth)
    until(lambda: len(in_queue(site)) == len(there), "sbatch to have ended", poll=0.2)
    cancelled = site.emobench("cancel", "runs/tiny")
    assert cancelled.returncode == 0, cancelled.stderr
    assert in_queue(site) == {}
    assert cancelled.stdout.count(" (") == len(there)


@pytest.mark.parametrize("second", [("sweep", "tiny.yaml"), ("cancel", "runs/tiny")])
def test_a_second_command_waits_for_the_first(site: Site, second: tuple[str, str]) -> None:
    assert site.sweep("--dry-run").returncode == 0
    environment = with_sbatch(site, SLOW)
    first = start(site, environment, "sweep", "tiny.yaml")
    until((site.folder / "bin/begun").exists, "the first command to submit", poll=0.1)
    waiting = start(site, dict(os.environ | site.lab.env), *second)
    assert waiting.stdout is not None
    said = waiting.stdout.readline()
    assert f"waiting for `emobench sweep tiny.yaml` (process {first.pid} on " in said
    assert in_queue(site) == {}
    (site.folder / "bin/go").touch()
    assert first.communicate(timeout=240)[0].count("  job ") == len(NAMES)
    out, error = waiting.communicate(timeout=240)
    assert waiting.returncode == 0, error
    if second[0] == "sweep":
        assert "nothing to submit" in out
        assert Counter(in_queue(site).values()) == Counter(NAMES)
        assert site.emobench("cancel", "runs/tiny").returncode == 0
    assert in_queue(site) == {}


def test_a_dry_run_beside_a_live_run_changes_nothing(site: Site) -> None:
    """Queued jobs took another concurrency, and partitions vanished from the scripts."""
    assert site.sweep(trials=2).returncode == 0

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in site.run_dir.rglob("*") if path.is_file()}

    before, queue = contents(), in_queue(site)
    site.profile["array"]["partition"] = None
    dry = site.sweep("--dry-run", trials=3, more="concurrency: 3\n")
    assert dry.returncode == 0, dry.stderr
    assert 'profile.array.partition: was "cuda", now unset' in dry.stdout
    assert "concurrency: was unset, now 3" in dry.stdout
    assert "would submit array scripted_2: 2 cells (4-5)" in dry.stdout or (
        "would submit array scripted: 2 cells (4-5)" in dry.stdout
    )
    assert "-#SBATCH --partition=cuda" in dry.stdout
    assert contents() == before
    assert in_queue(site) == queue
    assert site.emobench("cancel", "runs/tiny").returncode == 0


def test_a_throttle_and_a_concurrency_arrive_at_a_live_run(site: Site) -> None:
    assert site.sweep(trials=3, more="throttle: 2\nconcurrency: 2\n").returncode == 0
    array = site.job("scripted")

    def throttle() -> str:
        return site.lab.ask("squeue", "--noheader", "-o", "%i", f"--jobs={array}").strip()

    assert throttle() == f"{array}_[0-5%2]"
    scripts = {path: path.read_bytes() for path in (site.run_dir / "scripts").glob("*.s*")}
    changed = site.sweep(trials=3, more="throttle: 5\nconcurrency: 4\nmax_steps: 12\n")
    assert changed.returncode == 0, changed.stderr
    assert throttle() == f"{array}_[0-5%5]"
    said = " ".join(changed.stdout.split())
    assert "changed: throttle: was 2, now 5, for arrays in the queue too" in said
    assert "changed: concurrency: was 2, now 4, in cells that start from now on" in said
    assert "not taken: max_steps: was 30, now 12" in said
    sweep = json.loads((site.run_dir / "plan.json").read_text())["sweep"]
    assert (sweep["throttle"], sweep["concurrency"], sweep["max_steps"]) == (5, 4, 30)
    assert {path: path.read_bytes() for path in scripts} == scripts
    # With nothing left to hold back, Slurm has nothing to update.
    assert site.emobench("cancel", "runs/tiny").returncode == 0
