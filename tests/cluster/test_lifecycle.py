"""The end of servers on a real cluster: by the last cell, by hand, by clean-up, by a limit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emobench.config.templates import find_shipped_templates
from tests.cluster.lab import Lab
from tests.cluster.site import RELEASE_S, Site, ended_at, results
from tests.support import processes
from tests.support.processes import until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    return Site(lab, tmp_path)


def release_s(site: Site) -> float:
    """Seconds from the end of the last task to the end of the last server, once all have ended."""
    servers = [site.job(name) for name in ("user", "assistant_scripted")]
    ends = site.lab.wait_jobs(site.job("scripted"), *servers)
    assert {ends[server] for server in servers} <= {"COMPLETED", "CANCELLED"}
    seconds = ended_at(site, *servers) - ended_at(site, site.job("scripted"))
    print(f"released {seconds:.0f} s after the last task")
    return seconds


def nothing_left(site: Site) -> None:
    until(lambda: not site.lab.queue(), "nothing in the queue", poll=0.2)


def cleanup_log(site: Site) -> str:
    return (site.folder / "logs" / f"cleanup_{site.job('cleanup')}.log").read_text()


def test_servers_leave_after_the_last_cell_is_done(site: Site) -> None:
    assert site.sweep().returncode == 0
    assert release_s(site) <= RELEASE_S
    nothing_left(site)
    assert "nothing to clean up" in cleanup_log(site)
    reasons = {server["reason"] for server in site.status()["servers"]}
    assert reasons == {"all cells are done"}


def test_servers_leave_after_cells_that_failed_or_never_began(site: Site) -> None:
    site.profile["throttle"] = 1
    assert site.sweep(latency=3000, trials=2).returncode == 0
    site.wait_for_cell()
    # The first cell dies without a word, the others never begin.
    array = site.job("scripted")
    site.lab.run("scancel", "--state=PENDING", array)
    site.lab.run("scancel", "--signal=KILL", "--batch", f"{array}_0")
    assert release_s(site) <= RELEASE_S
    nothing_left(site)
    assert {s["reason"] for s in site.status()["servers"]} == {"its arrays have left the queue"}


def test_servers_leave_after_the_array_was_cancelled_by_hand(site: Site) -> None:
    assert site.sweep(latency=3000).returncode == 0
    site.wait_for_cell()
    site.lab.run("scancel", site.job("scripted"))
    assert release_s(site) <= RELEASE_S
    nothing_left(site)


@contextmanager
def stopped_supervisor(site: Site, name: str) -> Iterator[int]:
    """The supervisor of a server of this run, stopped: it would never leave."""
    endpoint = json.loads((site.run_dir / "endpoints" / f"{name}.json").read_text())
    pid = int(endpoint["pid"])
    assert processes.has_environment(pid, f"SLURM_JOB_ID={site.job(name)}")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        if processes.comm(pid):
            os.kill(pid, signal.SIGCONT)


def test_the_clean_up_job_releases_servers_that_cannot_leave(site: Site) -> None:
    """One is stopped, the other never got a node."""
    site.profile["placement"] = "apart"
    other = site.lab.run(
        "sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 300"
    ).stdout.strip()
    site.lab.run("scontrol", "update", "nodename=gaudi[1-2]", "state=drain", "reason=test")
    assert site.sweep().returncode == 0
    until(lambda: "ready" in states(site), "the user's server", poll=0.3)
    with stopped_supervisor(site, "user") as pid:
        site.lab.run("scancel", site.job("scripted"))
        servers = [site.job("user"), site.job("assistant_scripted")]
        ends = site.lab.wait_jobs(*servers, site.job("cleanup"))
        assert {ends[server] for server in servers} == {"CANCELLED"}
        assert ends[site.job("cleanup")] == "COMPLETED"
        assert not processes.comm(pid)
    log = cleanup_log(site)
    assert "still there 4" in log
    assert "they are gone" in log
    # What is not in this run's jobs.json is not touched.
    assert site.lab.queue() == {other: "RUNNING"}
    site.lab.run("scancel", other)
    nothing_left(site)


def test_a_sweep_that_is_submitted_again_has_one_clean_up_job(site: Site) -> None:
    assert site.sweep(latency=2000).returncode == 0
    site.wait_for_cell()
    first = site.job("cleanup")
    with processes.stopped_cells(site.run_dir):
        assert site.sweep(latency=2000, trials=2).returncode == 0
        second = site.job("cleanup")
        assert first != second
        until(lambda: first not in site.lab.queue(), "the earlier clean-up job to go")
        waiting = site.lab.ask("squeue", "-h", "-j", second, "-o", "%E")
    jobs = json.loads((site.run_dir / "jobs.json").read_text())["jobs"]
    arrays = [job["job_id"] for job in jobs if job["kind"] == "array"]
    assert len(arrays) == 2
    assert all(f"afterany:{array}" in waiting for array in arrays)
    cancelled = site.emobench("cancel", "runs/tiny")
    assert f"cleanup ({second})" in cancelled.stdout
    nothing_left(site)


def test_a_refused_clean_up_job_is_a_warning(site: Site) -> None:
    site.profile["array"]["sbatch"] = []
    folder = site.folder / "slurm_templates"
    folder.mkdir()
    (folder / "cleanup.sbatch.j2").write_text("#!/bin/bash\n#SBATCH --partition=nowhere\ntrue\n")
    done = site.sweep("--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no clean-up job: sbatch refused scripts/cleanup.sbatch" in done.stderr
    nothing_left(site)


def test_kept_servers_stay_serve_the_next_submission_and_say_what_they_cost(site: Site) -> None:
    done = site.sweep("--keep-servers", "30", "--wait")
    assert done.returncode == 0, done.stderr
    assert "at most 2 servers without an accelerator x 0.5 h" in done.stdout
    assert "emobench cancel runs/tiny" in done.stdout
    until(
        lambda: all("kept until" in server["reason"] for server in site.status()["servers"]),
        "both servers to be kept",
        poll=0.3,
    )
    user = site.job("user")
    again = site.sweep("--keep-servers", "30", "--wait", trials=2)
    assert again.returncode == 0, again.stderr
    assert site.job("user") == user
    assert site.lab.queue()[user] == "RUNNING"
    assert site.emobench("cancel", "runs/tiny").returncode == 0
    nothing_left(site)


def test_running_cells_bring_servers_back_that_left_since_nobody_used_them(site: Site) -> None:
    assert site.sweep(tasks="0-5", latency=1000, more="idle_limit_min: 0.3\n").returncode == 0
    site.wait_for_cell()
    first = site.job("user")
    with processes.stopped_cells(site.run_dir):
        until(lambda: states(site) == {"left"}, "idle servers to leave", poll=0.3)
        assert {server["reason"] for server in site.status()["servers"]} == {
            "idle for 0.3 minutes (idle_limit_min)"
        }
    assert site.wait_until_ended()["finished"]
    assert site.job("user") != first
    attempts = [e for f in site.run_dir.glob("cells/*/episodes.jsonl") for e in f.open()]
    assert len(attempts) >= 12


def check_the_budget_often(site: Site) -> None:
    """Servers that look at the run's cost every two seconds, from templates of the site's own."""
    code = (
        "import sys; from emobench.serving.supervise import Timing, main; "
        "sys.exit(main(sys.argv[1:], Timing(budget_check_s=2)))"
    )
    folder = site.folder / "slurm_templates"
    folder.mkdir()
    for name in ("user_vllm.sbatch.j2", "assistant_vllm.sbatch.j2"):
        text = (find_shipped_templates() / name).read_text()
        assert "-m emobench.serving.supervise" in text
        text = text.replace("-m emobench.serving.supervise", f"-c '{code}'")
        (folder / name).write_text(text)


def test_a_limit_of_accelerator_hours_stops_the_sweep_and_raising_it_resumes(site: Site) -> None:
    check_the_budget_often(site)
    # The limit is reached after 36 s, half way through the conversations.
    tasks, cards = "0-49", 1
    limit = 0.02
    low = f"max_gpu_hours: {limit}\n"
    done = site.sweep(more=low, tasks=tasks, latency=2000, cards=cards)
    assert done.returncode == 0, done.stderr
    status = site.wait_until_ended()
    assert status["limit"]["reached"]
    # 2 cards; a check every 2 s, 25 s for the cells and 20 s for the engines to end: 50 s, and as
    # much again on a busy machine.
    assert limit <= status["limit"]["used"] <= limit + 2 * 100 / 3600
    reasons = {server["reason"].split(":")[0] for server in status["servers"]}
    assert reasons == {"max_gpu_hours reached"}
    assert {problem["reason"].split(";")[0] for problem in status["problems"]} == {
        "stopped by a signal"
    }
    summaries = [json.loads(p.read_text()) for p in site.run_dir.glob("cells/*/variant*.json")]
    assert {summary["exit_reason"] for summary in summaries} == {"interrupted"}
    finished = status["episodes"]["finished"]
    assert 0 < finished < 100
    shown = site.emobench("status", "runs/tiny").stdout
    assert "max_gpu_hours reached, the sweep is stopped; raise it" in shown

    refused = site.sweep(more=low, tasks=tasks, latency=2000, cards=cards)
    assert refused.returncode == 2
    assert "max_gpu_hours" in refused.stderr
    assert "raise it and run the same command again" in refused.stderr
    assert not site.lab.queue()

    high = "max_gpu_hours: 4\n"
    done = site.sweep("--wait", more=high, tasks=tasks, latency=10, cards=cards)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "limit       4 accelerator-hours" in done.stdout
    assert results(site.run_dir).keys()
    attempts = [e for f in site.run_dir.glob("cells/*/episodes.jsonl") for e in f.open()]
    assert len(attempts) == 100, "no conversation ran twice"
    nothing_left(site)


def states(site: Site) -> set[str]:
    return {server["state"] for server in site.status()["servers"]}
