"""Who writes an endpoint's file, which incarnations follow each other, and jobs.json's lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.errors import ServersGone
from emobench.core.run_dir import RunDir
from emobench.llm.engine_metrics import Load
from emobench.scheduler.interface import OwnJob
from emobench.scheduler.slurm_commands import parse_own_job
from emobench.serving import handover, waiting
from emobench.serving.handover import EndpointClaim
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import Endpoint, load_api_key, publish, read_endpoint
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs
from tests.support.plans import make_plan
from tests.support.scripted_scheduler import ScriptedScheduler

OLD = Endpoint("user", "user", "http://h/v1", "m", "a", "vllm", "h", "1", 1, "2026-01-01T00:00:00Z")
NEW = replace(OLD, job_id="2", incarnation="b")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def present(run_dir: RunDir) -> Endpoint:
    found = read_endpoint(run_dir, "user")
    assert found is not None
    return found


def test_a_successor_takes_the_file_when_it_is_ready_and_not_before(run_dir: RunDir) -> None:
    old, new = EndpointClaim(run_dir, "user", "1", ""), EndpointClaim(run_dir, "user", "2", "1")
    old.publish(replace(OLD, state="ready"))
    new.publish(NEW)
    assert present(run_dir).job_id == "1"
    assert run_dir.successor("user").exists()
    new.publish(replace(NEW, state="ready"))
    assert (present(run_dir).incarnation, present(run_dir).follows) == ("b", ("a",))
    assert not run_dir.successor("user").exists()
    old.publish(replace(OLD, state="ready"))
    old.publish(replace(OLD, state="left"))
    assert (present(run_dir).job_id, old.lost_to) == ("2", "2")
    # The next in the chain; and a crash, which ends it.
    third = EndpointClaim(run_dir, "user", "3", "2")
    third.publish(replace(OLD, job_id="3", incarnation="c", state="ready"))
    assert present(run_dir).follows == ("b", "a")
    third.publish(replace(OLD, job_id="3", incarnation="d", state="ready"))
    assert present(run_dir).follows == ()


def test_a_second_successor_leaves_the_first_alone(run_dir: RunDir) -> None:
    EndpointClaim(run_dir, "user", "1", "").publish(replace(OLD, state="ready"))
    EndpointClaim(run_dir, "user", "2", "1").publish(replace(NEW, state="ready"))
    late = EndpointClaim(run_dir, "user", "9", "1")
    late.publish(replace(OLD, job_id="9", incarnation="z", state="ready"))
    assert (present(run_dir).job_id, late.lost_to) == ("2", "2")


@pytest.mark.parametrize(("state", "follows"), [("left", ("a",)), ("ready", ()), ("failed", ())])
def test_only_who_left_in_order_is_followed(
    run_dir: RunDir, state: str, follows: tuple[str, ...]
) -> None:
    """A job that Slurm started again finds its own last word."""
    publish(run_dir, replace(OLD, state=state))  # type: ignore[arg-type]
    EndpointClaim(run_dir, "user", "1", "").publish(replace(OLD, incarnation="b"))
    assert present(run_dir).follows == follows


def test_a_successor_goes_first_where_nobody_serves(run_dir: RunDir) -> None:
    publish(run_dir, replace(OLD, state="left"))
    claim = EndpointClaim(run_dir, "user", "2", "1")
    claim.publish(NEW)
    assert (present(run_dir).state, present(run_dir).follows) == ("starting", ("a",))


def test_a_queued_job_stops_the_clock_of_its_clients(run_dir: RunDir) -> None:
    publish(run_dir, replace(OLD, state="left"))
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "1")])
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "2", takes_over="1")])
    scheduler = ScriptedScheduler(
        j1="COMPLETED", j2=["PENDING", "REQUEUED", "CONFIGURING", "RUNNING"]
    )
    with pytest.raises(ServersGone, match=r"not ready within 0\.05 s: its state is 'left'"):
        wait_for_endpoint(run_dir, "user", deadline_s=0.05, poll_s=0.01, schedulers=scheduler.all())
    assert scheduler.asked == [["1", "2"]] * 4


def test_all_replicas_have_to_be_gone(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "verify_server", lambda *_: None)
    load_api_key(run_dir, create=True)
    publish(run_dir, replace(OLD, state="failed", reason="out of memory"))
    publish(run_dir, replace(OLD, server="user+2", incarnation="x", state="ready"))
    found = wait_for_endpoint(run_dir, "user", "user+2", deadline_s=240)
    assert found.endpoint.server == "user+2"
    publish(run_dir, replace(OLD, server="user+2", state="failed", reason="no card"))
    with pytest.raises(ServersGone, match=r"user failed: out of memory; .*user\+2 failed: no card"):
        wait_for_endpoint(run_dir, "user", "user+2", deadline_s=240)


def test_many_writers_lose_no_job(run_dir: RunDir) -> None:
    code = (
        "import sys; from pathlib import Path; from emobench.core.run_dir import RunDir\n"
        "from emobench.store.jobs import JobKind, JobRecord, add_jobs\n"
        "for n in range(20):\n"
        "    job = JobRecord(JobKind.SERVER, 'user', f'{sys.argv[2]}.{n}')\n"
        "    add_jobs(RunDir(Path(sys.argv[1])), [job])\n"
    )
    command = [sys.executable, "-c", code, str(run_dir.path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [writer.wait(240) for writer in writers] == [0, 0, 0, 0]
    wanted = {f"{writer}.{n}" for writer in range(4) for n in range(20)}
    assert {job.job_id for job in read_jobs(run_dir)} == wanted


def test_what_slurm_says_of_a_job() -> None:
    line = (
        "JobId=5 TimeLimit=00:10:00 StartTime=100 EndTime={} PreemptEligibleTime=100 PreemptTime={}"
    )
    assert parse_own_job(line.format(700, "None")) == OwnJob(100, 700, False)
    assert parse_own_job(line.format(105, "101")) == OwnJob(100, 105, True)
    assert parse_own_job(line.format("Unknown", "None")) == OwnJob(100, None, False)
    assert OwnJob(100, 700).limit_s == 600
    assert parse_own_job("slurm_load_jobs error: Invalid job id specified") is None


class Requests:
    """Stands in for time and for an engine's load in emobench.serving.handover: a second a look."""

    def __init__(self, loads: Sequence[Load | OSError]) -> None:
        self._loads, self.now = list(loads), 0.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 1.0

    def ask(self, url: str) -> Load:
        load = self._loads[min(int(self.now), len(self._loads) - 1)]
        if isinstance(load, OSError):
            raise load
        return load


