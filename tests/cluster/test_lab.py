"""The test cluster behaves like a site: what the other cluster tests take for granted."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import configuration
from tests.cluster.daemons import LabError
from tests.cluster.lab import REPOSITORY, Lab
from tests.support import processes


def submit(lab: Lab, folder: Path, command: str, *options: str) -> str:
    """Submit a one-line script; the job's id. Output goes to <folder>/<job>.out."""
    output = f"--output={folder}/%j.out"
    argv = ("sbatch", "--parsable", output, *options, "--wrap", command)
    return lab.run(*argv).stdout.strip()


def listing(folder: Path) -> list[int]:
    """Pids of every live process that belongs to the cluster in `folder`."""
    tag = f"EMOBENCH_LAB={folder}"
    return [pid for pid in processes.pids() if processes.has_environment(pid, tag)]


def test_job_runs_and_sacct_shows_it(lab: Lab, tmp_path: Path) -> None:
    job = submit(lab, tmp_path, "echo hello from $SLURMD_NODENAME; exit 3")
    assert lab.wait_jobs(job) == {job: "FAILED"}
    assert (tmp_path / f"{job}.out").read_text() == "hello from cuda1\n"
    sacct = ("sacct", "-nPX", "-j", job, "-o", "state,partition,exitcode,nodelist")
    # The accounting learns the end of a short job first and its partition seconds later.
    processes.until(
        lambda: lab.run(*sacct).stdout == "FAILED|cuda|3:0|cuda1\n",
        "sacct's row of the job",
        poll=0.1,
    )


def test_gres_is_visible_in_the_job(lab: Lab) -> None:
    one_of_two = lab.run("srun", "--gres=gpu:h100:1", "printenv", "CUDA_VISIBLE_DEVICES").stdout
    assert one_of_two == "0\n"
    both = lab.run("srun", "--gres=gpu:2", "printenv", "CUDA_VISIBLE_DEVICES").stdout
    assert both == "0,1\n"
    gaudi = ("srun", "-p", "gaudi", "--gres=hpu:gaudi2:2", "sh", "-c", "echo $SLURMD_NODENAME")
    assert lab.run(*gaudi).stdout == "gaudi1\n"


def test_array_throttle_holds(lab: Lab, tmp_path: Path) -> None:
    # Each task counts the tasks that run beside it while it holds its own file.
    mine = "r.$SLURM_ARRAY_TASK_ID"
    command = f"cd {tmp_path}; touch {mine}; ls r.* | wc -l >> seen; sleep 0.3; rm {mine}"
    job = submit(lab, tmp_path, command, "--array=0-7%2", "--output=/dev/null")
    states = lab.wait_jobs(job)
    assert states == {f"{job}_{index}": "COMPLETED" for index in range(8)}
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()]
    assert len(seen) == 8
    assert max(seen) == 2


