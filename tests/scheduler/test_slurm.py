"""What Slurm is asked and told, with commands that answer what a test says."""

from __future__ import annotations

from pathlib import Path

import pytest

from emobench.core.errors import EmobenchError, SubmissionRefused
from emobench.core.job_id import PART_ID
from emobench.core.plan import Plan
from emobench.core.run_dir import RunDir
from emobench.runs.submission import write_scripts
from emobench.scheduler import slurm_commands
from emobench.scheduler.interface import JobState
from emobench.scheduler.job_comment import JobComment
from emobench.scheduler.schedulers import Schedulers
from emobench.scheduler.slurm import SlurmScheduler
from emobench.scheduler.slurm_commands import ask_slurm_states, cancel_slurm
from emobench.store.jobs import JobKind, JobRecord, add_jobs, read_jobs
from tests.support.plans import CUDA, make_plan, scripted
from tests.support.slurm_commands import SlurmCommands

SLURM = SlurmScheduler()
SERVERS = ("user", "user+2", "assistant_a", "assistant_b")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCommands:
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return slurm


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two assistants with four cells each: a (cells 0 to 3) and b (4 to 7)."""
    return make_plan(
        CUDA.model_copy(update={"throttle": 3}),
        tmp_path / "logs",
        scripted(replicas=2),
        {"a": scripted(), "b": scripted()},
    )


@pytest.fixture
def run_dir(plan: Plan, tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    write_scripts(plan, run_dir)
    return run_dir


def queue(slurm: SlurmCommands, **states: str) -> None:
    """Let squeue know of these jobs (with a letter before the id) and no others."""
    slurm.say("squeue", *(f"{name[1:]}|{state}|None|" for name, state in states.items()))


def submitted(slurm: SlurmCommands) -> list[str]:
    """sbatch's options of each call, without the copy of the script that is submitted."""
    return [
        " ".join(word for word in call.split() if not word.startswith("/"))
        for call in slurm.calls("sbatch")
    ]


def test_arrays_start_after_the_servers_that_have_not_started(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    queue(slurm, j101="PENDING", j102="PENDING", j103="PENDING", j104="RUNNING")
    jobs = SLURM.submit(plan, run_dir, {"a": [3, 0, 1], "b": [6]}, SERVERS)
    assert submitted(slurm)[4:] == [
        # The first replica in the queue is enough; b's own server runs already.
        "--array=0-1,3%3 --dependency=after:101:103",
        "--array=2%3 --dependency=after:101",
    ]
    assert [job.name for job in jobs] == [*SERVERS, "a", "b"]
    assert jobs[4].cells == (0, 1, 3)


def test_two_servers_of_a_heterogeneous_job_are_one_submission(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    together = plan.profile.model_copy(update={"placement": "hetjob"})
    plan = plan.model_copy(update={"profile": together})
    write_scripts(plan, run_dir)
    slurm.answer("sbatch", 'echo >> ids; echo "Submitted batch job $((100 * $(wc -l < ids)))"')
    jobs = SLURM.submit(plan, run_dir, {"a": [0]}, SERVERS)
    assert [(job.name, job.job_id, job.script) for job in jobs[:4]] == [
        ("user", "100", "scripts/servers_a.sbatch"),
        ("assistant_a", "101", "scripts/servers_a.sbatch"),
        ("user+2", "200", "scripts/user_vllm.sbatch"),
        ("assistant_b", "300", "scripts/assistant_vllm_b.sbatch"),
    ]
    assert read_jobs(run_dir) == jobs
    # Where one of the two is there already, the other is a job of its own.
    jobs = SLURM.submit(plan, run_dir, {"a": [1]}, ["assistant_a"])
    assert jobs[0].script == "scripts/assistant_vllm_a.sbatch"


def test_each_server_is_a_job_where_the_site_takes_no_heterogeneous_jobs(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"placement": "hetjob"})})
    write_scripts(plan, run_dir)
    no = "sbatch: error: Batch job submission failed: Requested operation not supported on this"
    slurm.answer(
        "sbatch",
        'for each; do [ -f "$each" ] && grep -q hetjob "$each" && '
        f'echo "{no} system" >&2 && exit 1; done\n'
        'echo >> ids; echo "Submitted batch job $((100 + $(wc -l < ids)))"',
    )
    jobs = SLURM.submit(plan, run_dir, {"a": [0]}, SERVERS)
    assert [(job.name, job.job_id) for job in jobs[:2]] == [*(("user", "101"), ("user+2", "102"))]
    assert len(jobs) == len(SERVERS) + 1
    assert "each server becomes a job of its own" in capsys.readouterr().err


