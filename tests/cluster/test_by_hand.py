"""A run that is submitted by hand with the lines that `emobench sbatch` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path)


def prepare(site: Site, **options: int | str) -> None:
    """Write the scripts and submit the printed lines, as a person would."""
    assert site.sweep("--no-submit", **options).returncode == 0  # type: ignore[arg-type]
    printed = site.emobench("sbatch", "runs/tiny")
    assert printed.returncode == 0, printed.stderr
    (site.folder / "lines.sh").write_text(printed.stdout)
    site.lab.run("bash", "-e", "lines.sh", cwd=site.folder)


def submit_servers(site: Site) -> None:
    """Submit the printed lines that start servers, and no others."""
    lines = site.emobench("sbatch", "runs/tiny").stdout.splitlines()
    servers = [line for line in lines if "tau_array" not in line and "cleanup" not in line]
    assert len(servers) == (2 if site.profile["placement"] == "apart" else 1)
    (site.folder / "servers.sh").write_text("\n".join(servers) + "\n")
    site.lab.run("bash", "-e", "servers.sh", cwd=site.folder)


def test_the_printed_lines_run_a_sweep_to_its_end(site: Site) -> None:
    prepare(site)
    until(lambda: site.status()["finished"], "the sweep to finish", poll=0.5)
    assert site.emobench("sbatch", "runs/tiny").stdout == ""
    # A command that finds a server in the queue would record it.
    until(lambda: not site.lab.queue(), "the servers to leave", poll=0.5)
    assert "nothing to submit" in site.emobench("sweep", "tiny.yaml").stdout
    assert not (site.run_dir / "jobs.json").exists()


def test_jobs_by_hand_are_shown_not_doubled_and_cancelled(site: Site) -> None:
    prepare(site, tasks="0-9", latency=4000)
    until(lambda: site.status()["cells"]["running"] == 2, "both cells to run", poll=0.5)

    def servers_are_ready() -> bool:
        return {server["state"] for server in site.status()["servers"]} == {"ready"}

    until(servers_are_ready, "the servers to be ready", poll=0.5)
    assert site.status()["live"]
    assert site.emobench("sbatch", "runs/tiny").stdout == ""
    before = set(site.lab.queue())
    again = site.emobench("sweep", "tiny.yaml", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["submitted_cells"] == 0
    assert set(site.lab.queue()) == before
    cancelled = site.emobench("cancel", "runs/tiny")
    assert "cancelled: user" in cancelled.stdout
    until(lambda: not site.lab.queue(), "the queue to be empty", poll=0.5)


def test_single_cells_by_index_and_by_values(site: Site) -> None:
    site.profile["placement"] = "apart"
    assert site.sweep("--no-submit", trials=2).returncode == 0
    submit_servers(site)
    script = "runs/tiny/scripts/tau_array_scripted.sbatch"
    site.lab.run("sbatch", "--array=3", script, cwd=site.folder)
    # As people write it: the header's whole array, of which the first task is enough.
    values = ("retail", "tool-calling", "scripted", "1", "anger")
    by_values = site.lab.run("sbatch", "--parsable", script, *values, cwd=site.folder)
    summaries = [site.run_dir / "cells" / str(cell) / "variant_summary.json" for cell in (1, 3)]

    def done() -> bool:
        return all(
            file.exists() and json.loads(file.read_text())["status"] == "done" for file in summaries
        )

    until(done, "both cells to be done", poll=0.5)
    # Its comment no longer says that it runs the cell of its index.
    shown = site.lab.ask("scontrol", "show", "job", f"{by_values.stdout.strip()}_0")
    assert " cell scripted: tiny, one cell by hand" in shown
    status = site.status()
    assert status["cells"]["done"] == 2, status["cells"]
    site.emobench("cancel", "runs/tiny")


def test_a_cell_by_its_values_is_not_doubled_and_is_cancelled(site: Site) -> None:
    assert site.sweep("--no-submit", tasks="0-5", latency=4000).returncode == 0
    submit_servers(site)
    script = "runs/tiny/scripts/tau_array_scripted.sbatch"
    values = ("retail", "tool-calling", "scripted", "1", "anger")
    by_values = site.lab.run("sbatch", "--parsable", script, *values, cwd=site.folder)
    until(lambda: site.status()["cells"]["running"] == 1, "the cell to run", 240, poll=0.5)
    assert "--array=0%4 " in site.emobench("sbatch", "runs/tiny").stdout
    outcome = json.loads(site.emobench("sweep", "tiny.yaml", "--json").stdout)
    assert (outcome["submitted_cells"], outcome["live_cells"]) == (1, 1)
    cancelled = site.emobench("cancel", "runs/tiny")
    assert f"scripted ({by_values.stdout.strip()})" in cancelled.stdout
    until(lambda: not site.lab.queue(), "the queue to be empty", 240, poll=0.5)
    assert site.status()["cells"]["cancelled"] == 2
