"""Reading sacct's rows of time and resources."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from emobench.core.cluster import ClusterProfile
from emobench.core.run_dir import RunDir
from emobench.scheduler import slurm_commands
from emobench.scheduler.interface import Accounted, Accounts
from emobench.scheduler.slurm_commands import ask_slurm_accounts, parse_accounting
from emobench.scheduler.usage import ask_accounts
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord
from tests.support.jobs import ended_record
from tests.support.plans import CUDA, LOCAL, make_plan
from tests.support.scripted_scheduler import ScriptedScheduler

USER, ARRAY = JobRecord(JobKind.SERVER, "user", "7"), JobRecord(JobKind.ARRAY, "a", "8")
PID = 54321
HERE = ended_record("server", "assistant_a", str(PID), PID)


@pytest.mark.parametrize(
    ("jobs", "profile", "asked"),
    [
        # A pid is no id of a Slurm job, though there may be one of that number.
        ([USER, ARRAY, HERE], CUDA, [["7", "8", "99"]]),
        ([HERE], CUDA, []),
        ([], CUDA, [["54321", "99"]]),
        # jobs.json of a run on this machine was lost.
        ([], LOCAL, []),
    ],
)
def test_accounting_is_asked_about_its_own_jobs(
    tmp_path: Path, jobs: list[JobRecord], profile: ClusterProfile, asked: list[list[str]]
) -> None:
    """99 and 54321 have written events; a server that nobody recorded was submitted by hand."""
    run_dir = RunDir(tmp_path)
    run_dir.endpoints.mkdir()
    EventLog(run_dir, "assistant_a", "99").note("starting")
    EventLog(run_dir, "assistant_a", str(PID)).note("starting")
    scheduler = ScriptedScheduler()
    accounts = ask_accounts(make_plan(profile), run_dir, jobs, scheduler.all())
    assert scheduler.accounted == asked
    assert list(accounts.rows) == (asked[0] if asked else [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "7|100|110|170|billing=2,cpu=2,gres/gpu:h100=2,gres/gpu=2,mem=2G",
            [Accounted("7", 100, 110, 170, {"gpu:h100": 2, "gpu": 2})],
        ),
        ("8_1|100|110|Unknown|cpu=1", [Accounted("8_1", 100, 110, None, {})]),
        (
            "8_[2-3%4]|100|Unknown|Unknown|",
            [Accounted(f"8_{i}", 100, None, None, {}) for i in (2, 3)],
        ),
        ("9|100|None|120|", [Accounted("9", 100, None, 120, {})]),
        ("9|100|", []),
        ("", []),
    ],
)
def test_rows(row: str, expected: list[Accounted]) -> None:
    assert parse_accounting(row) == expected


def test_a_site_whose_sacct_prints_local_times() -> None:
    (row,) = parse_accounting("7|2026-11-21T05:00:00|2026-11-21T05:00:10|Unknown|")
    assert row.submitted == datetime(2026, 11, 21, 5).timestamp()
    assert row.started == row.submitted + 10


def test_a_sacct_that_cannot_be_asked_is_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        slurm_commands, "run_command", lambda command: (None, "Slurm accounting\noff")
    )
    assert ask_slurm_accounts(["7"]) == Accounts({}, "Slurm accounting off")
