"""What a server without work waits for, by the queue and by its partners' files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from emobench.core.errors import EmobenchError
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.scheduler.interface import JobState
from emobench.serving.partners import Partnership, Queued, list_partners, look_at_partners
from emobench.serving.resubmission import bring_back, go_back_into_queue
from emobench.store.endpoints import Endpoint, ServerLocation, make_private_folder, publish
from emobench.store.events import EventLog
from emobench.store.jobs import JobKind, JobRecord, add_jobs, note_cancelled, read_jobs
from tests.support import runs
from tests.support.plans import CUDA, scripted
from tests.support.runs import finish_cell
from tests.support.scripted_scheduler import ScriptedScheduler
from tests.support.serving import make_run

USER = JobRecord(JobKind.SERVER, "user", "1")
A = JobRecord(JobKind.SERVER, "assistant_a", "2", "scripts/assistant_vllm_a.sbatch")
ARRAY = JobRecord(JobKind.ARRAY, "a", "3", cells=(0, 1))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = make_run(tmp_path, CUDA)
    add_jobs(found, [USER, A, ARRAY])
    return found


def make_endpoint(job: JobRecord, state: str, final: bool = False) -> Endpoint:
    return Endpoint(
        server=job.name,
        role="user" if job.name == "user" else "assistant",
        url="http://127.0.0.1:1/v1",
        model="scripted",
        incarnation="x",
        engine="scripted",
        host="n1",
        job_id=job.job_id,
        pid=1,
        started="2026-01-01T00:00:00+00:00",
        state=state,  # type: ignore[arg-type]
        final=final,
    )


def look(run_dir: RunDir, instance: str = "user", job_id: str = "1", **states: str) -> Partnership:
    script = ScriptedScheduler(**{f"j{key.lstrip('j')}": value for key, value in states.items()})
    return look_at_partners(load_plan(run_dir), run_dir, instance, job_id, script.all())


def test_a_partner_that_is_queued_is_waited_for(run_dir: RunDir) -> None:
    waits = Partnership(queued=Queued("2", "server assistant_a (job 2)", A))
    assert look(run_dir, j1="RUNNING", j2="PENDING", j3="PENDING") == waits
    assert look(run_dir, "assistant_a", "2", j1="PENDING", j2="RUNNING", j3="PENDING") == (
        Partnership(queued=Queued("1", "server user (job 1)", USER))
    )
    # One that was preempted is queued again, whatever its file says.
    publish(run_dir, make_endpoint(A, "left"))
    assert look(run_dir, j1="RUNNING", j2="PENDING", j3="PENDING") == waits


def test_a_partner_that_runs_or_nobody_can_ask_about_is_on_its_way(run_dir: RunDir) -> None:
    for state in ("RUNNING", "UNKNOWN"):
        assert look(run_dir, j1="RUNNING", j2=state, j3="PENDING") == Partnership(loading=True)
    # The part of a heterogeneous job that has left runs as long as the other part does.
    publish(run_dir, make_endpoint(A, "left"))
    assert look(run_dir, j1="RUNNING", j2="RUNNING", j3="PENDING") == Partnership()


def test_nothing_is_waited_for_that_has_no_job(run_dir: RunDir) -> None:
    assert look(run_dir, j1="RUNNING", j2="FAILED", j3="PENDING") == Partnership()
    # Of a server that was submitted by hand nobody knows what it is for.
    assert look(run_dir, job_id="99", j2="PENDING", j3="PENDING") == Partnership()


def test_one_partner_of_several_is_enough(tmp_path: Path) -> None:
    assistants = {"a": scripted(), "b": scripted()}
    run_dir = runs.make_run(tmp_path / "run", profile=CUDA, assistants=assistants)
    b = replace(A, name="assistant_b", job_id="4")
    add_jobs(run_dir, [USER, A, ARRAY, b])
    assert list_partners(load_plan(run_dir), "user") == ["assistant_a", "assistant_b"]
    assert look(run_dir, j1="RUNNING", j2="PENDING", j4="RUNNING", j3="PENDING").loading
    queued = look(run_dir, j1="RUNNING", j2="PENDING", j4="PENDING", j3="PENDING").queued
    assert queued is not None and queued.server == A
    # One whose cells are done is none any more.
    for cell in load_plan(run_dir).blocks[0].cells:
        finish_cell(run_dir, cell, expected=6, finished=6)
    queued = look(run_dir, j1="RUNNING", j2="PENDING", j4="PENDING", j3="PENDING").queued
    assert queued is not None and queued.server == b


class Tasks(ScriptedScheduler):
    """Tells an array's tasks apart, as Slurm does."""

    def ask_states(self, jobs: Sequence[JobRecord]) -> dict[str, JobState]:
        servers = super().ask_states([job for job in jobs if job.kind is not JobKind.ARRAY])
        return servers | {key: self._state(key) for key in self.script if "_" in key}


def test_the_first_task_in_the_queue_is_the_one_that_is_waited_for(run_dir: RunDir) -> None:
    publish(run_dir, make_endpoint(A, "ready"))
    plan = load_plan(run_dir)

    def wait(**tasks: str) -> str:
        script = Tasks(j1="RUNNING", j2="RUNNING", **tasks)
        found = look_at_partners(plan, run_dir, "user", "1", script.all()).queued
        return "" if found is None else found.job_id

    assert wait(j3_10="PENDING", j3_2="PENDING", j3_0="COMPLETED") == "3_2"
    assert wait(j3_10="PENDING", j3_2="RUNNING") == ""
    assert wait(j3_10="FAILED") == ""


