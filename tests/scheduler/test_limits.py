"""Limits of accounting: which hold for a job, and what fits them. The rows are sacctmgr's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from emobench.core.cluster import JobResources, ServerResources
from emobench.core.site_check import Check
from emobench.runs.held_jobs import find_blocked
from emobench.scheduler import site as site_module
from emobench.scheduler.interface import JobState
from emobench.scheduler.job_request import (
    JobRequest,
    apply_options,
    list_needed_at_once,
    list_wanted_at_once,
    parse_memory_mb,
    request_cell,
    request_server,
)
from emobench.scheduler.limits import (
    Accounting,
    Bound,
    RunningJob,
    check_limits,
    check_submission,
    find_bounds,
    parse_associations,
    parse_qos,
    parse_running,
)
from emobench.scheduler.reservations import check_reservation, parse_reservations
from emobench.scheduler.site import Nodes, Site
from emobench.scheduler.slurm import SlurmScheduler
from emobench.scheduler.wait_reasons import explain_wait
from emobench.store.jobs import JobKind, JobRecord
from tests.support.plans import ASSISTANT, CUDA, USER, make_plan, scripted
from tests.support.slurm_commands import SlurmCommands

# Slurm 22.05.8.
OWN = """\
me|sub|||long,normal|||||cpu=12|1-00:00:00|7|
me|root|||normal||||||||
"""
ACCOUNTS = """\
|root|||normal||||||||
|phys||root|normal|||9|||1-00:00:00||
|sub||phys|normal||cpu=64,gres/gpu=3,mem=100G||30|cpu=12|1-00:00:00|7|
"""
QOS = """\
normal||||||||||||
long|OverPartQOS|cpu=40,mem=2T|||gres/gpu=4|2-00:00:00|gres/gpu=2,gres/hpu=1|4|20|gres/gpu=9||
part||||50|||cpu=8,gres/gpu=1|||||
"""
ACCOUNTING = Accounting(
    parse_associations(OWN),
    {row.account: row for row in parse_associations(ACCOUNTS)},
    parse_qos(QOS),
    "sub",
)
CARD = ServerResources(gres="gpu:h100", cpus=4, mem="64G", time="12:00:00")


def bounds(resources: JobResources, partition_qos: str = "") -> dict[str, str]:
    """The limits that hold for a job, by their words in brackets."""
    found = find_bounds(ACCOUNTING, resources, partition_qos)
    return {str(b).partition("(")[2].rstrip(")"): str(b).partition(" (")[0] for b in found}


def test_a_qos_overrides_the_association_but_not_the_accounts_above() -> None:
    plain = {
        "account sub, MaxTRES cpu=12": "the limit for one job, 12 CPUs",
        "account sub, MaxWall": "the limit for one job, 1440 minutes",
        "account sub, MaxJobs": "your limit of 7 jobs",
        "account phys, GrpJobs": "the limit of 9 jobs",
        "account sub, GrpSubmitJobs": "the limit of 30 queued jobs",
        "account sub, GrpTRES cpu=64": "the limit of 64 CPUs",
        "account sub, GrpTRES gres/gpu=3": "the limit of 3 cards",
        "account sub, GrpTRES mem=102400M": "the limit of 100 GB",
    }
    assert bounds(JobResources()) == plain
    long = bounds(JobResources(qos="long"))
    # The QOS has time, jobs, CPUs and memory of its own; cards it has for one user and one account.
    gone = {"MaxWall", "MaxJobs", "GrpTRES cpu=64", "GrpTRES mem=102400M"}
    assert {key for key in plain if key.partition(", ")[2] not in gone} <= set(long)
    assert not {f"account sub, {setting}" for setting in gone} & set(long)
    assert long["QOS long, MaxTRESPerUser gres/gpu=2"] == "your limit of 2 cards"
    assert long["QOS long, MaxTRESPerAccount gres/gpu=9"] == "the limit of 9 cards"
    assert long["QOS long, MaxTRESPerJob gres/gpu=4"] == "the limit for one job, 4 cards"
    assert long["QOS long, MaxJobsPerUser"] == "your limit of 4 jobs"


def test_the_partitions_qos_comes_first_unless_the_jobs_says_otherwise() -> None:
    assert "QOS part, MaxTRESPerUser gres/gpu=1" in bounds(JobResources(), "part")
    over = bounds(JobResources(qos="long"), "part")
    assert "QOS long, MaxTRESPerUser gres/gpu=2" in over
    assert "QOS part, MaxTRESPerUser gres/gpu=1" not in over
    assert "QOS part, MaxTRESPerUser cpu=8" in over, "where the other sets none"


def test_a_user_without_the_account_is_held_to_the_qos_alone() -> None:
    assert bounds(JobResources(account="nobodys")) == {}
    assert ACCOUNTING.find_qos(JobResources(account="root")) == "normal", "its only one"
    assert ACCOUNTING.find_qos(JobResources()) == "normal", "several, and none is the default"
    default = parse_associations("me|sub|||long,normal|long|||||||\n")
    assert Accounting(default, {}, {}, "sub").find_qos(JobResources()) == "long"
    special = parse_associations("me|sub|||a,b|b|||||||\nme|sub|gpu||a|a|||||||\n")
    of_partition = Accounting(special, {}, {}, "sub")
    assert of_partition.find_qos(JobResources(partition="gpu")) == "a"
    assert of_partition.find_qos(JobResources(partition="cpu")) == "b"


def test_rows_of_another_form_say_nothing() -> None:
    assert parse_associations("sacctmgr: a word\n\n|a|b\n") == []
    assert parse_qos("normal|x\n") == {}
    (qos,) = parse_qos("q||cpu=1000000,license/x=2,mem=200T,billing=5|||||||-1|||\n").values()
    assert qos.limits["group", "mem"] == 200 * 1024 * 1024
    assert ("user", "jobs") not in qos.limits


@pytest.mark.parametrize(
    ("text", "mb"),
    [("64G", 65536), ("4000M", 4000), ("4000", 4000), ("2T", 2097152), ("512K", 0), ("x", None)],
)
def test_memory(text: str, mb: int | None) -> None:
    assert parse_memory_mb(text) == mb


def test_running_jobs_are_read_from_their_columns() -> None:
    # squeue fills its columns with blanks, and cuts what is longer.
    line = f"{'12':20}{'sub':80}{'long':80}{'cpu=4,mem=400M,node=1,gres/gpu=2,gres/gpu:h100=2':400}"
    (job,) = parse_running(line)
    assert (job.job_id, job.account, job.qos) == ("12", "sub", "long")
    assert job.amounts["gres/gpu"] == 2 and job.amounts["jobs"] == 1
    assert Bound("user", "QOS long", "gres/gpu", 3, "long").count([job, job]) == 4
    assert Bound("user", "QOS long", "gres/gpu", 3, "other").count([job]) == 0
    assert Bound("group", "account phys", "jobs", 3, "", frozenset({"sub"})).count([job]) == 1


def user_qos(**limits: int) -> Callable[[JobResources], Sequence[Bound]]:
    """A QOS `tight` that limits what each user has; any other limits nothing."""
    keys = {name.replace("gpu", "gres/gpu"): limit for name, limit in limits.items()}

    def find(resources: JobResources) -> list[Bound]:
        tight = resources.qos in (None, "tight")
        found = [Bound("user", "QOS tight", key, n, "tight") for key, n in keys.items()]
        return found if tight else []

    return find


def check(
    requests: Sequence[JobRequest], running: Sequence[RunningJob] = (), **limits: int
) -> list[Check]:
    return list(check_limits([requests], [], user_qos(**limits), running))


def pair(user: int, assistant: int) -> list[JobRequest]:
    servers = [
        request_server(who, CARD, n) for who, n in (("user", user), ("assistant", assistant))
    ]
    return [*servers, request_cell(JobResources(cpus=2))]


def test_what_never_fits_is_an_error_with_the_sum_and_a_remedy() -> None:
    (two,) = check(pair(2, 1), gpu=2)
    assert two.state == "failed"
    assert two.message == (
        "user 2 cards + assistant 1 card > your limit of 2 cards "
        "(QOS tight, MaxTRESPerUser gres/gpu=2)"
    )
    assert two.hint == "give them fewer cards (tensor_parallel): user 1, assistant 1"
    (one,) = check(pair(1, 1), gpu=1)
    assert "placement: together with tensor_parallel: 1" in one.hint
    (jobs,) = check(pair(1, 1), jobs=2)
    assert jobs.message.startswith("user + assistant + cell: 3 jobs > your limit of 2 jobs")
    (cpus,) = check(pair(2, 1), cpu=13)
    assert cpus.message.startswith(
        "user 8 CPUs + assistant 4 CPUs + cell 2 CPUs > your limit of 13"
    )
    (memory,) = check(pair(2, 1), mem=100 * 1024)
    assert memory.message.startswith("user 128 GB + assistant 64 GB > your limit of 100 GB")
    assert check(pair(2, 1), gpu=3, jobs=3, cpu=14) == []


def test_shares_of_cards_are_powers_of_two() -> None:
    (found,) = check(pair(4, 4), gpu=6)
    assert found.hint.endswith("user 4, assistant 2")
    (found,) = check(pair(8, 2), gpu=7)
    assert found.hint.endswith("user 4, assistant 2")


def test_another_qos_of_the_user_is_named_where_it_helps() -> None:
    find = user_qos(gpu=1)
    (found,) = check_limits([pair(1, 1)], [], find, other_qos=["tight", "wide"])
    assert found.hint.endswith("set qos: wide in the profile")


def test_one_job_alone() -> None:
    def find(resources: JobResources) -> list[Bound]:
        return find_bounds(ACCOUNTING, resources)

    long = CARD.model_copy(update={"time": "3-00:00:00", "qos": "long"})
    (found,) = check_limits([[request_server("user", long, 2)]], [], find)
    assert found.message.startswith("user 4320 minutes > the limit for one job, 2880 minutes")
    assert "time: 2880 or less" in found.hint
    bare = CARD.model_copy(update={"mem": None})
    alone, shared = check_limits([[request_server("user", bare, 4)]], [], find)
    assert alone.message == (
        "user 16 CPUs > the limit for one job, 12 CPUs (account sub, MaxTRES cpu=12)"
    )
    assert shared.message == "user 4 cards > the limit of 3 cards (account sub, GrpTRES gres/gpu=3)"


def test_other_jobs_that_run_are_a_warning() -> None:
    mine = RunningJob("9", "sub", "tight", {"gres/gpu": 1, "jobs": 1})
    (found,) = check(pair(1, 1), [mine], gpu=2)
    assert found.state == "warning"
    assert "other jobs of yours have 1 card now" in found.message
    assert check(pair(1, 1), [mine], gpu=3) == []


def test_what_a_submit_filter_may_replace_is_no_error() -> None:
    def default(resources: JobResources) -> list[Bound]:
        return [Bound("user", "QOS normal", "gres/gpu", 1, "normal", is_default=True)]

    (found,) = check_limits([pair(1, 1)], [], default, is_filtered=True)
    assert found.state == "warning" and "submit filter" in found.message
    (found,) = check_limits([pair(1, 1)], [], default)
    assert found.state == "failed"
    (found,) = check_limits([pair(1, 1)], [], user_qos(gpu=1), is_filtered=True)
    assert found.state == "failed", "the profile names this one"


def test_several_assistants_and_replicas_take_turns() -> None:
    plan = make_plan(
        CUDA, user=USER, assistants={"a": ASSISTANT, "b": ASSISTANT}, variants=("control", "anger")
    )
    needed, wanted = list_needed_at_once(plan), list_wanted_at_once(plan)
    assert [[str(job) for job in group] for group in needed] == [
        ["user", "assistant a", "cell"],
        ["user", "assistant b", "cell"],
    ]
    find = user_qos(gpu=3)
    plain = [Bound("user", "QOS tight", "gres/gpu", 3, "tight")]
    (found,) = check_limits(needed, wanted, lambda job: plain)
    assert (found.state, found.hint) == ("warning", "fewer run at a time: it takes longer")
    assert (
        "user 2 cards + assistant a 1 card + assistant b 1 card > your limit of 3" in found.message
    )
    assert find(JobResources())
    spread = make_plan(CUDA, user=scripted(replicas=3, accelerators=1), assistants={"a": ASSISTANT})
    replicas = next(job for job in list_wanted_at_once(spread) if job.count == 3)
    assert str(replicas) == "3 users" and replicas.amounts["gres/gpu:h100"] == 1
    assert list_needed_at_once(spread)[0][0].count == 1


def test_a_server_over_nodes_and_one_that_may_be_shared() -> None:
    big = USER.model_copy(update={"tensor_parallel": 8, "nodes": 2})
    shared = ASSISTANT.model_copy(update={"reuse": True})
    ((user, cell),) = list_needed_at_once(make_plan(CUDA, user=big, assistants={"a": shared}))
    assert (user.amounts["gres/gpu"], user.amounts["node"]) == (8, 2)
    assert user.amounts["cpu"] == 64, "8 for each card"
    assert user.amounts["mem"] == 8 * 64 * 1024
    assert cell.who == "cell"


def test_servers_of_one_job_count_as_one_and_may_share_a_card() -> None:
    together = CUDA.model_copy(update={"placement": "together"})
    small = USER.model_copy(update={"tensor_parallel": 1, "gpu_memory_utilization": 0.45})
    half = {"qwen3-4b": ASSISTANT.model_copy(update={"gpu_memory_utilization": 0.45})}
    ((one, _),) = list_needed_at_once(make_plan(together, user=small, assistants=half))
    assert (str(one), one.amounts["jobs"], one.amounts["gres/gpu"]) == (
        *("user and assistant qwen3-4b", 1, 1),
    )
    assert one.amounts["wall"] == 12 * 3600, "the shorter one's"
    ((one, _),) = list_needed_at_once(make_plan(together, user=USER))
    assert (one.amounts["gres/gpu"], one.amounts["mem"]) == (3, 3 * 65536)
    assert [job.amounts["jobs"] for job in list_wanted_at_once(make_plan(together))] == [1, 1]
    parts = list_needed_at_once(make_plan(CUDA.model_copy(update={"placement": "hetjob"})))
    assert len(parts[0]) == 3


def test_options_of_the_profile_count() -> None:
    resources = JobResources(qos="a", sbatch=("--qos=b", "-A phys", "--mail-type=FAIL", "-pgpu"))
    changed = apply_options(resources)
    assert (changed.qos, changed.account, changed.partition) == ("b", "phys", "gpu")


def test_queued_jobs() -> None:
    def find(resources: JobResources) -> list[Bound]:
        return [Bound("user", "QOS tight", "submit", 10, "tight")]

    servers = [request_server("user", CARD, 1), request_server("assistant", CARD, 1)]
    arrays = [request_cell(JobResources(), 9), request_cell(JobResources(), 3)]
    (found,) = check_submission(servers, arrays, find)
    assert found.state == "failed"
    assert found.message.startswith("2 servers and an array of 9 cells > your limit of 10 queued")
    assert "max_array_size: 8" in found.hint
    (found,) = check_submission(servers, [request_cell(JobResources(), 6)] * 2, find)
    assert found.state == "warning" and "12 cells, each a job" in found.message
    assert list(check_submission(servers, arrays[1:], find)) == []


def test_a_partition_that_is_too_small_for_both() -> None:
    """Two cards are all that a small machine has: no limit of accounting, and the same deadlock."""
    site = Site(
        partitions={"gpu": {"PartitionName": "gpu", "QoS": "N/A"}},
        nodes={"gpu": [Nodes("gpu:h100:2(S:0-1)", 64, 512000)]},
    )
    card = CARD.model_copy(update={"partition": "gpu"})
    both = [request_server("user", card, 2), request_server("assistant", card, 1)]
    (found,) = check_limits([both], [], site.find_bounds)
    assert found.message == "user 2 cards + assistant 1 card > the 2 cards that partition gpu has"
    either = card.model_copy(update={"partition": "gpu,other"})
    two = [request_server("user", either, 2), request_server("assistant", either, 1)]
    assert list(check_limits([two], [], site.find_bounds)) == [], "the other may have some"
    wide = [request_server("user", card, 2, nodes=2)]
    (found,) = check_limits([wide], [], site.find_bounds)
    assert found.message == "user 2 nodes > the 1 node that partition gpu has"


def checked(job: JobResources, config: str = "NO", **partitions: str) -> set[tuple[str, str]]:
    """State and message of what is said of a time limit; partitions by MaxTime."""
    site = Site(
        config={"EnforcePartLimits": config},
        partitions={
            name: {"MaxTime": limit, "Default": "NO"} for name, limit in partitions.items()
        },
    )
    return {(each.state, each.message) for each in site_module.check_time("array", job, site)}


def test_a_job_that_may_run_in_several_partitions_needs_one_with_time_enough() -> None:
    job = JobResources(partition="short,long", time="2:00:00")
    refused = ("2:00:00, but short ends jobs after 1:00:00",)
    both = checked(job, short="1:00:00", long="UNLIMITED")
    assert both == {("warning", *refused), ("ok", "2:00:00 of UNLIMITED in long")}
    assert ("failed", *refused) in checked(job, "ALL", short="1:00:00", long="UNLIMITED")
    assert ("failed", *refused) in checked(job, short="1:00:00", long="1:30:00")
    unlimited = JobResources(partition="short", time="UNLIMITED")
    assert ("failed", "UNLIMITED, but short ends jobs after 60") in checked(unlimited, short="60")


def test_a_time_limit_that_is_over_before_a_model_is_loaded_is_a_warning() -> None:
    site = Site(partitions={"gpu": {"MaxTime": "2:00:00", "DefaultTime": "00:20:00"}})
    for time_limit, deadline, warned in (
        *(("45", 60, True), ("60", 60, True), ("61", 60, False)),
        *((None, 30, True), (None, 15, False)),
    ):
        profile = CUDA.model_copy(update={"server_deadline_min": deadline})
        job = CARD.model_copy(update={"partition": "gpu", "time": time_limit})
        found = list(site_module.check_load("user_server", job, profile, site))
        assert [each.state for each in found] == ["warning"] * warned


@pytest.mark.parametrize("enforced", ["associations,limits", "safe", "none", "associations", ""])
def test_limits_that_the_site_does_not_enforce_say_nothing(enforced: str) -> None:
    site = Site(config={"AccountingStorageEnforce": enforced}, accounting=ACCOUNTING)
    found = site.find_bounds(JobResources(qos="long"))
    assert bool(found) == (enforced in ("associations,limits", "safe"))


RESERVATION = (
    "ReservationName=maint StartTime=1000 EndTime=8200 Duration=02:00:00 Nodes=n[1-2] NodeCnt=2 "
    "PartitionName=(null) Flags=MAINT,SPEC_NODES Users={users} Accounts={accounts} State=INACTIVE\n"
)


def test_a_reservation_is_in_the_way_of_what_does_not_end_before_it() -> None:
    assert parse_reservations("No reservations in the system\n", "me", ["sub"]) == []
    for users, accounts, count in (("me", "(null)", 0), ("(null)", "sub", 0), ("root", "x", 1)):
        row = RESERVATION.format(users=users, accounts=accounts)
        assert len(parse_reservations(row, "me", ["sub"])) == count
    (maint,) = parse_reservations(RESERVATION.format(users="root", accounts=""), "me", [])

    def found(now: float, **resources: object) -> Check | None:
        job = JobResources.model_validate(resources)
        return check_reservation("array.partition", job, "cpu", maint, now)

    assert found(0, time="16") is None
    long = found(0, time="17")
    assert long is not None and "time: 15 or less" in long.hint
    unlimited = found(0)
    assert unlimited is not None and unlimited.state == "warning"
    begun = found(2000, time="1")
    assert begun is not None and begun.hint == "no job starts there before it ends"
    assert found(9000, time="17") is None
    assert found(0, sbatch=["--reservation=maint"]) is None


def test_a_site_that_is_slow_to_answer_holds_no_submission_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    slurm.say("scontrol", "AccountingStorageEnforce = limits", "ClusterName = lab")
    slurm.answer("sacctmgr", "exec sleep 600")
    monkeypatch.setattr(site_module, "PLAN_PATIENCE_S", 0.5)
    begun = time.monotonic()
    assert list(SlurmScheduler().check_plan(make_plan(CUDA))) == []
    assert time.monotonic() - begun < 30
    assert len(slurm.calls("sacctmgr")) == 1
    slurm.answer("scontrol", "exit 1")
    assert list(SlurmScheduler().check_plan(make_plan(CUDA))) == []


def test_what_the_commands_say_becomes_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = SlurmCommands(tmp_path / "slurm")
    monkeypatch.setenv("PATH", slurm.environment["PATH"])
    slurm.answer(
        "scontrol",
        'case "$*" in *config) echo "AccountingStorageEnforce = associations,limits";; esac',
    )
    slurm.answer(
        "sacctmgr",
        'case "$*" in\n'
        '*" user="[a-z]*) echo "me|lab|||normal||||||||";;\n'
        '*" qos "*) echo "normal|||||||gres/gpu=2|||||";;\n'
        '*" user "*) echo lab;;\n'
        "esac",
    )
    (found,) = SlurmScheduler().check_plan(make_plan(CUDA))
    assert found.state == "failed"
    assert found.message == (
        "user 2 cards + assistant qwen3-4b 1 card > your limit of 2 cards "
        "(QOS normal, MaxTRESPerUser gres/gpu=2)"
    )


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("QOSMaxGRESPerUser", "your jobs have all"),
        ("QOSMaxCpuPerUserLimit", "your jobs have all"),
        ("AssocMaxJobsLimit", "your jobs have all"),
        ("MaxGRESPerAccount", "your jobs have all"),
        ("AssocGrpGRES", "all jobs of your QOS or account"),
        ("QOSGrpCpuLimit", "all jobs of your QOS or account"),
        ("AssocGrpCPUMinutesLimit", "used up"),
        ("QOSGrpGRESRunMinutes", "used up"),
        ("QOSMaxGRESPerJob", "never starts"),
        ("AssocMaxWallDurationPerJobLimit", "never starts"),
        ("PartitionTimeLimit", "lower time"),
        ("ReqNodeNotAvail, Reserved for maintenance", "a reservation has the nodes"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "down, drained or reserved"),
        ("(Reservation)", "a reservation"),
        ("DependencyNeverSatisfied", "cancel it"),
        *(
            (passing, "")
            for passing in ("Priority", "Resources", "Dependency", "BeginTime", "None")
        ),
        *((passing, "") for passing in ("JobArrayTaskLimit", "JobHeldUser", "")),
    ],
)
def test_reasons_in_words(reason: str, said: str) -> None:
    assert (said in explain_wait(reason)) if said else explain_wait(reason) == ""


def test_jobs_that_a_limit_keeps_waiting() -> None:
    jobs = [JobRecord(JobKind.SERVER, "user", "1"), JobRecord(JobKind.ARRAY, "a", "2")]
    states = {"1": JobState("RUNNING"), "2_3": JobState("PENDING", "AssocMaxJobsLimit")}
    (blocked,) = find_blocked(jobs, states)
    assert str(blocked).startswith("a (job 2) waits: AssocMaxJobsLimit: your jobs have all")
