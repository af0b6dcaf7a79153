"""Servers that leave because nobody uses them, or because the run has cost enough; kept ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.models import VllmModel
from emobench.core.plan import load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.llm.engine_metrics import ask_load
from emobench.runs.submission import submit, will_stay
from emobench.scheduler.cost import JobRun, compute_cost
from emobench.scheduler.local import TOKEN_VARIABLE
from emobench.scheduler.schedulers import Schedulers
from emobench.serving.budget import (
    Budget,
    LimitStatus,
    build_limit_status,
    build_money_status,
    describe_reached,
    refuse_if_spent,
    sum_hours,
)
from emobench.serving.demand import LeaseDemand, OwnDemand
from emobench.serving.shutdown_policy import ShutdownPolicy, describe_keeping_cost
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import ServerLocation, load_api_key, read_endpoint
from emobench.store.jobs import JobKind, JobRecord, add_jobs
from emobench.store.leases import add_lease, remove_lease
from tests.support.jobs import local_record
from tests.support.plans import CUDA, LOCAL, make_plan, scripted
from tests.support.processes import until
from tests.support.runs import finish_cell
from tests.support.serving import LaterClock, assert_stays, make_run, supervising, until_state


def change(run_dir: RunDir, **settings: Any) -> None:
    """Set keys of the plan's sweep, as a new submission does."""
    plan = load_plan(run_dir)
    save_plan(run_dir, plan.model_copy(update={"sweep": plan.sweep.model_copy(update=settings)}))


def reason(run_dir: RunDir) -> str:
    endpoint = read_endpoint(run_dir, "user")
    return endpoint.reason if endpoint is not None else ""


def chat(run_dir: RunDir) -> None:
    """One completion of the running user server."""
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    body = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}
    request = urllib.request.Request(
        f"{endpoint.url}/chat/completions",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {load_api_key(run_dir)}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=240) as answer:
        assert answer.status == 200


