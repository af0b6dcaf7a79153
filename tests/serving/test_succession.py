"""When a server's job submits the one that takes over, and when it does not."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import OwnJob
from emobench.serving import handover
from emobench.serving.handover import Handover, Succession
from emobench.store import events
from emobench.store.endpoints import read_endpoint
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs, write_jobs
from tests.support.plans import LOCAL, make_plan
from tests.support.processes import until
from tests.support.runs import change_sweep, finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler
from tests.support.serving import assert_stays, make_run, supervising, until_state
from tests.support.slurm_commands import SlurmCommands

JOBS = [JobRecord(JobKind.SERVER, "user", "1"), JobRecord(JobKind.ARRAY, "a", "2", cells=(0, 1))]


@pytest.fixture
def slurm(tmp_path: Path) -> SlurmCommands:
    """Of a site where the server is job 1 and its array job 2; both run."""
    slurm = SlurmCommands(tmp_path / "slurm")
    slurm.say("squeue", "1|RUNNING|None|n1", "2_0|RUNNING|None|n1", "2_1|RUNNING|None|n1")
    return slurm


def ends_in(slurm: SlurmCommands, seconds: float, preempted: bool = False) -> None:
    """Let Slurm say that the server's job, which began an hour ago, ends so soon."""
    now = int(time.time())
    preempt = str(now) if preempted else "None"
    line = f"JobId=1 StartTime={now - 3600} EndTime={now + round(seconds)} PreemptTime={preempt}"
    slurm.say("scontrol", line)


def make_slurm_run(folder: Path, lead_min: float, deadline_min: float = 5) -> RunDir:
    profile = LOCAL.model_copy(
        update={
            "scheduler": "slurm",
            "handover_lead_min": lead_min,
            "server_deadline_min": deadline_min,
        }
    )
    run_dir = make_run(folder, profile)
    add_jobs(run_dir, JOBS)
    return run_dir


def successors(run_dir: RunDir) -> list[JobRecord]:
    return [job for job in read_jobs(run_dir) if job.takes_over == "1"]


@pytest.mark.parametrize("lead_min", [0.1, 1, 3])
def test_a_server_that_is_warned_before_its_lead_submits_its_successor_then(
    lead_min: float, slurm: SlurmCommands, tmp_path: Path
) -> None:
    """The warning may come a minute early."""
    ends_in(slurm, 300)
    run_dir = make_slurm_run(tmp_path, lead_min)
    with supervising(run_dir, SLURM_JOB_ID="1", **slurm.environment) as process:
        until_state(run_dir, "ready")
        assert_stays(process, run_dir)
        assert successors(run_dir) == []
        process.send_signal(signal.SIGUSR1)
        assert process.wait(240) == 0
    (call,) = slurm.calls("sbatch")
    assert call.endswith("--takes-over 1")
    assert successors(run_dir) == [
        replace(
            JOBS[0],
            job_id="101",
            script="scripts/user_vllm.sbatch",
            submitted=successors(run_dir)[0].submitted,
            takes_over="1",
        )
    ]
    left = read_endpoint(run_dir, "user")
    assert left is not None
    assert (left.state, left.final) == ("left", False)


@pytest.fixture
def scheduler() -> ScriptedScheduler:
    return ScriptedScheduler()


