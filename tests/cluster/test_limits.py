"""Limits of a site's accounting: seen before submission, or told while a job waits."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emobench.core.cluster import ServerResources
from emobench.scheduler.job_request import request_server
from emobench.scheduler.limits import find_excesses
from emobench.scheduler.site import ask_site
from emobench.scheduler.wait_reasons import explain_wait
from tests.cluster.lab import Lab
from tests.cluster.site import Site
from tests.support.processes import changed_environment, until


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Site:
    """Both servers want a card of the same kind."""
    site = Site(lab, tmp_path)
    site.profile["assistant_server"] = site.profile["user_server"]
    return site


@contextlib.contextmanager
def normal_qos(lab: Lab, *settings: str) -> Iterator[None]:
    """Set limits of the QOS that every job of the lab has, and take them away again."""
    change = ("sacctmgr", "-i", "modify", "qos", "normal", "set")
    lab.run(*change, *settings)
    try:
        yield
    finally:
        unset = ",".join(f"{tres}=-1" for tres in ("cpu", "gres/gpu"))
        lab.run(*change, f"MaxTRESPerUser={unset}", "MaxJobsPerUser=-1", "MaxSubmitJobsPerUser=-1")


def test_servers_that_a_limit_lets_run_only_one_at_a_time_are_not_submitted(site: Site) -> None:
    with normal_qos(site.lab, "MaxTRESPerUser=gres/gpu=1"):
        done = site.sweep(cards=1)
        assert done.returncode == 2
        assert (
            "user 1 card + assistant scripted 1 card > your limit of 1 card "
            "(QOS normal, MaxTRESPerUser gres/gpu=1)"
        ) in done.stderr
        assert "placement: together" in done.stderr
        assert site.lab.queue() == {} and not (site.run_dir / "jobs.json").exists()
        rehearsed = site.emobench("sweep", "tiny.yaml", "--dry-run", "--json")
        assert "your limit of 1 card" in json.loads(rehearsed.stdout)["refusal"]
        # Slurm itself would have taken them, and let one wait for the other for ever.
        jobs = [
            site.lab.run(
                *("sbatch", "--parsable", "--gres=gpu:1", "--output=/dev/null"),
                *("--wrap", "sleep 600"),
            ).stdout.strip()
            for _ in range(2)
        ]
        until(lambda: "RUNNING" in site.lab.queue().values(), "one to run", 240, poll=0.3)
        until(lambda: "QOSMaxGRESPerUser" in _reason(site, jobs[1]), "the other's reason", poll=0.3)
        site.lab.run("scancel", *jobs)
    assert site.sweep(cards=1).returncode == 0
    assert site.wait_until_ended()["cells"]["done"] == 2


def test_what_other_jobs_have_of_a_limit_is_a_warning_and_status_tells_who_waits(
    site: Site,
) -> None:
    other = site.lab.run(
        *("sbatch", "--parsable", "--gres=gpu:1", "--output=/dev/null", "--wrap", "sleep 600")
    ).stdout.strip()
    until(lambda: site.lab.queue().get(other) == "RUNNING", "the other job", 240, poll=0.3)
    with normal_qos(site.lab, "MaxTRESPerUser=gres/gpu=2"):
        done = site.sweep(cards=1)
        assert done.returncode == 0, done.stderr
        assert "other jobs of yours have 1 card now" in done.stderr
        until(lambda: site.status()["blocked"], "a server to wait", 240, poll=0.3)
        told = site.emobench("status", "runs/tiny").stdout
        assert "QOSMaxGRESPerUser: your jobs have all that your QOS or account allows" in told
        assert "your limit of 2 cards (QOS normal, MaxTRESPerUser gres/gpu=2)" in told
        site.lab.run("scancel", other)
        assert site.wait_until_ended()["cells"]["done"] == 2


def test_an_array_that_the_queue_never_takes_is_not_submitted(site: Site) -> None:
    with normal_qos(site.lab, "MaxSubmitJobsPerUser=5"):
        done = site.sweep(trials=3)
        assert done.returncode == 2
        assert "2 servers and an array of 6 cells > your limit of 5 queued jobs" in done.stderr
        assert "max_array_size: 3" in done.stderr
        assert site.lab.queue() == {}
        site.profile["max_array_size"] = 3
        done = site.sweep(trials=3)
        assert "2 servers and 6 cells, each a job, > your limit of 5" in done.stderr
        for _ in range(2):
            assert done.returncode in (0, 1), done.stderr
            status = site.wait_until_ended()
            done = site.emobench("sweep", "tiny.yaml")
        assert status["cells"]["done"] == 6


def test_few_jobs_at_a_time_are_a_warning_and_too_few_an_error(site: Site) -> None:
    with normal_qos(site.lab, "MaxJobsPerUser=3"):
        slow = site.sweep("--dry-run", trials=3)
        assert "user + assistant scripted + 4 cells: 6 jobs > your limit of 3 jobs" in slow.stdout
        assert "would be refused" not in slow.stdout
    with normal_qos(site.lab, "MaxJobsPerUser=2"):
        refused = site.sweep(trials=3)
        assert refused.returncode == 2
        assert "user + assistant scripted + cell: 3 jobs > your limit of 2 jobs" in refused.stderr


def test_a_time_beyond_the_partitions_is_an_error_and_a_reservation_a_warning(site: Site) -> None:
    """Slurm takes such a job, and it waits for ever (EnforcePartLimits is NO by default)."""
    site.lab.run("scontrol", "update", "partitionname=cuda", "maxtime=5")
    try:
        done = site.sweep()
    finally:
        site.lab.run("scontrol", "update", "partitionname=cuda", "maxtime=UNLIMITED")
    assert done.returncode == 2
    assert "user_server.time: 10, but cuda ends jobs after 00:05:00" in done.stderr
    site.lab.run("sacctmgr", "-i", "add", "account", "elsewhere")
    site.lab.run(
        *("scontrol", "create", "reservation", "ReservationName=maintenance", "accounts=elsewhere"),
        *("starttime=now+8minutes", "duration=60", "nodes=cuda[1-2]", "flags=maint"),
    )
    try:
        done = site.sweep("--dry-run")
    finally:
        site.lab.run("scontrol", "delete", "reservationname=maintenance")
        site.lab.run("sacctmgr", "-i", "delete", "account", "elsewhere")
    assert "reservation maintenance has all nodes of cuda from" in done.stdout
    assert "with time: 6 or less they may before" in done.stdout


NO_TRES = ",".join(f"{tres}=-1" for tres in ("cpu", "gres/gpu", "mem"))
UNSET_QOS = (
    *(f"{name}={NO_TRES}" for name in ("MaxTRESPerUser", "MaxTRESPerAccount", "GrpTRES")),
    *("MaxJobsPerUser=-1", "MaxJobsPerAccount=-1", "GrpJobs=-1", "Flags=-1"),
)
UNSET_ACCOUNT = (f"GrpTRES={NO_TRES}", f"MaxTRES={NO_TRES}", "MaxJobs=-1", "GrpJobs=-1")
PARTITION_QOS = "partition=cuda"


@pytest.fixture(scope="module")
def accounts(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Two accounts, one below the other, and two QOS; returns what sets a limit of one of them, or
    makes `of_partition` the QOS of the partition."""
    user = f"name={pwd.getpwuid(os.getuid()).pw_name}"
    for what in (
        *(("qos", "long"), ("qos", "of_partition"), ("account", "above")),
        *(("account", "below", "parent=above"), ("user", user[5:], "account=below")),
    ):
        lab.run("sacctmgr", "-i", "add", *what)
    modify = ("sacctmgr", "-i", "modify")
    mine = ("user", "where", user, "account=below", "set")
    lab.run(*modify, *mine, "qos=normal,long,of_partition")

    def change(setting: str) -> None:
        if setting == PARTITION_QOS:
            lab.run("scontrol", "update", "partitionname=cuda", "qos=of_partition")
            return
        where, *limits = setting.split()
        kind, _, name = where.partition("=")
        lab.run(*modify, kind, "where", f"name={name}", "set", *limits)

    yield change
    lab.run("sacctmgr", "-i", "delete", "user", "where", user, "account=below")
    lab.run("sacctmgr", "-i", "delete", "account", "below", "above")
    lab.run("sacctmgr", "-i", "delete", "qos", "long", "of_partition")


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["account=above GrpTRES=gres/gpu=1"],
        ["account=above GrpTRES=gres/gpu=1", "qos=long GrpTRES=gres/gpu=4"],
        ["account=below GrpTRES=gres/gpu=1", "qos=long MaxTRESPerUser=gres/gpu=4"],
        ["account=below MaxJobs=1"],
        ["account=below MaxJobs=1", "qos=long MaxJobsPerUser=5"],
        ["account=below MaxJobs=1", "qos=long MaxJobsPerAccount=5"],
        ["account=above GrpJobs=1", "qos=long GrpJobs=6"],
        ["qos=long MaxTRESPerAccount=gres/gpu=1"],
        ["account=below MaxTRES=gres/gpu=0"],
        ["account=below GrpTRES=mem=150M"],
        [PARTITION_QOS, "qos=of_partition MaxTRESPerUser=gres/gpu=1"],
        [
            PARTITION_QOS,
            "qos=of_partition MaxTRESPerUser=gres/gpu=4",
            "qos=long MaxTRESPerUser=gres/gpu=1",
        ],
        [
            PARTITION_QOS,
            "qos=of_partition MaxTRESPerUser=gres/gpu=4",
            "qos=long MaxTRESPerUser=gres/gpu=1",
            "qos=long Flags=OverPartQOS",
        ],
    ],
    ids=" and ".join,
)
def test_two_jobs_run_at_once_where_the_limits_read_say_so(
    settings: list[str], lab: Lab, accounts: Callable[[str], None]
) -> None:
    """The order of QOS, association and accounts is Slurm's own: two jobs of a card each tell."""
    card = ServerResources(
        partition="cuda", gres="gpu:h100", cpus=1, mem="100M", account="below", qos="long"
    )
    try:
        for setting in settings:
            accounts(setting)
        with changed_environment(lab.env):
            site = ask_site()
        assert site is not None
        servers = [request_server(who, card, 1) for who in ("user", "assistant")]
        fits = not find_excesses(servers, site.find_bounds)
        for _ in servers:
            lab.run(
                *("sbatch", "--account=below", "--qos=long", "--gres=gpu:h100:1", "--mem=100M"),
                *("--output=/dev/null", "--wrap", "sleep 600"),
            )
        until(lambda: _are_decided(lab), "Slurm to decide about both", 240, poll=0.2)
        assert (list(lab.queue().values()) == ["RUNNING", "RUNNING"]) == fits
    finally:
        lab.run("scancel", "--me")
        lab.run("scontrol", "update", "partitionname=cuda", "qos=")
        for account in ("above", "below"):
            accounts(" ".join((f"account={account}", *UNSET_ACCOUNT)))
        for qos in ("long", "of_partition"):
            accounts(" ".join((f"qos={qos}", *UNSET_QOS)))


def _are_decided(lab: Lab) -> bool:
    """Whether both jobs run, or one is told that a limit is in its way."""
    rows = lab.ask("squeue", "--noheader", "-o", "%T %r").splitlines()
    return rows == ["RUNNING None"] * 2 or any(explain_wait(row.split()[1]) for row in rows)


def _reason(site: Site, job: str) -> str:
    shown = site.lab.ask("scontrol", "--oneliner", "show", "job", job)
    return shown.partition(" Reason=")[2].split()[0]
