"""`emobench sbatch`: the lines that submit what is missing, in order."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import JobState
from emobench.scheduler.sbatch_lines import format_sbatch_lines
from emobench.store.jobs import JobKind, JobRecord
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.runs import finish_cell
from tests.support.serving import make_run
from tests.support.slurm_commands import SlurmCommands

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    slurm = SlurmCommands(tmp_path / "slurm")
    slurm.say("scontrol", "MaxArraySize = 1001")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    monkeypatch.chdir(tmp_path)
    return slurm


def test_the_block_of_the_readme_is_what_is_printed_for_its_sweep(
    slurm: SlurmCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = README.read_text(encoding="utf-8")
    (sweep,) = re.findall(r"```yaml\n(name: .*?)```", page, flags=re.DOTALL)
    (block,) = re.findall(r"```\n(servers=.*?)```", page, flags=re.DOTALL)
    (tmp_path / "x.yaml").write_text(sweep)
    assert main(["sweep", "x.yaml", "--no-submit"]) == 0
    capsys.readouterr()
    assert main(["sbatch", "runs/emotions-retail"]) == 0
    assert capsys.readouterr().out == block
    for script in re.findall(r"runs/\S+\.sbatch", page):
        assert Path(script).exists(), script
    assert not slurm.calls("sbatch")


def test_only_what_is_missing(
    slurm: SlurmCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path, CUDA, trials=2)
    finish_cell(run_dir, 1, finished=2)
    ours = f"emobench {run_dir.identity}"
    rows = (
        f"7|PENDING|{time.time():.0f}|{ours} server user: study, m",
        f"8_[3]|PENDING|{time.time():.0f}|{ours} array a: study, cells 0-3",
    )
    lines = ["case $* in", "*%k*) cat <<'END'", *rows, "END", ";;"]
    lines += ["*) cat <<'END'", "7|PENDING|Priority|", "8_[3]|PENDING|Priority|", "END", ";;"]
    slurm.answer("squeue", "\n".join([*lines, "esac"]))
    assert main(["sbatch", "run"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "assistant_a=$(sbatch --parsable run/scripts/assistant_vllm_a.sbatch)",
        "run_a=$(sbatch --parsable --dependency=after:7:$assistant_a --array=0,2%8 "
        "run/scripts/tau_array_a.sbatch)",
        "sbatch --dependency=afterany:$run_a run/scripts/cleanup.sbatch",
    ]
    assert "left out, because a job is there for it: 1 cell" in said.err
    for cell in range(4):
        finish_cell(run_dir, cell, finished=2)
    slurm.answer("squeue", "")
    assert main(["sbatch", "run"]) == 0
    said = capsys.readouterr()
    assert (said.out, "every cell is done" in said.err) == ("", True)


def test_what_cannot_be_submitted_by_hand(
    slurm: SlurmCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = make_run(tmp_path / "local")
    assert main(["sbatch", str(local.path)]) == 2
    assert "has no Slurm" in capsys.readouterr().err
    bare = make_run(tmp_path / "bare", CUDA)
    for script in bare.scripts.iterdir():
        script.unlink()
    bare.scripts.rmdir()
    assert main(["sbatch", str(bare.path)]) == 2
    assert "--no-submit writes them" in capsys.readouterr().err


def test_replicas_names_that_are_alike_and_odd_paths() -> None:
    model = scripted(replicas=2)
    plan = make_plan(CUDA, user=model, assistants={"a-b": scripted(), "a.b": scripted()})
    jobs = [JobRecord(JobKind.SERVER, "user", "5")]
    servers = ["user+2", "assistant_a-b", "assistant_a.b"]
    missing = {"a-b": [0, 1, 2, 3], "a.b": [5]}

    def lines(state: str) -> list[str]:
        scripts = Path("my runs")
        return list(
            format_sbatch_lines(plan, scripts, missing, servers, jobs, {"5": JobState(state)})
        )

    waiting = lines("PENDING")
    assert waiting[0] == "user_2=$(sbatch --parsable 'my runs/user_vllm.sbatch' --replica 2)"
    assert [line.partition("=")[0] for line in waiting[1:5]] == [
        *("assistant_a_b", "assistant_a_b_2", "run_a_b", "run_a_b_2")
    ]
    assert "--dependency=after:5:$assistant_a_b --array=0-3%" in waiting[3]
    assert "--dependency=after:5:$assistant_a_b_2 --array=1%" in waiting[4]
    # A replica that serves is enough to begin with.
    assert "--dependency=after:$assistant_a_b --array" in lines("RUNNING")[3]


def test_servers_of_a_heterogeneous_job_are_one_line() -> None:
    site = CUDA.model_copy(update={"placement": "hetjob"})
    plan = make_plan(site, user=scripted(), assistants={"a": scripted(), "b": scripted()})
    servers = ["user", "assistant_a", "assistant_b"]
    lines = list(format_sbatch_lines(plan, Path("s"), {"a": [0], "b": [4]}, servers, [], {}))
    assert lines[:2] == [
        "servers=$(sbatch --parsable s/servers_a.sbatch)",
        "assistant_b=$(sbatch --parsable s/assistant_vllm_b.sbatch)",
    ]
    assert "--dependency=after:$servers --array=0%" in lines[2]
    assert "--dependency=after:$servers:$assistant_b --array=0%" in lines[3]


def test_a_run_dir_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sbatch"]) == 2
    assert main(["sbatch", str(RunDir(tmp_path).path)]) == 2
