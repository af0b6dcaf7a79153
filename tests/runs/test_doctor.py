"""`emobench doctor` without a cluster: packages, folders, set-up lines, and a missing Slurm."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emobench.cli.main import main
from emobench.core.cluster import ClusterProfile, Container
from emobench.core.site_check import Check
from emobench.runs import doctor
from emobench.scheduler.site import check_slurm, count_cards, parse_gres_names
from tests.support.processes import until


def profile(**settings: Any) -> ClusterProfile:
    return ClusterProfile(**{"name": "site", "scheduler": "local", **settings})


def test_this_machine_is_fit_for_a_local_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    states = {check["name"]: check["state"] for check in answer["checks"]}
    assert answer["ok"] and states["benchmark"] == states["run folder"] == "ok"
    assert states["slurm"] == "skipped"
    assert list(tmp_path.iterdir()) == []
    assert main(["doctor"]) == 0
    assert "nothing failed" in capsys.readouterr().out


def test_a_profile_of_slurm_fails_without_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    first, *rest = check_slurm(profile(scheduler="slurm"))
    assert (first.name, first.state) == ("commands", "failed")
    assert "sbatch" in first.message and "login node" in first.hint
    assert [check.state for check in rest] == ["skipped"]
    assert main(["doctor", "--cluster", "nosuch"]) == 2
    assert "no cluster profile 'nosuch'" in capsys.readouterr().err


def test_a_controller_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        (tmp_path / name).write_text("#!/bin/sh\necho first >&2\necho 'no way to it' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(check_slurm(profile(scheduler="slurm")))
    states = [(check.name, check.state) for check in found]
    assert states[0] == ("commands", "ok")
    assert states[1:4] == [("commands", "warning")] * 3  # no sacct, sinfo, srun
    assert states[4:] == [("controller", "failed"), ("slurm", "skipped")]
    assert found[4].message == "no way to it"


def test_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_folder(tmp_path / "not" / "yet", shared=False).state == "ok"
    tmp = doctor.check_folder(Path("/tmp"), shared=True)
    assert (tmp.state, "shared file system" in tmp.hint) == ("warning", True)
    monkeypatch.setattr(doctor, "NODE_FOLDERS", ())
    for kind, state in (("lustre", "ok"), ("nfs4", "ok"), ("xfs", "warning"), ("", "warning")):
        monkeypatch.setattr(doctor, "find_file_system", lambda path, kind=kind: kind)
        assert doctor.check_folder(tmp_path, shared=True).state == state
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    assert "GB left" in doctor.check_folder(tmp_path, shared=False).message


def test_a_folder_that_cannot_be_written() -> None:
    # Not even root makes files in there.
    assert doctor.check_folder(Path("/proc/self"), shared=False).state == "failed"


def test_the_deepest_mount_holds_a_folder() -> None:
    mounts = "\n".join(
        [
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw",
            "2 1 0:5 / /home rw shared:1 - nfs4 server:/home rw",
            r"3 1 0:6 / /a\040b rw - lustre x rw",
            "4 2 0:7 / /home/me/over rw - tmpfs none rw",
            "5 2 0:8 / /home/me/over rw - gpfs none rw",
        ]
    )
    for path, kind in (
        ("/etc", "ext4"),
        ("/home/me", "nfs4"),
        ("/homework", "ext4"),
        ("/a b/c", "lustre"),
        ("/home/me/over/x", "gpfs"),
    ):
        assert doctor.find_file_system(Path(path), mounts) == kind
    assert doctor.find_file_system(Path("/proc"))


def states(checks: Any) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_server_setup_that_works(tmp_path: Path) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\necho 'INFO loading' \necho 0.33.0\n")
    vllm.chmod(0o755)
    lines = (f"export PATH={tmp_path}:$PATH", "if true; then", "  [ -n '' ] && false", "fi", "true")
    found = states(doctor.check_server_setup(profile(accelerator="cuda", server_setup=lines)))
    assert found["vllm"] == Check("vllm", "ok", "0.33.0")
    assert found["server_setup"].state == "ok"


def test_a_set_up_line_that_fails_is_quoted() -> None:
    lines = ("true", "source /no/such/activate", "true")
    found = states(doctor.check_server_setup(profile(accelerator="cuda", server_setup=lines)))
    assert found["server_setup"].state == "warning"
    assert "`source /no/such/activate` failed here" in found["server_setup"].message
    assert "No such file" in found["server_setup"].message
    assert found["vllm"].state == "warning"


def test_set_up_lines_that_hang_are_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SETUP_TIMEOUT_S", 0.5)
    for lines in (
        (f"echo $$ >{tmp_path}/pid", "sleep 600"),
        # It would hold our pipe for as long as it lives.
        (f"sleep 600 & echo $! >{tmp_path}/pid",),
    ):
        (check,) = doctor.check_server_setup(profile(server_setup=lines))
        assert (check.name, check.state) == ("server_setup", "warning")
        process = Path("/proc", (tmp_path / "pid").read_text().strip())
        until(partial(_is_gone, process), "it to be gone")
    assert doctor.check_client(profile(client_setup=("sleep 600",))).state == "failed"


def _is_gone(process: Path) -> bool:
    return not process.exists()


def test_the_interpreter_on_the_nodes(tmp_path: Path) -> None:
    assert doctor.check_client(profile()).state == "ok"
    other = tmp_path / "a 'b' python"
    other.write_text("#!/bin/sh\necho welcome\necho 'emobench-doctor: 0.0.1'\n")
    other.chmod(0o755)
    check = doctor.check_client(profile(python=str(other)))
    assert (check.state, "has emobench 0.0.1" in check.message) == ("failed", True)
    other.write_text("#!/bin/sh\necho \"No module named 'emobench'\" >&2\nexit 1\n")
    assert "No module named" in doctor.check_client(profile(python=str(other))).message


def test_a_container_whose_runtime_or_image_is_missing() -> None:
    container = Container(runtime="enroot", image="/no/such.sqsh")
    found = states(doctor.check_server_setup(profile(accelerator="cuda", container=container)))
    assert found["container.image"].state == "warning"
    assert "vllm" not in found


def test_litellm_that_drops_tools_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "1.106.2")
    found = states(doctor.check_versions())
    assert found["litellm"].state == "failed"
    assert "!=1.106" in found["litellm"].hint


@pytest.mark.parametrize(
    ("listed", "wanted", "count"),
    [
        ("gpu:h100:2(S:0-1)", "gpu:h100", 2),
        ("gpu:h100:2,gpu:a100:4", "gpu", 6),
        ("gpu:4", "gpu", 4),
        ("hpu:gaudi2:8(S:0-1),gpu:h100:1", "hpu", 8),
        ("gpu:h100:2", "gpu:h1", 0),
        ("gpu:hl225:8", "hpu", 0),
        ("(null)", "gpu", 0),
    ],
)
def test_cards_of_a_gres(listed: str, wanted: str, count: int) -> None:
    assert count_cards(listed, wanted) == count
    assert all(count_cards(listed, name) for name in parse_gres_names(listed))


def vllm_of(folder: Path, version: str, plugin: str = "", **settings: Any) -> Any:
    """What is said of a site whose vLLM, and whose plugin for Gaudi, have these versions."""
    for name, text in (("vllm", version), ("python3", plugin)):
        (folder / name).write_text(f"#!/bin/sh\necho {text}\n")
        (folder / name).chmod(0o755)
    setup = (f"export PATH={folder}:$PATH",)
    values = {"accelerator": "cuda", "server_setup": setup, **settings}
    return states(doctor.check_server_setup(profile(**values)))


@pytest.mark.parametrize(
    ("version", "settings", "state", "said"),
    [
        ("0.9.0", {}, "ok", "0.9.0"),
        ("0.8.5.post1", {}, "failed", "older than 0.9.0"),
        ("0.10.2", {"accelerator": "gaudi"}, "failed", "older than 0.11.2"),
        ("0.11.2+gaudi", {"accelerator": "gaudi"}, "ok", "0.11.2"),
        ("0.33.0", {"vllm_version": "0.11.2"}, "warning", "vllm_version says 0.11.2"),
        ("dev", {}, "ok", "dev"),
    ],
)
def test_the_oldest_vllm_that_works(
    tmp_path: Path, version: str, settings: dict[str, Any], state: str, said: str
) -> None:
    found = vllm_of(tmp_path, version, **settings)["vllm"]
    assert (found.state, said in found.message) == (state, True)
    assert found.hint or state == "ok"


def test_gaudis_plugin_is_of_its_vllms_release(tmp_path: Path) -> None:
    def plugin(version: str) -> Check:
        found: Check = vllm_of(tmp_path, "0.19.1", version, accelerator="gaudi")["vllm-gaudi"]
        return found

    assert plugin("0.19.0.post1").state == "ok"
    assert plugin("0.17.1").state == plugin("").state == "warning"


def test_a_version_that_only_the_profile_knows(tmp_path: Path) -> None:
    setup = ("PATH=/nonexistent",)
    for version, state in (("0.8.0", "failed"), ("0.11.2", "ok")):
        site = profile(accelerator="cuda", server_setup=setup, vllm_version=version)
        assert states(doctor.check_server_setup(site))["vllm_version"].state == state
