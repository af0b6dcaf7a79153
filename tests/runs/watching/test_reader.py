"""What a look at a run makes of a queue that answers late, or no more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from emobench.core.plan import save_plan
from emobench.core.run_dir import RunDir
from emobench.runs.watching import reader
from emobench.runs.watching.reader import Reader
from emobench.scheduler.interface import Accounts, JobState
from emobench.store.jobs import JobKind, JobRecord, add_jobs
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.processes import until
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler

USER, ASSISTANT = (
    JobRecord(JobKind.SERVER, "user", "1"),
    JobRecord(JobKind.SERVER, "assistant_a", "2"),
)
ARRAY = JobRecord(JobKind.ARRAY, "a", "3", cells=(0, 1))


class LateScheduler(ScriptedScheduler):
    """Answers a question once it may; nobody asks often."""

    queue_check_s = 3600.0

    def __init__(self, **script: str) -> None:
        super().__init__(**script)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        self.may_answer.wait(240)
        return super().ask_states(jobs)


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> LateScheduler:
    scheduler = LateScheduler(j1="RUNNING", j2="PENDING", j3="PENDING")
    monkeypatch.setattr(reader, "SCHEDULERS", scheduler.all())
    monkeypatch.setattr(reader, "find_scheduler", lambda profile: scheduler)
    monkeypatch.setattr(reader, "ask_accounts", lambda *_: Accounts())
    return scheduler


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    plan = make_plan(CUDA, tmp_path / "logs", scripted(), {"a": scripted()}, trials=1)
    save_plan(run_dir, plan)
    add_jobs(run_dir, [USER])
    return run_dir


def servers(reader: Reader) -> list[str]:
    return [str(row.state) for row in reader.look(None, first=False)[0].status.servers]


def test_jobs_that_were_not_asked_about_yet_are_not_gone(
    run_dir: RunDir, scheduler: LateScheduler
) -> None:
    looking = Reader(run_dir)
    looking.look(None, first=True)
    scheduler.may_answer.clear()
    add_jobs(run_dir, [ASSISTANT, ARRAY])
    seen, _ = looking.look(None, first=False)
    assert [row.state for row in seen.status.servers] == ["starting", "starting"]
    assert (seen.status.live, seen.status.cells.waiting, seen.status.cells.failed) == (True, 2, 0)
    scheduler.may_answer.set()
    until(lambda: servers(looking) == ["starting", "pending"], "the queue's answer")


def test_a_queue_that_does_not_answer_is_said_and_ends_nothing(
    run_dir: RunDir, scheduler: LateScheduler
) -> None:
    scheduler.script |= {"1": "UNKNOWN"}
    seen, _ = Reader(run_dir).look(None, first=True)
    assert seen.missing == ("the queue: squeue does not answer",)
    assert seen.status.live
    assert seen.status.servers[0].state == "starting"


def test_what_a_cell_writes_is_read_again_until_it_is_done(
    run_dir: RunDir, scheduler: LateScheduler
) -> None:
    looking = Reader(run_dir)
    for number, (status, finished) in enumerate((("running", 0), ("running", 1), ("done", 2))):
        finish_cell(run_dir, 0, status, finished=finished)
        seen, _ = looking.look(None, first=number == 0)
        assert seen.status.episodes.finished == finished
    finish_cell(run_dir, 0, "done", finished=1)
    assert looking.look(None, first=False)[0].status.episodes.finished == 2
