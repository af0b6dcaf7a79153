"""Jobs that somebody submitted with sbatch, without `emobench sweep`: found by their comments."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from emobench.cli.main import main
from emobench.core.errors import ServersGone
from emobench.core.run_dir import RunDir
from emobench.runs.cleanup import survey
from emobench.runs.status import read_status
from emobench.runs.watching.watch import Watch
from emobench.serving.waiting import wait_for_endpoint
from tests.support.plans import CUDA
from tests.support.runs import finish_cell
from tests.support.serving import make_run
from tests.support.slurm_commands import SlurmCommands


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """Rendered, and never submitted by emobench."""
    return make_run(tmp_path, CUDA)


@pytest.fixture
def slurm(tmp_path: Path, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    """A queue with the user's server and the array of two cells, submitted by hand."""
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    ours = f"emobench {run_dir.identity}"
    rows = (
        f"201|PENDING|{time.time():.0f}|{ours} server user: study, scripted",
        f"202_[0-1]|PENDING|{time.time():.0f}|{ours} array a: study, cells 0-1",
        f"203|RUNNING|{time.time():.0f}|emobench 000000000000 server user: other, m",
    )
    states = ("201|PENDING|Resources|", "202_[0-1]|PENDING|Priority|")
    lines = [
        *("case $* in", "*%k*) cat <<'END'", *rows, "END", ";;"),
        *("*) cat <<'END'", *states, "END", ";;", "esac"),
    ]
    slurm.answer("squeue", "\n".join(lines))
    return slurm


def test_status_and_watch_show_them(run_dir: RunDir, slurm: SlurmCommands) -> None:
    status = read_status(run_dir)
    assert [(s.name, str(s.state), s.job_id, s.reason) for s in status.servers] == [
        ("user", "pending", "201", "Resources"),
        ("assistant_a", "none", None, ""),
    ]
    assert str(status.cells) == "2 waiting of 2"
    assert status.live and not status.problems
    watch = Watch(run_dir)
    state = watch.look()
    assert [(row.name, str(row.state), row.job_id) for row in state.servers] == [
        ("user", "pending", "201"),
        ("assistant_a", "none", ""),
    ]
    assert state.live and not watch.over
    assert not run_dir.jobs.exists()  # looking changes nothing


def test_a_queue_that_does_not_answer_leaves_the_records(
    run_dir: RunDir, slurm: SlurmCommands
) -> None:
    slurm.answer("squeue", "exit 1")
    assert read_status(run_dir).servers[0].job_id is None
    assert Watch(run_dir).look().servers[0].job_id == ""


def test_logs_are_found(
    run_dir: RunDir, slurm: SlurmCommands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs" / "user_vllm_201.out").write_text("loading\n")
    (tmp_path / "logs" / "user_vllm_203.out").write_text("another run's\n")
    assert main(["logs", str(run_dir.path), "user"]) == 0
    assert capsys.readouterr().out == "loading\n"


def test_a_cell_waits_as_long_as_the_servers_job_is_queued(
    run_dir: RunDir, slurm: SlurmCommands
) -> None:
    looks = []

    def interrupted() -> bool:
        looks.append(time.monotonic())
        return len(looks) > 3

    with pytest.raises(ServersGone, match="interrupted"):
        wait_for_endpoint(run_dir, "user", deadline_s=0.01, poll_s=0.02, interrupted=interrupted)


def test_a_cell_says_that_its_server_was_never_submitted(
    run_dir: RunDir, slurm: SlurmCommands
) -> None:
    with pytest.raises(ServersGone, match="no job of it was submitted: `emobench sbatch RUN_DIR`"):
        wait_for_endpoint(run_dir, "assistant_a", deadline_s=0.01, poll_s=0.01)


def test_the_clean_up_job_cancels_a_server_by_hand_only_once_its_cells_are_done(
    run_dir: RunDir, slurm: SlurmCommands
) -> None:
    assert survey(run_dir).needed == {"user (job 201)": "array a (job 202)"}
    old = time.time() - 3600
    answer = (slurm.folder / "squeue.answer").read_text()
    answer = re.sub(r"202_.*\n", "", re.sub(r"PENDING\|\d+", f"RUNNING|{old:.0f}", answer))
    slurm.answer("squeue", answer)
    assert survey(run_dir).needed == {"user (job 201)": "who submitted it by hand"}
    for cell in (0, 1):
        finish_cell(run_dir, cell, finished=2)
    assert [job.job_id for job in survey(run_dir).free] == ["201"]
