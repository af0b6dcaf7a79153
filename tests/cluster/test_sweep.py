"""Sweeps on a real slurmctld: the three kinds of jobs, their order, their failures, their end."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emobench.core.job_id import expand_id
from tests.cluster.lab import REPOSITORY, Lab
from tests.cluster.site import Site, results
from tests.support.processes import until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    folder = tmp_path / "a b 100% ü"
    folder.mkdir()
    return Site(lab, folder)


@pytest.fixture(scope="module")
def quickstart(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped quickstart, run on the cluster and on this machine; the folder of both."""
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copy(REPOSITORY / "sweeps" / "quickstart.yaml", folder)
    for name, cluster in (("slurm", "lab"), ("local", "local")):
        options = ["--cluster", cluster, "--run-dir", f"runs/{name}", "--wait"]
        command = (sys.executable, "-m", "emobench.sweep", "quickstart.yaml", *options)
        done = lab.run(*command, cwd=folder, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"runs/{name}/report.html" in done.stdout
    yield folder
    shutil.rmtree(folder)


def test_the_quickstart_gives_the_same_results_as_on_one_machine(quickstart: Path) -> None:
    here, there = results(quickstart / "runs/local"), results(quickstart / "runs/slurm")
    assert len(here) == 24
    assert here == there


def test_it_ran_as_a_user_job_an_assistant_job_and_an_array(quickstart: Path, lab: Lab) -> None:
    jobs = json.loads((quickstart / "runs/slurm/jobs.json").read_text())["jobs"]
    user, assistant, array, _ = [job["job_id"] for job in jobs]
    ids = f"{user},{assistant},{array}"
    sacct = ("sacct", "-nPX", "-j", ids, "-o", "jobid,jobname,partition,state,start,end")

    def rows() -> list[list[str]]:
        return [line.split("|") for line in lab.run(*sacct).stdout.splitlines()]

    until(
        lambda: len(rows()) == 10 and all(r[3] == "COMPLETED" and r[2] for r in rows()),
        "sacct to have every job",
        poll=0.2,
    )
    # The servers are the parts of one job.
    named = {job_id: row[1:3] for row in rows() for job_id in expand_id(row[0])}
    assert named[user] == ["user-quickstart", "cuda"]
    assert named[assistant] == ["scripted-quickstart", "gaudi"]
    tasks = [row for row in rows() if row[0].startswith(f"{array}_")]
    assert [row[0] for row in sorted(tasks)] == [f"{array}_{index}" for index in range(8)]
    assert {row[1] for row in tasks} == {"run-scripted-quickstart"}
    # The profile's throttle is 4. Times have whole seconds: who ends as another starts is gone.
    at_once = [sum(row[4] <= other[4] < row[5] for row in tasks) for other in tasks]
    assert max(at_once) <= 4
    logs = {path.name for path in (quickstart / "logs").iterdir()}
    assert {f"user_vllm_{user}.out", f"assistant_vllm_{assistant}.out"} <= logs
    assert f"run_retail_tool-calling_scripted_{array}_0.log" in logs
    script = (quickstart / "runs/slurm/scripts/tau_array_scripted.sbatch").read_text()
    submitted = [
        path
        for path in (quickstart / "runs/slurm/submitit").glob(f"{array}*")
        if path.read_text() == script
    ]
    assert submitted, "what submitit gave to sbatch is the rendered script, byte for byte"


def test_arrays_are_split_and_finished_cells_are_not_submitted_again(site: Site) -> None:
    site.profile["max_array_size"] = 2
    done = site.sweep("--wait", "--json", trials=2)
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["jobs"]
    assert [(job["name"], job["cells"]) for job in jobs if job["kind"] == "array"] == [
        ("scripted", [0, 1]),
        ("scripted_2", [2, 3]),
    ]
    again = site.sweep("--json", trials=2)
    assert json.loads(again.stdout)["finished"] is True
    until(lambda: not site.lab.queue(), "nothing in the queue")


def test_a_failed_job_shows_its_reason_and_the_same_command_completes_it(site: Site) -> None:
    assert site.sweep(latency=4000).returncode == 0
    site.wait_for_cell()
    array = site.job("scripted")
    site.lab.run("scancel", f"{array}_1")
    site.lab.run("scancel", "--signal=KILL", "--batch", f"{array}_0")
    status = site.wait_until_ended()
    assert (status["cells"]["failed"], status["cells"]["cancelled"]) == (1, 1)
    (problem,) = status["problems"]
    assert "FAILED" in problem["reason"] or "gone" in problem["reason"]
    text = site.emobench("status", "runs/tiny").stdout
    assert "cell 0 failed" in text
    assert "run the same" in text

    done = site.sweep("--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.status()["finished"]


def test_cancel_leaves_nothing_behind(site: Site) -> None:
    assert site.sweep(latency=4000).returncode == 0
    site.wait_for_cell()
    cancelled = site.emobench("cancel", "runs/tiny")
    assert cancelled.returncode == 0, cancelled.stderr
    assert set(site.lab.queue().values()) <= {"COMPLETING"}
    until(lambda: not site.lab.queue(), "an empty queue")
    assert not site.status()["live"]


def test_the_scheduler_refuses_half_way(site: Site) -> None:
    right = site.profile["array"]["partition"]
    site.profile["array"]["partition"] = "nowhere"
    refused = site.sweep()
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "nowhere" in refused.stderr
    assert "partition" in refused.stderr
    until(lambda: not site.lab.queue(), "the servers to be taken back")
    assert json.loads((site.run_dir / "jobs.json").read_text())["jobs"] == []

    site.profile["array"]["partition"] = right
    done = site.sweep("--wait")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_array_that_the_site_does_not_take(site: Site) -> None:
    site.profile["max_array_size"] = 5000
    refused = site.sweep(trials=600)
    assert refused.returncode == 1
    assert "array" in refused.stderr.lower()
    assert "MaxArraySize" in refused.stderr
    until(lambda: not site.lab.queue(), "the servers to be taken back")


def test_a_job_that_cannot_start_python(site: Site) -> None:
    site.profile["python"] = "/no/such/python"
    assert site.sweep().returncode == 0
    status = site.wait_until_ended()
    assert status["cells"]["failed"] == 2
    until(lambda: "127" in site.status()["problems"][0]["reason"], "sacct's exit code", poll=0.3)
    assert "/no/such/python" in Path(status["problems"][0]["log"]).read_text()


def test_by_hand_as_teams_submit_now(site: Site) -> None:
    written = site.sweep("--no-submit")
    assert written.returncode == 0, written.stderr
    scripts = site.run_dir / "scripts"
    for server in ("user_vllm.sbatch", "assistant_vllm_scripted.sbatch"):
        site.lab.run("sbatch", scripts / server)
    array = str(scripts / "tau_array_scripted.sbatch")
    single = site.lab.run("sbatch", "--parsable", array, "retail", "tool-calling", "scripted", "1")
    until(lambda: site.status()["cells"]["done"] == 1, "the single run to end", poll=0.3)
    assert [cell for cell in (0, 1) if (site.run_dir / f"cells/{cell}").exists()] == [0]
    site.lab.run("sbatch", "--array=0-1", array)
    status = site.wait_until_ended()
    assert status["finished"]
    assert len(results(site.run_dir)) == 2
    assert single.stdout.strip().isdigit()
