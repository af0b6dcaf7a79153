"""How a run stands, with a scheduler that says what a test wants."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from emobench.cli.status import render
from emobench.cli.terminal import plain
from emobench.cli.watch_screen import changes, line, screen
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.status import RunStatus, run_status
from emobench.runs.submission import submit
from emobench.runs.watching.state import Seen, watch_state
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.scripted_scheduler import ScriptedScheduler

JOBS = [
    JobRecord(JobKind.SERVER, "user", "1"),
    JobRecord(JobKind.SERVER, "assistant_a", "2"),
    JobRecord(JobKind.ARRAY, "a", "3", cells=(0, 1)),
]
RUNNING = {"j1": "RUNNING", "j2": "RUNNING", "j3": "RUNNING"}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """Two servers and an array of two cells."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    plan = make_plan(CUDA, tmp_path / "logs", scripted(), {"a": scripted()}, trials=1)
    save_plan(run_dir, plan)
    add_jobs(run_dir, JOBS)
    return run_dir


def status_of(run_dir: RunDir, scheduler: ScriptedScheduler) -> RunStatus:
    jobs = read_jobs(run_dir)
    return run_status(load_plan(run_dir), run_dir, jobs, scheduler.states(jobs))


@pytest.mark.parametrize(
    ("job", "said", "text"),
    [
        (
            *("1", "PENDING JobHeldUser"),
            "job 1 is held: scontrol release 1 lets it start (user: JobHeldUser)",
        ),
        (
            *("3", "PENDING launch failed requeued held"),
            "job 3 is held: scontrol release 3 lets it start (a: launch failed requeued held)",
        ),
        (
            *("2", "PENDING JobHeldAdmin"),
            "job 2 is held: scontrol release 2, run by an administrator, lets it start "
            "(assistant_a: JobHeldAdmin)",
        ),
    ],
)
def test_a_held_job_is_shown_with_what_releases_it(
    job: str, said: str, text: str, run_dir: RunDir
) -> None:
    scheduler = ScriptedScheduler(**RUNNING)
    quiet = watch_state(None, Seen(status_of(run_dir, scheduler), {}), {}, time.time())
    scheduler.script[job] = said
    status = status_of(run_dir, scheduler)
    (held,) = status.held
    assert (str(held), held.command) == (text, f"scontrol release {job}")
    assert text in plain(*render(status), columns=200)
    state = watch_state(None, Seen(status, {}), {}, time.time())
    assert text in plain(screen(state, 200, 60), columns=200)
    assert f"scontrol release {job}" in plain(screen(state, 60, 24), columns=60)
    assert text in line(state)
    assert changes(state) != changes(quiet)
    # The same command again says why nothing happens.
    outcome = submit(load_plan(run_dir), run_dir, schedulers=scheduler.all())
    assert (list(outcome.submitted), list(outcome.held)) == ([], [held])


def test_nothing_is_held_where_jobs_wait_for_others(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="PENDING Priority", j2="RUNNING", j3="PENDING Dependency")
    assert list(status_of(run_dir, scheduler).held) == []