@pytest.fixture
def succession(
    scheduler: ScriptedScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Succession:
    """Of job 1, with a lead of five minutes, which looks whenever it is asked to. Another server
    has a successor in the queue."""
    monkeypatch.setattr(handover, "MAX_CHECK_S", 0.0)
    run_dir = RunDir(tmp_path)
    add_jobs(run_dir, [*JOBS, JobRecord(JobKind.SERVER, "assistant_a", "9", takes_over="8")])
    scheduler.script["9"] = "PENDING"
    plan = make_plan(LOCAL.model_copy(update={"handover_lead_min": 5}))
    return Succession(plan, run_dir, "user", "1", scheduler)


def own_job(left_s: float, limit_s: float = 3600, preempted: bool = False) -> OwnJob:
    end = time.time() + left_s
    return OwnJob(end - limit_s, end, preempted)


@pytest.mark.parametrize(
    ("left_s", "limit_s", "preempted", "submitted"),
    [
        (280, 3600, False, True),
        (3000, 3600, False, False),
        # A lead longer than half of the limit is that half.
        (280, 400, False, False),
        (180, 400, False, True),
        (10, 3600, True, False),
    ],
)
def test_a_successor_is_submitted_when_the_lead_begins(
    left_s: float,
    limit_s: float,
    preempted: bool,
    submitted: bool,
    succession: Succession,
    scheduler: ScriptedScheduler,
) -> None:
    scheduler.own = OwnJob(time.time())
    succession.poll(60)
    assert succession.successor is None, "no end is set"
    scheduler.own = own_job(left_s, limit_s, preempted)
    succession.poll(60)
    assert (succession.successor is not None) == submitted


def test_the_lead_stays_that_of_the_limit_which_the_job_was_given(
    succession: Succession, scheduler: ScriptedScheduler
) -> None:
    scheduler.own = own_job(3000)
    succession.poll(60)
    scheduler.own = own_job(280, limit_s=400)
    succession.poll(60)
    assert succession.successor is not None


@pytest.mark.parametrize("warned", [False, True])
def test_successors_that_never_come_up_are_submitted_three_times_at_most(
    warned: bool, succession: Succession, scheduler: ScriptedScheduler, tmp_path: Path
) -> None:
    scheduler.own = own_job(250 if warned else 100)
    scheduler.script |= {str(number): "FAILED" for number in range(100, 110)}
    for _ in range(6):
        if warned:
            assert succession.submit_now()
        else:
            succession.poll(60)
    assert [job.job_id for job in successors(RunDir(tmp_path))] == ["100", "101", "102"]


@pytest.mark.parametrize(
    ("ready", "submits"),
    [([], False), (["1"], True), (["93"], True), (["92"], True), (["91"], False)],
)
def test_jobs_that_are_never_ready_do_not_follow_each_other_for_ever(
    ready: list[str],
    submits: bool,
    succession: Succession,
    scheduler: ScriptedScheduler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A model that does not load within the job's limit held cards without end."""
    run_dir = RunDir(tmp_path)
    run_dir.endpoints.mkdir()
    monkeypatch.setattr(events, "_now", count(1.0).__next__)
    for job in ("91", "92", "93", "94", "1"):
        log = EventLog(run_dir, "user", job)
        log.note("starting")
        if job in ready:
            log.note("ready")
    EventLog(run_dir, "assistant_a", "95").note("ready")
    scheduler.own = own_job(100)
    assert succession.submit_now()
    assert bool(successors(run_dir)) == submits
    said = "no successor is submitted: 5 jobs in a row were not ready before their time limit"
    assert (said in capsys.readouterr().out) == (ready == [])


def test_one_that_is_in_the_queue_is_enough(
    succession: Succession, scheduler: ScriptedScheduler, tmp_path: Path
) -> None:
    """Also where a job that Slurm started again finds the one that it had submitted before."""
    scheduler.own = own_job(100)
    add_jobs(RunDir(tmp_path), [replace(JOBS[0], job_id="7", takes_over="1")])
    scheduler.script["7"] = "PENDING"
    for _ in range(3):
        succession.poll(60)
        assert succession.submit_now()
    assert [job.job_id for job in successors(RunDir(tmp_path))] == ["7"]
    succession.withdraw()
    assert scheduler.script["7"] == "CANCELLED"


def test_the_successor_of_a_job_that_is_not_on_record_is_not_either(
    succession: Succession, scheduler: ScriptedScheduler, tmp_path: Path
) -> None:
    write_jobs(RunDir(tmp_path), JOBS[1:])
    assert succession.submit_now()
    assert succession.successor is not None
    assert read_jobs(RunDir(tmp_path)) == JOBS[1:]


def test_a_refused_submission_is_tried_again_as_long_as_there_is_time(
    scheduler: ScriptedScheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "find_scheduler", lambda profile: scheduler)
    run_dir = RunDir(tmp_path)
    add_jobs(run_dir, JOBS)
    passed = Handover(make_plan(LOCAL), run_dir, "user", "1", "")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        scheduler.refuses = "" if len(waits) == 2 else "user"

    scheduler.refuses = "user"
    for own, signal_name in ((own_job(-1), "SIGUSR1"), (own_job(60), "SIGTERM")):
        scheduler.own = own
        passed.submit_now(lambda name=signal_name: name, wait, 20)  # type: ignore[misc]
        assert (waits, successors(run_dir)) == ([], [])
    passed.submit_now(lambda: "SIGUSR1", wait, 20)
    assert (len(waits), len(successors(run_dir))) == (2, 1)


@pytest.mark.parametrize("why", ["preempted", "SIGTERM", "not ready", "kept"])
def test_no_successor_where_none_is_needed_or_slurm_starts_the_job_again(
    why: str, slurm: SlurmCommands, tmp_path: Path
) -> None:
    ends_in(slurm, 300, preempted=why in ("preempted", "SIGTERM"))
    run_dir = make_slurm_run(tmp_path, lead_min=0.1)
    if why == "not ready":
        (run_dir.scripts / "serve_user.sh").write_text("exec sleep 600\n")
    if why == "kept":
        change_sweep(run_dir, keep_servers_min=60)
    with supervising(run_dir, SLURM_JOB_ID="1", **slurm.environment) as process:
        until_state(run_dir, "starting" if why == "not ready" else "ready")
        if why == "kept":
            for cell in (0, 1):
                finish_cell(run_dir, cell)
            until(lambda: until_state(run_dir, "ready").kept_until, "the server to be kept")
        process.send_signal(signal.SIGTERM if why == "SIGTERM" else signal.SIGUSR1)
        assert process.wait(240) == 0
    assert slurm.calls("sbatch") == []
    requeued = [call for call in slurm.calls("scontrol") if call.startswith("requeue")]
    assert requeued == (["requeue 1"] if why == "preempted" else [])


def test_a_successor_comes_before_the_limit_and_goes_when_nobody_needs_it(
    slurm: SlurmCommands, tmp_path: Path
) -> None:
    ends_in(slurm, 200)
    slurm.say("squeue", "2_0|RUNNING|None|n1", "101|PENDING|Priority|")
    run_dir = make_slurm_run(tmp_path, lead_min=4)
    with supervising(run_dir, SLURM_JOB_ID="1", **slurm.environment) as process:
        until(lambda: successors(run_dir), "a successor")
        until_state(run_dir, "ready")
        for cell in (0, 1):
            finish_cell(run_dir, cell)
        assert process.wait(240) == 0
    assert len(slurm.calls("sbatch")) == 1
    assert slurm.calls("scancel") == ["101"]
