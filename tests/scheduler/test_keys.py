"""Keys of hosted endpoints do not reach Slurm, which keeps what sbatch exports: a file has them."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from emobench.core.errors import InvalidInput
from emobench.core.gates import JudgeSettings
from emobench.core.models import OpenAIModel
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.runs.submission import check_keys, submit, write_scripts
from emobench.scheduler import local
from emobench.scheduler.sbatch_lines import format_sbatch_lines
from emobench.scheduler.slurm import SlurmScheduler
from emobench.store.hosted_keys import find_hosted_key
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.slurm_commands import SlurmCommands

KEYS = {"FIRST_KEY": "sk-first-0123456789", "SECOND_KEY": "sk-second-0123456789"}
JUDGE_KEY = {"JUDGE_KEY": "sk-judge-0123456789"}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    """Commands whose sbatch notes the environment that it would hand on."""
    slurm = SlurmCommands(tmp_path / "slurm")
    slurm.answer("sbatch", "env >> exported; echo 'Submitted batch job 1'")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    for name, key in {**KEYS, **JUDGE_KEY, "OTHER": "travels"}.items():
        monkeypatch.setenv(name, key)
    return slurm


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        CUDA,
        tmp_path / "logs",
        scripted(),
        {
            "a": OpenAIModel(model="a", api_key_env="FIRST_KEY"),
            "b": OpenAIModel(model="b", base_url="https://b.example/v1", api_key_env="SECOND_KEY"),
        },
        judge=JudgeSettings(model="j", base_url="https://j.example/v1", api_key_env="JUDGE_KEY"),
    )


def test_sbatch_exports_no_key_and_all_else(
    slurm: SlurmCommands, plan: Plan, tmp_path: Path
) -> None:
    run_dir = RunDir(tmp_path / "run")
    submitted = submit(plan, run_dir).submitted
    exported = (slurm.folder / "exported").read_text()
    assert exported.count("OTHER=travels") == len(submitted) >= 3
    assert not [name for name in {**KEYS, **JUDGE_KEY} if name in exported]
    assert not [key for key in {**KEYS, **JUDGE_KEY}.values() if key in exported]
    assert stat.S_IMODE(run_dir.hosted_keys.stat().st_mode) == 0o600
    assert json.loads(run_dir.hosted_keys.read_text()) == KEYS
    held = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in held if KEYS["FIRST_KEY"].encode() in path.read_bytes()] == [
        run_dir.hosted_keys
    ]


def test_a_successor_is_given_no_key(slurm: SlurmCommands, plan: Plan, tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    write_scripts(plan, run_dir)
    SlurmScheduler().submit_successors(run_dir, {"user": "7"})
    exported = (slurm.folder / "exported").read_text()
    assert "OTHER=travels" in exported and "_KEY=" not in exported


def test_the_lines_for_people_hand_on_no_key(
    slurm: SlurmCommands, plan: Plan, tmp_path: Path
) -> None:
    lines = list(format_sbatch_lines(plan, tmp_path, {"a": [0, 1]}, ["user"], [], {}))
    assert lines
    (tmp_path / "user_vllm.sbatch").touch()
    subprocess.run(["bash", "-euc", "\n".join(lines)], check=True)
    exported = (slurm.folder / "exported").read_text()
    assert exported.count("OTHER=travels") == len(lines) and "_KEY=" not in exported


def test_a_job_has_the_key_that_was_kept_and_a_shell_its_own(
    slurm: SlurmCommands, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    write_scripts(plan, run_dir)
    monkeypatch.setenv("FIRST_KEY", "sk-renewed-0123456789")
    assert find_hosted_key(run_dir, "FIRST_KEY") == "sk-renewed-0123456789"
    monkeypatch.delenv("FIRST_KEY")
    assert find_hosted_key(run_dir, "FIRST_KEY") == KEYS["FIRST_KEY"]
    check_keys(plan, run_dir)
    write_scripts(plan, run_dir)  # from a shell without it
    assert json.loads(run_dir.hosted_keys.read_text()) == KEYS
    monkeypatch.setenv("FIRST_KEY", "sk-renewed-0123456789")
    write_scripts(plan, run_dir)
    monkeypatch.delenv("FIRST_KEY")
    assert find_hosted_key(run_dir, "FIRST_KEY") == "sk-renewed-0123456789"
    run_dir.hosted_keys.unlink()
    assert find_hosted_key(run_dir, "FIRST_KEY") is None
    with pytest.raises(InvalidInput, match="FIRST_KEY is not set"):
        check_keys(plan, run_dir)


def test_keys_are_read_from_no_link(
    slurm: SlurmCommands, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    write_scripts(plan, run_dir)
    monkeypatch.delenv("FIRST_KEY")
    run_dir.hosted_keys.rename(tmp_path / "moved")
    run_dir.hosted_keys.symlink_to(tmp_path / "moved")
    with pytest.raises(InvalidInput, match="no keys of endpoints"):
        find_hosted_key(run_dir, "FIRST_KEY")


def test_a_job_on_this_machine_is_started_without_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "sk-of-an-endpoint")
    monkeypatch.setenv("OF_THE_SITE", "1")
    handed_on = local._build_environment("command", "token", ["A_KEY"])
    assert "A_KEY" not in handed_on and handed_on["OF_THE_SITE"] == "1"
