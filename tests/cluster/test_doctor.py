"""`emobench doctor` on a real cluster: a profile that fits, and every way of not fitting it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from emobench.config.profile import load_profile
from tests.cluster.lab import Lab


@pytest.fixture
def profile() -> dict[str, Any]:
    """The lab's profile with a short set-up, to be changed."""
    data: dict[str, Any] = load_profile("lab").model_dump(mode="json")
    del data["name"]
    return data


def doctor(
    lab: Lab, folder: Path, profile: dict[str, Any]
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the worst check of each name."""
    (folder / "site.yaml").write_text(json.dumps(profile))  # JSON is YAML
    command = (
        sys.executable,
        "-m",
        "emobench.cli",
        "doctor",
        "--cluster",
        "site.yaml",
        "--json",
    )
    done = lab.run(*command, cwd=folder, check=False, timeout=240)
    assert not done.stderr, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is (done.returncode == 0)
    order = ["ok", "skipped", "warning", "failed"]
    checks = sorted(answer["checks"], key=lambda check: order.index(check["state"]))
    return done.returncode, {check["name"]: check for check in checks}


def test_a_profile_that_fits(lab: Lab, tmp_path: Path, profile: dict[str, Any]) -> None:
    code, checks = doctor(lab, tmp_path, profile)
    assert code == 0
    assert [name for name, check in checks.items() if check["state"] == "failed"] == []
    for name, said in (
        ("controller", "lab, Slurm 2"),
        ("max_array_size", "1001"),
        ("user_server.partition", "cuda"),
        ("user_server.gres", "gpu:h100, up to 2 on a node"),
        ("assistant_server.gres", "hpu:gaudi2, up to 2"),
        ("array.time", "10 of UNLIMITED"),
        ("array: sbatch", "would take the job"),
        ("assistant_server: sbatch", "would take the job (with one card)"),
    ):
        assert (checks[name]["state"], said in checks[name]["message"]) == ("ok", True), name
    # pytest's folder is below /tmp.
    assert checks["run folder"]["state"] == "warning"
    assert lab.queue() == {}


@pytest.mark.parametrize(
    ("job", "key", "value", "name", "said", "hint"),
    [
        ("user_server", "partition", "cudaa", "partition", "no partition cudaa", "mean 'cuda'?"),
        ("assistant_server", "gres", "hpu:gaudi3", "gres", "no node of gaudi", "hpu:gaudi2"),
        ("user_server", "gres", "hpu", "gres", "no node of cuda has hpu", "gpu:h100"),
        ("array", "account", "physics", "account", "physics is none of yours", "You have: "),
        ("array", "qos", "express", "qos", "express is none of yours", "normal"),
        ("array", "time", "1-00:00:00", "time", "ends jobs after 00:30:00", "00:30:00 or less"),
        ("user_server", "mem", "900G", ": sbatch", "onfiguration", "check cpus, mem and gres"),
        ("user_server", "constraint", "a100", ": sbatch", "feature", "sbatch --test-only"),
    ],
)
def test_what_does_not_fit_is_named_with_what_to_do(
    job: str,
    key: str,
    value: str,
    name: str,
    said: str,
    hint: str,
    lab: Lab,
    tmp_path: Path,
    profile: dict[str, Any],
) -> None:
    profile[job][key] = value
    if key == "time":
        lab.run("scontrol", "update", "partitionname=cuda", "maxtime=30")
    try:
        code, checks = doctor(lab, tmp_path, profile)
    finally:
        lab.run("scontrol", "update", "partitionname=cuda", "maxtime=UNLIMITED")
    assert code == 1
    check = checks[f"{job}{name}" if name.startswith(":") else f"{job}.{name}"]
    assert check["state"] == "failed"
    assert said in check["message"]
    assert hint in check["hint"]
    failed = [name for name, check in checks.items() if check["state"] == "failed"]
    assert failed == [check["name"]]


def test_a_partition_that_is_down_and_an_array_that_is_too_large(
    lab: Lab, tmp_path: Path, profile: dict[str, Any]
) -> None:
    profile["max_array_size"] = 5000
    lab.run("scontrol", "update", "partitionname=gaudi", "state=down")
    try:
        code, checks = doctor(lab, tmp_path, profile)
    finally:
        lab.run("scontrol", "update", "partitionname=gaudi", "state=up")
    assert code == 1
    assert checks["assistant_server.partition"]["message"] == "gaudi is DOWN"
    assert "the site's is 1001" in checks["max_array_size"]["message"]
    assert checks["user_server: sbatch"]["state"] == "ok"


def test_a_profile_that_init_writes_fits(lab: Lab, tmp_path: Path) -> None:
    """By what a real Slurm says of itself; only the set-up lines are left to write."""
    lab.run(sys.executable, "-m", "emobench.cli", "init", cwd=tmp_path, timeout=240)
    written = load_profile("my-site.yaml", base=tmp_path)
    assert (written.user_server.partition, written.user_server.gres) == ("cuda", "gpu:h100")
    code, checks = doctor(lab, tmp_path, written.model_dump(mode="json"))
    assert code == 0, [check for check in checks.values() if check["state"] == "failed"]
