"""The commands at a site whose Slurm answers what a test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.slurm_commands import SlurmCommands
from tests.support.studies import Study

SITE = "scheduler: slurm\nmax_array_size: 100\nplacement: apart\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    return slurm


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "site.yaml").write_text(SITE)
    return Study(tmp_path)


def test_the_same_command_again_says_what_is_held_and_how_to_release_it(
    slurm: SlurmCommands, study: Study
) -> None:
    first = study.sweep("--cluster", "site.yaml")
    assert first.returncode == 0, first.stderr
    assert "held" not in first.stdout
    slurm.say(
        "squeue", "101|PENDING|JobHeldUser|", "102|RUNNING||n1", "103_[0-1]|PENDING|Dependency|"
    )
    told = "job 101 is held: scontrol release 101 lets it start (user: JobHeldUser)"
    again = study.sweep("--cluster", "site.yaml")
    assert "nothing to submit" in again.stdout and told in again.stdout
    as_json = study.sweep("--cluster", "site.yaml", "--json")
    assert json.loads(as_json.stdout)["held"][0]["command"] == "scontrol release 101"
    assert told in study.run("status").stdout
    assert study.status()["held"][0]["job_id"] == "101"