def test_after_waits_for_the_start_and_afterany_for_the_end(lab: Lab, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.05; done; exit 1"
    first = submit(lab, tmp_path, wait)
    beside = submit(lab, tmp_path, "true", f"--dependency=after:{first}")
    behind = submit(lab, tmp_path, "true", f"--dependency=afterany:{first}")
    assert lab.wait_jobs(beside) == {beside: "COMPLETED"}
    assert lab.queue() == {first: "RUNNING", behind: "PENDING"}
    gate.touch()
    assert lab.wait_jobs(first, behind) == {first: "FAILED", behind: "COMPLETED"}


def test_requeue_runs_the_job_again(lab: Lab, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = f'echo ${{SLURM_RESTART_COUNT:-0}} >> {runs}; [ "$SLURM_RESTART_COUNT" ] || sleep 60'
    job = submit(lab, tmp_path, command, "--requeue")
    processes.until(runs.exists, "the first run")
    lab.run("scontrol", "requeue", job)
    assert lab.wait_jobs(job) == {job: "COMPLETED"}
    assert runs.read_text().split() == ["0", "1"]


def test_higher_partition_preempts(lab: Lab, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    command = f'echo low >> {marks}; [ "$SLURM_RESTART_COUNT" ] || sleep 60'
    low = submit(lab, tmp_path, command, "--nodes=2", "--exclusive")
    processes.until(marks.exists, "the low job to run")
    high = submit(lab, tmp_path, f"echo high >> {marks}", "--partition=cuda_high")
    assert lab.wait_jobs(low, high) == {low: "COMPLETED", high: "COMPLETED"}
    assert marks.read_text().split() == ["low", "high", "low"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--partition=nowhere",), "invalid partition specified: nowhere"),
        (("--array=0-1001",), "Invalid job array specification"),
        (("--gres=tpu:1",), "Invalid generic resource (gres) specification"),
    ],
)
def test_submission_is_refused(lab: Lab, options: tuple[str, ...], reason: str) -> None:
    done = lab.run("sbatch", *options, "--wrap", "true", check=False)
    assert done.returncode != 0
    assert reason in done.stderr


def test_limit_of_an_association_is_enforced(lab: Lab, tmp_path: Path) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    set_limit = ("sacctmgr", "-i", "modify", "user", "where", f"name={user}", "set")
    lab.run(*set_limit, "MaxSubmitJobs=1")
    try:
        refused = lab.run("sbatch", "--array=0-1", "--wrap", "true", check=False)
    finally:
        lab.run(*set_limit, "MaxSubmitJobs=-1")
    assert "AssocMaxSubmitJobLimit" in refused.stderr
    job = submit(lab, tmp_path, "true", "--array=0-1")
    assert len(lab.wait_jobs(job)) == 2


def test_array_limit_is_readable(lab: Lab) -> None:
    lines = lab.ask("scontrol", "show", "config").splitlines()
    (limit,) = [line.split("=")[1].strip() for line in lines if line.startswith("MaxArraySize ")]
    assert limit == "1001"


def test_commands_ignore_the_settings_of_another_site(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    assert "SBATCH_PARTITION" not in lab.env
    assert lab.run("srun", "printenv", "SLURM_JOB_PARTITION").stdout == "cuda\n"


@pytest.mark.leaves_jobs
def test_second_cluster_stands_beside_and_stops_with_its_jobs(lab: Lab, tmp_path: Path) -> None:
    with Lab() as second:
        pidfile = tmp_path / "pid"
        # Detached from its job: stop has to find it all the same.
        detach = f"setsid sh -c 'echo $$ > {pidfile}; exec sleep 300' & sleep 300"
        submit(second, tmp_path, detach, "--export=NONE")
        processes.until(lambda: pidfile.exists() and pidfile.read_text(), "the job")
        pid = int(pidfile.read_text())
        assert processes.comm(pid) == "sleep"
        assert not lab.queue()
        assert len(listing(second.folder)) > 8
    assert processes.comm(pid) == ""
    assert not listing(second.folder)
    assert not second.folder.exists()
    assert not list(Path("/dev/shm").glob(f"{second.folder.name}*"))
    assert listing(lab.folder)


def test_failed_start_quotes_the_log_and_leaves_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> str:
        return working(*arguments).replace("select/cons_tres", "select/nonsense")

    working = configuration.slurm_conf
    monkeypatch.setattr(configuration, "slurm_conf", broken)
    second = Lab()
    with pytest.raises(LabError, match=r"did not start(.|\n)*select/nonsense"):
        second.start()
    assert not listing(second.folder)
    assert not second.folder.exists()


def test_killed_owner_takes_its_cluster_along(lab: Lab) -> None:
    argv = [sys.executable, "-m", "tests.cluster.lab"]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        export = next(line for line in owner.stdout if "export" in line)
        folder = Path(export.split("=")[1].strip()).parent
        assert listing(folder)
        os.kill(owner.pid, 9)
    processes.until(lambda: not folder.exists(), f"{folder} to be removed")
    assert not listing(folder)