def go_back(run_dir: RunDir, scheduler: ScriptedScheduler, queued: Queued) -> list[JobRecord]:
    return go_back_into_queue(run_dir, "user", "1", queued, scheduler)


def test_a_server_goes_back_behind_what_it_waits_for(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="PENDING")
    (job,) = go_back(run_dir, scheduler, Queued("2", "server a", A))
    assert (job.name, job.takes_over, scheduler.after[job.job_id]) == ("user", "1", "2")
    assert read_jobs(run_dir)[-1] == job
    assert scheduler.ask_states([A])["2"].state == "PENDING"
    # Asked again it has gone back already.
    assert go_back(run_dir, scheduler, Queued("2", "server a", A)) == [job]


def test_a_server_takes_its_partner_along_where_two_start_together(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="PENDING")
    scheduler.pairs = True
    jobs = go_back(run_dir, scheduler, Queued("2", "server a", A))
    assert [(job.name, job.takes_over) for job in jobs] == [("user", "1"), ("assistant_a", "2")]
    assert scheduler.ask_states([A])["2"].state == "CANCELLED"
    # The partner is told by the record, should it have been about to go back by itself.
    (again,) = go_back_into_queue(run_dir, "assistant_a", "2", Queued("1", "", USER), scheduler)
    assert again == jobs[1]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_server_stays_whose_partner_has_started_meanwhile(run_dir: RunDir, pairs: bool) -> None:
    before = read_jobs(run_dir)
    scheduler = ScriptedScheduler(j1="RUNNING", j2="RUNNING")
    scheduler.pairs = pairs
    assert go_back(run_dir, scheduler, Queued("2", "server a", A)) == []
    # Between the two questions, when its own job is in the queue already.
    scheduler = ScriptedScheduler(j1="RUNNING", j2=["PENDING", "RUNNING"])
    scheduler.pairs = True
    assert go_back(run_dir, scheduler, Queued("2", "server a", A)) == []
    assert read_jobs(run_dir) == before
    assert "CANCELLED" in scheduler.script.values()


def test_a_server_goes_back_alone_where_no_two_may_start_together(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="PENDING")
    scheduler.pairs, scheduler.refuses = True, "assistant_a"
    (job,) = go_back(run_dir, scheduler, Queued("2", "server a", A))
    assert (job.name, scheduler.after[job.job_id]) == ("user", "2")
    assert scheduler.ask_states([A])["2"].state == "PENDING"


def test_a_server_stays_where_the_queue_refuses(run_dir: RunDir) -> None:
    scheduler = ScriptedScheduler(j1="RUNNING", j2="PENDING")
    scheduler.refuses = "user"
    with pytest.raises(EmobenchError, match="no user today"):
        go_back(run_dir, scheduler, Queued("2", "server a", A))
    assert read_jobs(run_dir) == [USER, A, ARRAY]


@pytest.mark.parametrize(
    ("state", "said", "comes"),
    [
        ("TIMEOUT", None, True),
        ("NODE_FAIL", make_endpoint(USER, "ready"), True),
        ("COMPLETED", make_endpoint(USER, "left"), True),
        ("GONE", make_endpoint(USER, "left"), True),
        ("COMPLETED", make_endpoint(USER, "left", final=True), False),
        ("COMPLETED", None, False),
        ("GONE", make_endpoint(USER, "ready"), False),
        ("FAILED", make_endpoint(USER, "failed"), False),
        ("CANCELLED", make_endpoint(USER, "ready"), False),
        ("CANCELLED", replace(make_endpoint(USER, "left"), reason="received SIGTERM"), False),
        ("CANCELLED", replace(make_endpoint(USER, "left"), reason="idle for 60 minutes"), True),
        ("OUT_OF_MEMORY", make_endpoint(USER, "ready"), False),
    ],
)
def test_a_server_that_did_not_mean_to_go_is_brought_back(
    run_dir: RunDir, state: str, said: Endpoint | None, comes: bool
) -> None:
    if said is not None:
        publish(run_dir, said)
    scheduler = ScriptedScheduler(j1=state)
    words = bring_back(ServerLocation(run_dir, "user"), scheduler.all())
    assert bool(words) == comes
    assert len(read_jobs(run_dir)) == 3 + comes
    if comes:
        assert read_jobs(run_dir)[-1].takes_over == "1"
        # Whoever comes next finds it in the queue.
        assert "in the queue" in bring_back(ServerLocation(run_dir, "user"), scheduler.all())
        assert len(read_jobs(run_dir)) == 4


def test_a_server_is_not_brought_back_that_somebody_cancelled_or_never_loads(
    run_dir: RunDir,
) -> None:
    scheduler = ScriptedScheduler(j1="TIMEOUT").all()
    make_private_folder(run_dir)
    for job in ("6", "7", "8", "9"):
        EventLog(run_dir, "user", job).note("starting", job)
    assert bring_back(ServerLocation(run_dir, "user"), scheduler) == ""
    EventLog(run_dir, "user", "9").note("ready")
    note_cancelled(run_dir, [USER])
    assert bring_back(ServerLocation(run_dir, "user"), scheduler) == ""
    assert bring_back(ServerLocation(run_dir, "user", lease="x"), scheduler) == ""