def test_two_servers_that_are_one_job_have_ids_of_their_own(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    site = plan.profile.model_copy(
        update={"placement": "together", "assistant_server": plan.profile.user_server}
    )
    plan = plan.model_copy(update={"profile": site})
    write_scripts(plan, run_dir)
    slurm.answer("sbatch", 'echo >> ids; echo "Submitted batch job $((100 * $(wc -l < ids)))"')
    queue(slurm, j100="PENDING")
    jobs = SLURM.submit(plan, run_dir, {"a": [0]}, ["user", "assistant_a"])
    assert [(job.name, job.job_id) for job in jobs[:2]] == [
        ("user", "100.0"),
        ("assistant_a", "100.1"),
    ]
    assert "--dependency=after:100 " in submitted(slurm)[-1] + " "
    states = SLURM.ask_states(jobs[:2])
    assert states["100.0"].state == states["100.1"].state == "PENDING"
    assert SLURM.find_live(jobs[:2]) == jobs[:2]
    # What nobody recorded is found as both.
    both = JobComment(JobKind.SERVER, "user,assistant_a", "7").write(run_dir, "study")
    slurm.say("squeue", f"100|PENDING|100|{both}")
    found = SLURM.find_jobs(plan, run_dir)
    assert [(job.name, job.job_id, job.script) for job in found] == [
        (job.name, job.job_id, job.script) for job in jobs[:2]
    ]
    # A pair that goes back into the queue is one job again.
    (user, assistant) = SLURM.submit_successors(run_dir, {"assistant_a": "100.1", "user": "100.0"})
    assert (user.job_id, assistant.job_id) == ("300.0", "300.1")
    assert (user.takes_over, assistant.takes_over) == ("100.0", "100.1")
    assert submitted(slurm)[-1].endswith("100.0 100.1")


def test_the_parts_of_a_heterogeneous_job_are_told_apart(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """squeue and sacct name them 7+0 and 7+1, and answer for both where the first is asked for."""
    user, assistant = (
        JobComment(JobKind.SERVER, name).write(run_dir, "study") for name in ("user", "assistant_a")
    )
    slurm.say("squeue", f"7+0|PENDING|100|{user}", f"7+1|PENDING|100|{assistant}")
    found = SLURM.find_jobs(plan, run_dir)
    script = "scripts/servers_a.sbatch"
    assert [(job.name, job.job_id, job.script) for job in found] == [
        ("user", "7", script),
        ("assistant_a", "8", script),
    ]
    # With the first part Slurm ends both.
    user_job, assistant_job = found
    assert Schedulers(SLURM).find_free(found, [assistant_job]) == []
    assert Schedulers(SLURM).find_free(found, [user_job]) == [assistant_job]
    queue(slurm, **{"j7+0": "RUNNING", "j7+1": "PENDING"})
    states = SLURM.ask_states(found)
    assert {job: state.state for job, state in states.items()} == {"7": "RUNNING", "8": "PENDING"}
    # In two commands, as with hundreds of jobs: each run counts once.
    monkeypatch.setattr(slurm_commands, "CHUNK", 1)
    slurm.say("sacct", "7+0|100|110|200|gres/gpu=2", "7+1|100|110|200|gres/gpu=1")
    rows = SLURM.ask_accounts(["7", "8"]).rows
    assert {job: len(runs) for job, runs in rows.items()} == {"7": 1, "8": 1}


@pytest.mark.parametrize(
    ("first", "second", "dependency"),
    [
        ("RUNNING", "PENDING", ""),
        ("PENDING", "RUNNING", ""),
        ("FAILED", "PENDING", " --dependency=after:102"),
        ("PENDING", "FAILED", " --dependency=after:101"),
        ("FAILED", "FAILED", ""),
    ],
)
def test_one_replica_that_runs_is_enough(
    first: str, second: str, dependency: str, slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    queue(slurm, j101=first, j102=second)
    SLURM.submit(plan, run_dir, {"a": [0]}, SERVERS[:2])
    assert submitted(slurm)[-1] == f"--array=0%3{dependency}"


def test_an_array_waits_for_servers_where_the_queue_does_not_answer(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    slurm.answer("squeue", "echo 'Socket timed out' >&2; exit 1")
    SLURM.submit(plan, run_dir, {"a": [0]}, SERVERS)
    assert submitted(slurm)[-1] == "--array=0%3 --dependency=after:101:103"


def test_the_file_of_an_earlier_job_is_gone_before_its_server_is_submitted(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    """Its 'failed' would end the wait of the new cells; others' files stay."""
    for file in (run_dir.endpoint("user"), run_dir.successor("user"), run_dir.endpoint("other")):
        file.write_text("{}")
    slurm.answer("sbatch", f"ls {run_dir.endpoints} > there; echo Submitted batch job 1")
    SLURM.submit(plan, run_dir, {}, ["user"])
    assert (slurm.folder / "there").read_text() == "other.json\n"


def refuse(slurm: SlurmCommands, what: str) -> None:
    slurm.answer(
        "sbatch",
        f'case "$*" in {what}) echo QOSMaxSubmitJobPerUserLimit >&2; exit 1;; esac\n'
        'echo >> ids; echo "Submitted batch job $((100 + $(wc -l < ids)))"',
    )


def test_servers_that_would_run_alone_are_taken_back_after_a_refusal(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    refuse(slurm, "*--array=2*")
    # b's server ends once it is told to.
    slurm.answer(
        "squeue",
        "printf '101|PENDING||\\n102|PENDING||\\n103|RUNNING||\\n105_0|PENDING||\\n'\n"
        "grep -q '^scancel' called || echo '104|PENDING||'",
    )
    with pytest.raises(SubmissionRefused, match=r"taken back: assistant_b \(job 104\)$"):
        SLURM.submit(plan, run_dir, {"a": [0], "b": [6]}, SERVERS)
    assert slurm.calls("scancel") == ["104"]
    assert [job.job_id for job in read_jobs(run_dir)] == ["101", "102", "103", "105"]


def test_the_clean_up_job_waits_for_the_end_of_every_live_array_however_it_ends(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    add_jobs(
        run_dir,
        [
            JobRecord(JobKind.SERVER, "user", "1"),
            JobRecord(JobKind.ARRAY, "a", "2"),
            JobRecord(JobKind.ARRAY, "b", "3"),
            JobRecord(JobKind.ARRAY, "b", "4"),
            JobRecord(JobKind.CLEANUP, "cleanup", "5"),
        ],
    )
    queue(slurm, j1="RUNNING", j2_0="RUNNING", j3="COMPLETED", j4_1="PENDING", j5="PENDING")
    (job,) = SLURM.submit_cleanup(plan, run_dir, lambda job: None, print)
    assert submitted(slurm) == ["--dependency=afterany:2:4"]
    assert slurm.calls("scancel") == ["5"], "the earlier one"
    assert (job.kind, read_jobs(run_dir)[-1]) == (JobKind.CLEANUP, job)
    queue(slurm, j1="RUNNING")
    assert SLURM.submit_cleanup(plan, run_dir, lambda job: None, print) == []
    assert len(slurm.calls("sbatch")) == 1


def test_a_refused_clean_up_job_leaves_the_earlier_one(
    slurm: SlurmCommands, plan: Plan, run_dir: RunDir
) -> None:
    add_jobs(run_dir, [JobRecord(JobKind.ARRAY, "a", "2"), JobRecord(JobKind.CLEANUP, "c", "5")])
    queue(slurm, j2_0="RUNNING", j5="PENDING")
    refuse(slurm, "*afterany*")
    warnings: list[str] = []
    assert SLURM.submit_cleanup(plan, run_dir, lambda job: None, warnings.append) == []
    assert "no clean-up job" in warnings[0]
    assert slurm.calls("scancel") == []
    assert len(read_jobs(run_dir)) == 2


def test_cells_are_told_to_end_before_their_array_is_cancelled(slurm: SlurmCommands) -> None:
    array = JobRecord(JobKind.ARRAY, "a", "2")
    slurm.answer(
        "squeue",
        "if grep -q '^scancel --signal' called; then echo; else echo '2_0|RUNNING||n1'; fi",
    )
    SLURM.stop_cells([array], sleep=lambda seconds: None)
    assert slurm.calls("scancel") == ["--state=PENDING 2", "--signal=TERM --batch 2"]


def test_cells_that_do_not_end_are_cancelled(
    slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.scheduler.slurm.CELLS_END_S", 0.0)
    slurm.answer("squeue", "grep -q '^scancel 2$' called || echo '2_0|RUNNING||n1'")
    SLURM.stop_cells([JobRecord(JobKind.ARRAY, "a", "2")])
    assert slurm.calls("scancel")[-1] == "2"


@pytest.mark.parametrize("preempted", [True, False])
def test_only_a_job_that_was_told_to_make_way_is_queued_again(
    preempted: bool, slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    time = "150" if preempted else "None"
    slurm.say("scontrol", f"JobId=7 StartTime=100 EndTime=200 PreemptTime={time}")
    assert SLURM.requeue_if_preempted() == preempted
    assert ("requeue 7" in slurm.calls("scontrol")) == preempted
    # A part of a heterogeneous job has a number of its own, and is queued again with the first.
    monkeypatch.setenv(PART_ID, "8")
    assert SLURM.requeue_if_preempted() == preempted
    assert "requeue 8" not in slurm.calls("scontrol")
    monkeypatch.delenv(PART_ID)
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not SLURM.requeue_if_preempted()


def test_a_cancellation_ends_once_the_queue_has_no_task_of_the_jobs(slurm: SlurmCommands) -> None:
    slurm.answer(
        "squeue",
        "echo '1|CANCELLED||'; echo '2_0|CANCELLED||'\n"
        "[ $(grep -c '^squeue' called) -ge 3 ] || echo '2_1|COMPLETING||'",
    )
    cancel_slurm(["1", "2", "2"])
    assert slurm.calls("scancel") == ["1 2"]
    assert len(slurm.calls("squeue")) == 3


def test_a_job_that_stays_after_scancel_is_an_error(slurm: SlurmCommands) -> None:
    queue(slurm, j1="CANCELLED", j2_0="COMPLETING")
    with pytest.raises(EmobenchError, match="jobs 2 are still in the queue"):
        cancel_slurm(["1", "2"], deadline_s=0)
    slurm.answer("scancel", "echo 'Access denied' >&2; exit 1")
    with pytest.raises(EmobenchError, match="scancel failed: Access denied"):
        cancel_slurm(["1"])
    # It has left the queue meanwhile.
    slurm.answer("scancel", "echo 'scancel: error: Invalid job id 1' >&2; exit 1")
    slurm.answer("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    cancel_slurm(["1"])


def test_who_lives_is_asked_of_squeue_and_of_accounting_where_it_does_not_answer(
    slurm: SlurmCommands,
) -> None:
    jobs = [JobRecord(JobKind.ARRAY, "a", "1"), JobRecord(JobKind.SERVER, "user", "2")]
    queue(slurm, j1_0="COMPLETED", j1_1="PENDING", j2="FAILED")
    assert SLURM.find_live(jobs) == jobs[:1]
    assert slurm.calls("sacct") == []
    slurm.answer("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert SLURM.find_live(jobs) == []
    slurm.answer("squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    slurm.say("sacct", "1_0|COMPLETED|0:0|None|n1")
    # What nobody answers for may be alive.
    assert SLURM.find_live(jobs) == jobs[1:]


def test_many_jobs_are_asked_about_in_parts(
    slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "CHUNK", 2)
    queue(slurm, j1="RUNNING", j2="RUNNING", j3="RUNNING")
    assert ask_slurm_states(["1", "2", "3"]) == {name: JobState("RUNNING") for name in "123"}
    asked = [call.rpartition("--jobs=")[2] for call in slurm.calls("squeue")]
    assert asked == ["1,2", "3"]
    jobs = [JobRecord(JobKind.SERVER, "user", name) for name in "123"]
    assert SLURM.find_live(jobs) == jobs
    SLURM.ask_accounts(["1", "2", "3"])
    assert [call.rpartition("=")[2] for call in slurm.calls("sacct")][-2:] == ["1,2", "3"]


def test_the_task_that_has_the_arrays_own_number_requeues_itself_alone(
    slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("JOB_ID", "7"), ("ARRAY_JOB_ID", "7"), ("ARRAY_TASK_ID", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert SLURM.requeue()
    assert slurm.calls("scontrol") == ["requeue 7_3"]
    SLURM.ask_own_job()
    assert slurm.calls("scontrol")[1:] == ["--oneliner show job 7_3"]
