"""Whether a client goes on waiting for a server, by its file and by what the queue says."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from emobench.core.errors import ServersGone
from emobench.core.files import write_json
from emobench.core.run_dir import RunDir
from emobench.serving import waiting
from emobench.serving.waiting import find_server, wait_for_endpoint
from emobench.store.endpoints import Endpoint, load_api_key, publish
from emobench.store.jobs import JobKind, JobRecord, add_jobs
from tests.support.scripted_scheduler import ScriptedScheduler
from tests.support.serving import READY

FAILED = replace(READY, state="failed", reason="no card")
LEFT = replace(READY, state="left", reason="its time is up")
FIRST = JobRecord(JobKind.SERVER, "user", "1")
NEXT = JobRecord(JobKind.SERVER, "user", "2", takes_over="1")
OTHER = JobRecord(JobKind.SERVER, "assistant_a", "3")
ARRAY = JobRecord(JobKind.ARRAY, "user", "4")
WAITS = "interrupted while waiting for server user"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setattr(waiting, "JOB_CHECK_S", 0.0)
    return RunDir(tmp_path)


def end_of_wait(
    run_dir: RunDir, states: dict[str, str], *instances: str, deadline_s: float = 60.0
) -> str:
    """Why the wait ended; a client that goes on waiting is interrupted after three looks."""
    left = iter(range(3))
    with pytest.raises(ServersGone) as ended:
        wait_for_endpoint(
            run_dir,
            *instances or ("user",),
            deadline_s=deadline_s,
            poll_s=0.0,
            interrupted=lambda: next(left, None) is None,
            schedulers=ScriptedScheduler(**states).all(),
        )
    return str(ended.value)


@pytest.mark.parametrize(
    ("endpoint", "jobs", "states", "end"),
    [
        # Its own word is the last one where no other job of it lives.
        (FAILED, [FIRST], {"j1": "RUNNING"}, "server user failed: no card"),
        (FAILED, [FIRST, NEXT], {"j1": "FAILED", "j2": "FAILED"}, "server user failed: no card"),
        (FAILED, [FIRST, NEXT], {"j1": "FAILED", "j2": "PENDING"}, WAITS),
        (FAILED, [FIRST, NEXT], {"j1": "FAILED", "j2": "RUNNING"}, WAITS),
        (replace(LEFT, final=True), [FIRST], {"j1": "RUNNING"}, "server user has left: its time"),
        (replace(LEFT, final=True), [FIRST, NEXT], {"j2": "PENDING"}, WAITS),
        (LEFT, [FIRST], {"j1": "RUNNING"}, WAITS),
        # Without a word of its own the queue's counts.
        (LEFT, [FIRST], {"j1": "COMPLETED"}, "server user has left: its time"),
        (None, [FIRST], {"j1": "PENDING"}, WAITS),
        (None, [FIRST], {"j1": "RUNNING"}, WAITS),
        (None, [FIRST], {"j1": "FAILED"}, "server user is gone: its job 1: FAILED"),
        (None, [FIRST, NEXT], {"j1": "TIMEOUT", "j2": "PENDING"}, WAITS),
        (None, [FIRST, NEXT], {"j1": "TIMEOUT", "j2": "FAILED"}, "its job 2: FAILED"),
        # A successor that failed says nothing of the server that it was to take over from.
        (None, [FIRST, NEXT], {"j1": "RUNNING", "j2": "FAILED"}, WAITS),
        # Other servers' jobs, and arrays, say nothing of this one.
        (None, [FIRST, OTHER, ARRAY], {"j1": "FAILED", "j3": "PENDING", "j4": "RUNNING"}, "job 1"),
        # What cannot be asked about may be alive; nothing is known of what was started by hand.
        (None, [FIRST], {"j1": "UNKNOWN"}, WAITS),
        (None, [], {}, WAITS),
    ],
)
def test_who_is_waited_for(
    endpoint: Endpoint | None,
    jobs: list[JobRecord],
    states: dict[str, str],
    end: str,
    run_dir: RunDir,
) -> None:
    if endpoint is not None:
        publish(run_dir, endpoint)
    add_jobs(run_dir, jobs)
    said = end_of_wait(run_dir, states)
    assert end in said


@pytest.mark.parametrize(
    ("states", "in_time"),
    [
        ({"j1": "PENDING"}, True),
        ({"j1": "RUNNING"}, False),
        ({"j1": "UNKNOWN"}, False),
        # One replica in the queue is enough.
        ({"j1": "RUNNING", "j5": "PENDING"}, True),
    ],
)
def test_the_deadline_counts_only_while_no_job_is_queued(
    states: dict[str, str], in_time: bool, run_dir: RunDir
) -> None:
    add_jobs(run_dir, [FIRST, replace(FIRST, name="user+2", job_id="5")])
    said = end_of_wait(run_dir, states, "user", "user+2", deadline_s=0.0)
    expected = "interrupted" if in_time else "server user or user+2 was not ready within 0 s"
    assert said.startswith(expected)


class Clock:
    """Stands in for the time of emobench.serving.waiting; sleeping takes none."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)


def test_the_deadline_begins_anew_when_the_job_starts(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    add_jobs(run_dir, [FIRST])
    scheduler = ScriptedScheduler(j1=["PENDING"] * 10 + ["RUNNING"])
    with pytest.raises(ServersGone, match="not ready within 60 s"):
        wait_for_endpoint(run_dir, "user", deadline_s=60, poll_s=10, schedulers=scheduler.all())
    assert 150 <= clock.now <= 160


def test_a_replica_that_is_on_its_way_is_waited_for(run_dir: RunDir) -> None:
    publish(run_dir, FAILED)
    second = replace(FIRST, name="user+2", job_id="5")
    add_jobs(run_dir, [FIRST, second])
    both = ("user", "user+2")
    assert "interrupted" in end_of_wait(run_dir, {"j1": "FAILED", "j5": "RUNNING"}, *both)
    said = end_of_wait(run_dir, {"j1": "FAILED", "j5": "FAILED"}, *both)
    assert said.startswith("server user") and "server user+2 is gone: its job 5: FAILED" in said


def test_a_file_without_a_sign_of_life_is_not_believed(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job was killed, and somebody else may answer there by now."""
    asked: list[object] = []
    monkeypatch.setattr(waiting, "verify_server", lambda *about: asked.append(about))
    load_api_key(run_dir, create=True)
    publish(run_dir, READY)
    assert find_server(run_dir, "user")[0] is not None
    write_json(run_dir.endpoint("user"), asdict(READY) | {"heartbeat": "2026-01-01T00:00:00+00:00"})
    found, problem = find_server(run_dir, "user")
    assert found is None
    assert problem.startswith("its last sign of life was")
    assert len(asked) == 1
    publish(run_dir, replace(READY, state="starting", reason="restart 1 of 3"))
    assert find_server(run_dir, "user") == (None, "its state is 'starting' restart 1 of 3")
