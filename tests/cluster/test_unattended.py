"""A sweep that finishes by itself, in whatever order Slurm starts and ends its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path)


def ended_by_itself(site: Site, cells: int = 2) -> None:
    """Every cell is done, no episode is there twice, and none is missing."""
    status = site.wait_until_ended()
    assert status["cells"]["done"] == cells, status["cells"]
    for number in range(cells):
        lines = (site.run_dir / "cells" / str(number) / "episodes.jsonl").read_text().splitlines()
        assert len(lines) == 10, number


def test_a_cell_that_meets_its_time_limit_goes_on_by_itself(site: Site) -> None:
    assert site.sweep(tasks="0-9", latency=2000).returncode == 0
    until(lambda: site.status()["cells"]["running"] == 2, "both cells to run", 240, poll=0.3)
    tasks = [f"{site.job('scripted')}_{index}" for index in (0, 1)]
    for task in tasks:
        site.lab.run("scontrol", "update", f"JobId={task}", "EndTime=now+90")
    until(lambda: _restarts(site, tasks) == [1, 1], "both to be queued again", 240, poll=0.3)
    ended_by_itself(site)


def _restarts(site: Site, tasks: list[str]) -> list[int]:
    shown = [site.lab.ask("scontrol", "--oneliner", "show", "job", task) for task in tasks]
    return [int(text.partition(" Restarts=")[2].split()[0]) for text in shown]