def test_an_idle_server_leaves_and_a_used_one_stays(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    change(run_dir, idle_limit_min=10)
    clock = LaterClock(tmp_path)
    with supervising(run_dir, first=clock.lines) as process:
        until_state(run_dir, "ready")
        for _ in range(2):
            clock.advance(400)
            chat(run_dir)
            assert_stays(process, run_dir)
        clock.advance(601)
        assert process.wait(240) == 0
    assert reason(run_dir) == "idle for 10 minutes (idle_limit_min)"
    with pytest.raises(ServersGone, match=r"idle for .* run the same `emobench sweep` command"):
        wait_for_endpoint(run_dir, "user", deadline_s=10_000)


def test_a_request_that_takes_long_is_no_idleness(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, user=scripted(latency_ms=8000))
    change(run_dir, idle_limit_min=10)
    clock = LaterClock(tmp_path)
    with supervising(run_dir, first=clock.lines) as process:
        engine = until_state(run_dir, "ready")
        asking = threading.Thread(target=chat, args=(run_dir,))
        asking.start()
        until(lambda: ask_load(engine.url).running, "the request to be computed")
        clock.advance(601)
        asking.join()
        assert_stays(process, run_dir)
        clock.advance(601)
        assert process.wait(240) == 0


def test_no_idle_limit(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    change(run_dir, idle_limit_min=0)
    with supervising(run_dir) as process:
        until_state(run_dir, "ready")
        assert_stays(process, run_dir)


class Clock:
    """Stands in for the time of emobench.serving.shutdown_policy."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ShutdownPolicy, Clock]:
    run_dir = make_run(tmp_path)
    need = OwnDemand(load_plan(run_dir), run_dir, "user", "1", datetime.now(UTC).isoformat())
    clock = Clock()
    monkeypatch.setattr("emobench.serving.shutdown_policy.time", clock)
    return ShutdownPolicy(run_dir, need, LeaseDemand(run_dir, "user")), clock


def test_loading_and_silence_count_as_no_idleness(
    tmp_path: Path, limits: tuple[ShutdownPolicy, Clock]
) -> None:
    (server, clock), run_dir = limits, RunDir(tmp_path / "run")
    clock.now = 5000  # it loaded for more than an hour
    server.observe(False)
    assert server.explain_idleness() == ""
    clock.now += 3599
    server.observe(False)
    assert server.explain_idleness() == ""
    server.observe(None)  # its metrics do not answer
    clock.now += 3600
    assert server.explain_idleness() == ""
    server.observe(False)
    clock.now += 3600
    server.observe(False)
    change(run_dir, idle_limit_min=0)
    assert (server.explain_leaving(), server.explain_idleness()) == ("", "")
    change(run_dir, idle_limit_min=60)
    idle = "idle for 60 minutes (idle_limit_min)"
    assert (server.explain_leaving(), server.explain_idleness(comes_back=True)) == ("", idle)
    assert not server.final
    assert server.explain_idleness() == idle
    assert server.final


class Calendar:
    """Stands in for `datetime` there."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp(self.at.timestamp(), zone)


def test_the_minutes_of_a_kept_server_count_from_when_nothing_needed_it(
    tmp_path: Path, limits: tuple[ShutdownPolicy, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    (server, clock), run_dir, calendar = limits, RunDir(tmp_path / "run"), Calendar()
    monkeypatch.setattr("emobench.serving.shutdown_policy.datetime", calendar)
    leases = LeaseDemand(run_dir, "user")
    monkeypatch.setattr(server, "_leases", leases)
    change(run_dir, keep_servers_min=60, idle_limit_min=1)
    assert (server.kept_until, server.final) == ("", False)
    assert (server.explain_leaving(), server.kept_until, server.final) == ("", "", False)
    assert server.outlasts_job
    for cell in (0, 1):
        finish_cell(run_dir, cell)
    server.observe(False)
    for minute in (0, 59):
        calendar.at, clock.now = calendar.at.replace(minute=minute), 60 * minute
        server.observe(False)  # it is kept, however idle
        assert (server.explain_leaving(), server.kept_until) == ("", "2026-01-01T13:00:00+00:00")
        assert not server.outlasts_job and not server.final
    lease = add_lease(ServerLocation(run_dir, "user"), RunDir(tmp_path / "other"), "user").lease
    assert leases.refresh()
    server.observe(True)
    assert (server.explain_leaving(), server.kept_until, server.outlasts_job) == ("", "", True)
    remove_lease(run_dir, "user", lease)
    leases.refresh()
    calendar.at = calendar.at.replace(hour=14, minute=0)
    assert (server.explain_leaving(), server.kept_until) == ("", "2026-01-01T15:00:00+00:00")
    calendar.at = calendar.at.replace(hour=15)
    assert (server.explain_leaving(), server.kept_until) == ("all cells are done", "")
    assert server.final and not server.outlasts_job


def test_a_server_whose_run_has_cost_enough_stays_until_its_arrays_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversations in flight end by themselves; no other sweep makes it cost more."""
    ended = threading.Event()
    monkeypatch.setattr(Schedulers, "stop_cells", lambda *_: ended.wait(240))
    monkeypatch.setattr("emobench.serving.budget.compute_used_hours", lambda *_: 5.0)
    run_dir = make_run(tmp_path)
    change(run_dir, max_gpu_hours=5, keep_servers_min=60)
    for cell in (0, 1):
        finish_cell(run_dir, cell)
    need = OwnDemand(load_plan(run_dir), run_dir, "user", "1", datetime.now(UTC).isoformat())
    add_lease(ServerLocation(run_dir, "user"), RunDir(tmp_path / "other"), "user")
    server = ShutdownPolicy(run_dir, need, LeaseDemand(run_dir, "user"), 0.0)
    server.explain_leaving()
    until(lambda: server.closing, "the limit")
    assert (server.explain_leaving(), server.final, server.outlasts_job) == ("", False, False)
    ended.set()
    until(server.explain_leaving, "the arrays' end")
    assert server.explain_leaving() == "max_gpu_hours reached: 5.00 of 5.00"
    assert server.final


def test_a_kept_server_stays_for_its_minutes_and_can_be_needed_again(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    change(run_dir, keep_servers_min=60, idle_limit_min=0.1)
    with supervising(run_dir) as process:
        until_state(run_dir, "ready")
        for cell in (0, 1):
            finish_cell(run_dir, cell)

        def kept() -> str:
            endpoint = read_endpoint(run_dir, "user")
            return endpoint.kept_until if endpoint is not None else ""

        until(kept, "the server to be kept")
        left = datetime.fromisoformat(kept()) - datetime.now(UTC)
        assert timedelta(minutes=59) < left <= timedelta(minutes=60)
        endpoint = read_endpoint(run_dir, "user")
        assert endpoint is not None
        assert will_stay(run_dir, JobRecord(JobKind.SERVER, "user", endpoint.job_id))
        assert not will_stay(run_dir, JobRecord(JobKind.SERVER, "user", "another"))
        finish_cell(run_dir, 1, expected=1)  # a resumed sweep gave it another task
        change(run_dir, keep_servers_min=60, idle_limit_min=0)
        until(lambda: not kept(), "the server to be needed again")
        finish_cell(run_dir, 1)
        until(kept, "the server to be kept again")
        change(run_dir, keep_servers_min=0)
        assert process.wait(240) == 0
    assert reason(run_dir) == "all cells are done"


def test_what_kept_servers_cost() -> None:
    plan = make_plan(CUDA, "/logs", VllmModel(model="u", tensor_parallel=2, replicas=2))
    assert describe_keeping_cost(plan, 120) == "5 accelerators x 2.0 h = 10.0 accelerator-hours"
    plan = make_plan(LOCAL, "/logs", scripted(), {"a": scripted()})
    assert describe_keeping_cost(plan, 30) == "2 servers without an accelerator x 0.5 h"


TOKEN = "of-the-array"


def _array_process() -> subprocess.Popen[bytes]:
    """A process in a session of its own, and with a token, as the local runner's are."""
    code = (
        "import signal, time; signal.signal(15, lambda *_: exit(3)); "
        "print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        start_new_session=True,
        env=os.environ | {TOKEN_VARIABLE: TOKEN},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it minds the signal by now
    return process


def test_the_limit_of_accelerator_hours_ends_the_arrays_and_then_the_server(
    tmp_path: Path,
) -> None:
    run_dir = make_run(tmp_path, user=scripted(accelerators=4))
    change(run_dir, max_gpu_hours=4 * 2 / 3600)
    array = _array_process()
    with supervising(run_dir, SUBMITIT_LOCAL_JOB_ID="7") as process:
        server = local_record("server", "user", "7", process.pid)
        of_array = local_record("array", "a", "8", array.pid, cells=(0, 1), token=TOKEN)
        add_jobs(run_dir, [server, of_array])
        assert array.wait(240) == 3
        assert process.wait(240) == 0
    assert reason(run_dir).startswith("max_gpu_hours reached: 0.00")
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert endpoint.final

    plan = load_plan(run_dir)
    with pytest.raises(InvalidInput, match="raise it and run the same command again"):
        submit(plan, run_dir)


def test_a_limit_that_is_raised_is_not_reached_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.serving.budget.compute_used_hours", lambda *_: 5.0)
    run_dir = make_run(tmp_path)
    limited = Budget(run_dir)
    change(run_dir, max_gpu_hours=5)
    assert (
        limited.check(load_plan(run_dir))
        == limited.reached
        == "max_gpu_hours reached: 5.00 of 5.00"
    )
    change(run_dir, max_gpu_hours=6)
    assert limited.check(load_plan(run_dir)) == limited.reached == ""


def test_a_price_of_accelerators_makes_max_cost_a_limit_of_the_servers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.serving.budget.compute_used_hours", lambda *_: 5.0)
    run_dir = make_run(tmp_path)
    change(run_dir, max_cost=11.0)
    finish_cell(run_dir, 0, usage={"user": {"cost": 1.5}})
    plan = load_plan(run_dir)
    limited = Budget(run_dir)
    assert limited.check(plan) == ""  # no price: the cells keep to it by themselves
    priced = plan.model_copy(
        update={"profile": plan.profile.model_copy(update={"accelerator_hour_price": 2.0})}
    )
    assert limited.check(priced) == "max_cost reached: $11.50 of $11.00"
    save_plan(run_dir, priced)
    with pytest.raises(InvalidInput, match=r"max_cost reached: \$11.50 of \$11.00; nothing was"):
        refuse_if_spent(priced, run_dir)
    change(run_dir, max_cost=12.0)
    assert limited.check(load_plan(run_dir)) == limited.reached == ""
    used = _run(JobKind.SERVER, "user", 3600, 3)
    status = build_money_status(priced, {}, compute_cost([used], {}, 9999.0))
    assert status is not None and status.used == pytest.approx(6.0)


def _run(kind: JobKind, name: str, seconds: float, cards: int) -> JobRun:
    return JobRun(kind, name, "1", 0.0, 0.0, seconds, cards, "sacct")


def test_hours_count_every_replica_and_the_configured_cards_where_none_are_accounted() -> None:
    plan = make_plan(LOCAL, "/logs", scripted(accelerators=3), {"a": scripted()}, max_gpu_hours=5.0)
    runs = [
        _run(JobKind.SERVER, "user", 3600, 0),
        _run(JobKind.SERVER, "user+2", 1800, 0),
        _run(JobKind.SERVER, "assistant_a", 3600, 0),
        _run(JobKind.SERVER, "user", 3600, 1),
        _run(JobKind.ARRAY, "user", 3600, 2),
    ]
    cost = compute_cost(runs, {}, 9999.0)
    assert sum_hours(plan, cost) == pytest.approx(3 + 1.5 + 1)
    assert describe_reached(plan, 4.999) == ""
    assert describe_reached(plan, 5.02) == "max_gpu_hours reached: 5.02 of 5.00"
    limit = build_limit_status(plan, cost)
    assert limit == LimitStatus(max_gpu_hours=5.0, used=5.5, reached=True)
    assert "5.50 of 5.00 accelerator-hours used: max_gpu_hours reached" in str(limit)
    free = plan.model_copy(update={"sweep": plan.sweep.model_copy(update={"max_gpu_hours": None})})
    assert describe_reached(free, 1e9) == ""
    assert build_limit_status(free, cost) is None