BUSY, WAITING, IDLE, SILENT = Load(2, 0), Load(0, 1), Load(0, 0), Load(None, None)


@pytest.mark.parametrize(
    ("loads", "ends"),
    [
        ([IDLE], 5),
        ([BUSY] * 10 + [IDLE], 14),
        ([WAITING] * 10 + [IDLE], 14),
        # Quiet for less than five seconds, between two requests.
        ([IDLE] * 4 + [BUSY] + [IDLE], 9),
        # Nothing is known of its requests, or they do not end in time.
        ([SILENT], 100),
        ([BUSY], 100),
        ([BUSY] * 7 + [OSError("refused")], 7),
    ],
)
def test_requests_under_way_are_waited_for(
    loads: list[Load | OSError], ends: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Requests(loads)
    monkeypatch.setattr(handover, "time", engine)
    monkeypatch.setattr(handover, "ask_load", engine.ask)
    handover.drain("http://h", 100, engine.sleep, lambda: False, 5)
    assert engine.now == ends
    handover.drain("http://h", 1000, engine.sleep, lambda: True, 5)
    assert engine.now == ends


@pytest.mark.parametrize(
    ("received", "left_s", "ends"),
    [
        # The engine needs 20 s to stop, or a quarter of what there is.
        ("SIGUSR1", 100, 80),
        ("SIGUSR1", 40, 30),
        ("SIGUSR1", None, 280),
        ("SIGTERM", 100, 0),
        ("", 100, 0),
    ],
)
def test_a_server_that_was_warned_drains_and_one_that_nobody_needs_does_not(
    received: str,
    left_s: float | None,
    ends: float,
    run_dir: RunDir,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, scheduler = Requests([BUSY]), ScriptedScheduler()
    monkeypatch.setattr(handover, "time", engine)
    monkeypatch.setattr(handover, "ask_load", engine.ask)
    monkeypatch.setattr(handover, "find_scheduler", lambda profile: scheduler)
    scheduler.own = OwnJob(0, left_s)
    passed = handover.Handover(make_plan(), run_dir, "user", "1", "")
    passed.submit_now(lambda: received, engine.sleep, 20)
    (successor,) = [job for job, state in scheduler.script.items() if state == "PENDING"]
    passed.drain_or_withdraw("http://h", lambda: received, engine.sleep, 20, 5)
    assert engine.now == ends
    # Only where nobody needs a server any more the successor goes as well.
    assert scheduler.script[successor] == ("PENDING" if received else "CANCELLED")


def test_a_server_whose_place_is_taken_submits_nothing_and_drains(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, scheduler = Requests([BUSY] * 3 + [IDLE]), ScriptedScheduler()
    monkeypatch.setattr(handover, "ask_load", engine.ask)
    monkeypatch.setattr(handover, "find_scheduler", lambda profile: scheduler)
    passed = handover.Handover(make_plan(), run_dir, "user", "1", "")
    passed.publish(replace(OLD, state="ready"))
    EndpointClaim(run_dir, "user", "2", "1").publish(replace(NEW, state="ready"))
    assert passed.explain_leaving() == ""
    passed.publish(replace(OLD, state="ready"))
    assert passed.explain_leaving() == "handed over to job 2"
    monkeypatch.setattr(handover, "time", engine)
    passed.submit_now(lambda: "SIGUSR1", engine.sleep, 20)
    passed.drain_or_withdraw("http://h", lambda: "", engine.sleep, 20, 5)
    assert (engine.now, scheduler.script) == (7, {})


def test_a_chain_of_incarnations_keeps_the_newest(run_dir: RunDir) -> None:
    follows = tuple(str(number) for number in range(60))
    publish(run_dir, replace(OLD, state="left", follows=follows))
    EndpointClaim(run_dir, "user", "2", "1").publish(NEW)
    assert present(run_dir).follows == ("a", *follows[:49])


def test_a_successor_that_gives_up_leaves_no_file(run_dir: RunDir) -> None:
    EndpointClaim(run_dir, "user", "1", "").publish(replace(OLD, state="ready"))
    waiting_one = EndpointClaim(run_dir, "user", "2", "1")
    waiting_one.publish(NEW)
    waiting_one.publish(replace(NEW, state="left"))
    assert not run_dir.successor("user").exists()
    assert (present(run_dir).job_id, present(run_dir).state) == ("1", "ready")


@pytest.mark.parametrize(
    ("state", "follows"),
    [("ready", ("a",)), ("starting", ("a",)), ("failed", ()), ("left", ("a",))],
)
def test_a_successor_follows_who_it_takes_over_from_unless_that_one_failed(
    state: str, follows: tuple[str, ...], run_dir: RunDir
) -> None:
    publish(run_dir, replace(OLD, state=state))  # type: ignore[arg-type]
    EndpointClaim(run_dir, "user", "2", "1").publish(replace(NEW, state="ready"))
    assert present(run_dir).follows == follows


def test_a_job_of_a_new_submission_follows_nobody_who_serves(run_dir: RunDir) -> None:
    publish(run_dir, replace(OLD, state="ready"))
    claim = EndpointClaim(run_dir, "user", "2", "")
    claim.publish(NEW)
    assert (present(run_dir).job_id, present(run_dir).follows) == ("2", ())
    assert claim.lost_to == ""


def test_a_successor_that_fails_at_once_does_not_end_the_server_before_it(run_dir: RunDir) -> None:
    old, new = EndpointClaim(run_dir, "user", "1", ""), EndpointClaim(run_dir, "user", "2", "1")
    old.publish(replace(OLD, state="ready"))
    new.publish(replace(NEW, state="ready"))
    new.publish(replace(NEW, state="failed", reason="no card"))
    old.publish(replace(OLD, state="ready"))
    assert (present(run_dir).job_id, present(run_dir).state, old.lost_to) == ("1", "ready", "")
