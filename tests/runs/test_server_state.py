"""How a server stands by its endpoint file and the queue."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from emobench.cli.status import describe_use
from emobench.core.files import write_json
from emobench.core.run_dir import RunDir
from emobench.runs.server_state import read_server
from emobench.scheduler.interface import JobState
from emobench.store.endpoints import Endpoint, ServerLocation, point_to_leased, publish
from emobench.store.jobs import JobKind, JobRecord
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.serving import READY

PLAN = make_plan(CUDA, "/logs", scripted(), {"a": scripted()})
FIRST = JobRecord(JobKind.SERVER, "user", "1")
NEXT = JobRecord(JobKind.SERVER, "user", "2", takes_over="1")
AGAIN = JobRecord(JobKind.SERVER, "user", "2")
OTHER = JobRecord(JobKind.SERVER, "assistant_a", "3")
READY = replace(READY, url="http://h/v1")
KEPT = replace(READY, kept_until="2030-01-01T00:00:00+00:00")
LEFT = replace(READY, state="left", reason="all cells are done")
FAILED = replace(READY, state="failed", reason="no card")
LONG_AGO = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.endpoints.mkdir(mode=0o700)
    return run_dir


@pytest.mark.parametrize(
    ("endpoint", "jobs", "states", "state", "reason", "job"),
    [
        (None, [], "", "none", "", None),
        (None, [OTHER], "3 RUNNING", "none", "", None),
        (None, [FIRST], "1 PENDING Priority", "pending", "Priority", "1"),
        (None, [FIRST], "1 RUNNING", "starting", "", "1"),
        (None, [FIRST], "1 FAILED", "gone", "job ended: FAILED", "1"),
        (None, [FIRST], "1 CANCELLED", "left", "cancelled", "1"),
        (READY, [FIRST], "1 RUNNING", "ready", "", "1"),
        # Nobody could be asked: it may be alive.
        (READY, [FIRST], "1 UNKNOWN", "ready", "", "1"),
        (READY, [FIRST], "1 FAILED", "gone", "job ended: FAILED", "1"),
        (READY, [FIRST], "", "gone", "job is gone from the queue", "1"),
        (READY, [FIRST], "1 REQUEUED", "pending", "", "1"),
        (LEFT, [FIRST], "1 COMPLETED", "left", "all cells are done", "1"),
        (LEFT, [FIRST], "1 CANCELLED", "left", "all cells are done", "1"),
        (FAILED, [FIRST], "1 FAILED", "failed", "no card", "1"),
        (
            KEPT,
            [FIRST],
            "1 RUNNING",
            "ready",
            f"nothing needs it; kept until {KEPT.kept_until}",
            "1",
        ),
        # Of an earlier job: what it says does not count for the new one.
        (FAILED, [FIRST, AGAIN], "1 FAILED, 2 PENDING", "pending", "", "2"),
        (READY, [FIRST, AGAIN], "1 FAILED, 2 RUNNING", "starting", "", "2"),
        # A successor, until it has taken over.
        (
            READY,
            [FIRST, NEXT],
            "1 RUNNING, 2 PENDING",
            "ready",
            "job 2 is to take over (PENDING)",
            "1",
        ),
        (READY, [FIRST, NEXT], "1 RUNNING, 2 FAILED", "ready", "", "1"),
        (LEFT, [FIRST, NEXT], "1 COMPLETED, 2 PENDING", "pending", "", "2"),
        (replace(READY, job_id="2"), [FIRST, NEXT], "1 COMPLETED, 2 RUNNING", "ready", "", "2"),
    ],
)
def test_a_server_of_its_own(
    endpoint: Endpoint | None,
    jobs: Sequence[JobRecord],
    states: str,
    state: str,
    reason: str,
    job: str | None,
    run_dir: RunDir,
) -> None:
    if endpoint is not None:
        publish(run_dir, endpoint)
    words = [each.split() for each in states.split(", ") if each]
    queue = {name: JobState(*said) for name, *said in words}
    found = read_server(PLAN, run_dir, "user", jobs, queue)
    assert (found.state, found.job_id) == (state, job)
    assert found.reason.startswith(reason) and bool(found.reason) == bool(reason)
    # The address is its own job's.
    of_its_job = endpoint is not None and endpoint.job_id == job
    assert found.url == (READY.url if of_its_job else "")


def test_how_many_conversations_a_server_has_of_those_that_it_takes(run_dir: RunDir) -> None:
    running = {"1": JobState("RUNNING")}
    for endpoint, known in (
        (READY, (None, None)),  # of an earlier version
        (replace(READY, limit=64, in_use=23), (23, 64)),
        (replace(READY, limit=64, in_use=23, state="starting"), (None, None)),
    ):
        publish(run_dir, endpoint)
        found = read_server(PLAN, run_dir, "user", [FIRST], running)
        assert (found.in_use, found.limit) == known
    assert describe_use(23, 64) == "23 of 64 conversations"
    assert describe_use(None, None) == ""


def test_a_server_without_a_sign_of_life_is_silent(run_dir: RunDir) -> None:
    write_json(run_dir.endpoint("user"), asdict(READY) | {"heartbeat": LONG_AGO})
    running = {"1": JobState("RUNNING")}
    found = read_server(PLAN, run_dir, "user", [FIRST], running)
    assert found.state == "silent" and found.reason.startswith("no heartbeat for")


def test_a_full_disk_is_why_a_server_gives_no_sign(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(run_dir, READY)
    disk = SimpleNamespace(f_bavail=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda folder: disk)
    found = read_server(PLAN, run_dir, "user", [FIRST], {"1": JobState("GONE")})
    assert found.reason.startswith(f"{run_dir.path}: the disk is FULL")
    assert read_server(PLAN, run_dir, "user", [FIRST], {"1": JobState("RUNNING")}).reason == ""


@pytest.mark.parametrize(
    ("endpoint", "state", "reason"),
    [
        (None, "gone", ""),
        (replace(READY, leases=("ours",)), "ready", ""),
        # A lease that its owner does not know of, or no longer, is none.
        (replace(READY, leases=("another",)), "left", "the lease has ended"),
        (replace(READY, state="starting"), "starting", ""),
        (LEFT, "left", "all cells are done"),
    ],
)
def test_a_leased_server(
    endpoint: Endpoint | None, state: str, reason: str, run_dir: RunDir, tmp_path: Path
) -> None:
    owner = RunDir(tmp_path / "owner")
    if endpoint is not None:
        publish(owner, endpoint)
    point_to_leased(run_dir, "user", ServerLocation(owner, "user", "ours"))
    found = read_server(PLAN, run_dir, "user", [FIRST], {"1": JobState("RUNNING")})
    assert (found.state, found.reason, found.leased_from) == (state, reason, str(owner.path))


@pytest.mark.parametrize("state", ["starting", "ready"])
def test_a_leased_server_without_a_sign_of_life_is_silent(
    state: str, run_dir: RunDir, tmp_path: Path
) -> None:
    owner = RunDir(tmp_path / "owner")
    owner.endpoints.mkdir(parents=True)
    old = asdict(READY) | {"heartbeat": LONG_AGO, "state": state, "leases": ["ours"]}
    write_json(owner.endpoint("user"), old)
    point_to_leased(run_dir, "user", ServerLocation(owner, "user", "ours"))
    assert read_server(PLAN, run_dir, "user", [], {}).state == "silent"
