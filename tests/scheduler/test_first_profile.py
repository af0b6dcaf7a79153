"""`emobench init`: what Slurm says of a site becomes a profile that loads; sweeps to begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.config.load import load_sweep
from emobench.config.profile import load_profile, read_profile
from emobench.config.templates import find_shipped_templates
from emobench.core.cluster import ClusterProfile
from emobench.scheduler.first_profile import write_profile
from emobench.scheduler.limits import Accounting, Association
from emobench.scheduler.site import Nodes, Site

UP = {"State": "UP", "Default": "NO", "MaxTime": "UNLIMITED"}


def profile_of(folder: Path, site: Site) -> tuple[ClusterProfile, str]:
    text = write_profile(site, [find_shipped_templates()])
    (folder / "site.yaml").write_text(text)
    return read_profile(folder / "site.yaml"), text


def test_a_cuda_site(tmp_path: Path) -> None:
    site = Site(
        config={"ClusterName": "sol: a", "SLURM_VERSION": "23.11"},
        partitions={
            "down": UP | {"State": "DOWN"},
            "general": UP | {"Default": "YES", "MaxTime": "02:00:00"},
            "htc": UP,
            "big": UP,
            "gpu": UP | {"MaxTime": "12:00:00"},
        },
        nodes={
            "down": [Nodes("gpu:b200:8", 128, 2_000_000)],
            "general": [Nodes("(null)", 64, 256_000)],
            "htc": [Nodes("license:3", 64, 256_000)],
            "big": [Nodes("gpu:a100:2(S:0-1)", 64, 512_000)],
            "gpu": [Nodes("gpu:h100:8(S:0-1),shard:32", 16, 400_000)],
        },
        accounting=Accounting([Association("lab")]),
    )
    profile, text = profile_of(tmp_path, site)
    assert (profile.accelerator, profile.description) == ("cuda", "sol: a")
    server = profile.user_server
    assert profile.assistant_server == server
    assert (server.partition, server.gres, server.account) == ("gpu", "gpu:h100", "lab")
    # What one of eight cards may have of its node.
    assert (server.cpus, server.mem, server.time) == (2, "48G", "12:00:00")
    assert (profile.array.partition, profile.array.time) == ("general", "02:00:00")
    assert "# or big (gpu:a100, 2 on a node)" in text and "# or htc" in text
    assert "b200" not in text


def test_a_gaudi_site_with_nothing_else(tmp_path: Path) -> None:
    site = Site(
        partitions={"gaudi": UP | {"Default": "YES"}},
        nodes={"gaudi": [Nodes("gpu:hl225:8", 152, 1_000_000)]},
        accounting=Accounting([Association("a"), Association("b")]),
    )
    profile, text = profile_of(tmp_path, site)
    assert profile.accelerator == "gaudi"
    assert profile.server_env["PT_HPU_LAZY_MODE"] == "1"
    assert (profile.user_server.account, profile.array.partition) == (None, "gaudi")
    assert "# account: one of a, b" in text and "take a CPU partition" in text


def test_a_site_that_says_nothing(tmp_path: Path) -> None:
    profile, _ = profile_of(tmp_path, Site())
    assert (profile.accelerator, profile.user_server.partition) == ("none", None)


def test_without_slurm_there_are_sweeps_to_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["init", "new"]) == 0
    out = capsys.readouterr().out
    assert "no Slurm answers here" in out
    assert "cd new && emobench sweep quickstart.yaml --wait" in out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "openai-api.yaml",
        "quickstart.yaml",
    ]
    before = (tmp_path / "new" / "quickstart.yaml").read_text()
    (tmp_path / "new" / "openai-api.yaml").unlink()
    assert main(["init", "new"]) == 2
    assert "quickstart.yaml is in" in capsys.readouterr().err
    assert not (tmp_path / "new" / "openai-api.yaml").exists()
    assert (tmp_path / "new" / "quickstart.yaml").read_text() == before


SLURM = {
    "scontrol": """case "$*" in *config*) echo "ClusterName = here";;
      *) echo "PartitionName=gpu Default=YES State=UP MaxTime=UNLIMITED";; esac""",
    "sinfo": "echo 'gpu|16|64000|gpu:h100:2'",
}


def test_with_slurm_there_is_a_profile_and_a_study_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
        (programs / name).write_text(f"#!/bin/sh\n{SLURM.get(name, 'true')}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert "emobench doctor --cluster my-site.yaml" in capsys.readouterr().out
    sweep = load_sweep(tmp_path / "emotions.yaml")
    assert (sweep.name, sweep.cluster) == ("emotions", str(tmp_path / "my-site.yaml"))
    profile = load_profile(sweep.cluster, base=tmp_path)
    assert (profile.user_server.gres, profile.user_server.mem) == ("gpu:h100", "31G")
    assert main(["sweep", "emotions.yaml", "--dry-run", "--out", "out"]) == 0
