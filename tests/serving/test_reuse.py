"""Another sweep's server is found by what it serves, proves itself, and stays while leased."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from emobench.core.errors import InvalidInput
from emobench.core.files import write_json
from emobench.core.models import RoleModel, VllmModel
from emobench.core.plan import Plan, load_plan, save_plan
from emobench.core.run_dir import RunDir
from emobench.core.times import now
from emobench.runs.server_state import read_server
from emobench.serving import reuse
from emobench.serving.demand import describe_lessees
from emobench.serving.reuse import (
    find_offers,
    holds_lease,
    lease_server,
    lease_servers,
)
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import (
    ServerLocation,
    load_api_key,
    locate_server,
    point_to_leased,
    publish,
    read_endpoint,
)
from emobench.store.leases import add_lease, give_back_lease, read_leases
from tests.support import serving
from tests.support.plans import LOCAL, make_plan, scripted
from tests.support.processes import until
from tests.support.runs import finish_cell
from tests.support.serving import make_run, supervising, until_state

READY = replace(
    serving.READY,
    url="http://127.0.0.1:9/v1",
    model="scripted",
    engine="scripted",
    host=socket.gethostname(),
    job_id="7",
)


def second_sweep(
    folder: Path, user: RoleModel | None = None, **changes: Any
) -> tuple[Plan, RunDir]:
    """A sweep beside the run of `make_run` that wants its user's server."""
    run_dir = RunDir(folder / "second")
    run_dir.endpoints.mkdir(parents=True)
    models: dict[str, RoleModel] = {"a": scripted()}
    plan = make_plan(LOCAL, folder / "logs", user or scripted(reuse=True), models, trials=1)
    plan = plan.model_copy(update=changes)
    save_plan(run_dir, plan)
    return plan, run_dir


def ready_server(folder: Path, **changes: Any) -> RunDir:
    """A run whose endpoint file says that its user's server is ready; nothing listens there."""
    first = make_run(folder)
    load_api_key(first, create=True)
    publish(first, replace(READY, **changes))
    return first


def test_a_leased_server_outlasts_its_own_sweep_and_leaves_after_the_other(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    plan, second = second_sweep(tmp_path)
    said: list[str] = []
    with supervising(first) as process:
        own = until_state(first, "ready")
        leased = lease_servers(plan, second, ["user", "assistant_a"], said.append)
        assert list(leased) == ["user"], said
        assert "leased from" in said[0]
        assert str(first.path) in said[0]
        assert holds_lease(second, "user")

        found = wait_for_endpoint(second, "user", deadline_s=240)
        assert found.endpoint.incarnation == own.incarnation
        assert found.location.read_key() == load_api_key(first)
        row = read_server(plan, second, "user", [], {})
        assert (row.state, row.leased_from) == ("ready", str(first.path))
        assert read_server(plan, second, "assistant_a", [], {}).leased_from == ""

        for number in (0, 1):
            finish_cell(first, number)
        for _ in range(6):  # more than one look at the queue
            beat = heartbeat(first)
            until(lambda b=beat: heartbeat(first) != b, "a heartbeat after the end")  # type: ignore[misc]
        assert process.poll() is None
        assert describe_lessees(first, "user")

        for number in (0, 1):
            finish_cell(second, number)
        assert process.wait(240) == 0
    assert read_leases(first, "user") == []
    assert read_server(plan, second, "user", [], {}).state == "left"


def heartbeat(run_dir: RunDir) -> str:
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    return endpoint.heartbeat


def test_a_lease_that_is_given_back_holds_nothing(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    plan, second = second_sweep(tmp_path)
    with supervising(first) as process:
        until_state(first, "ready")
        location = lease_servers(plan, second, ["user"], print)["user"]
        for number in (0, 1):
            finish_cell(first, number)
        give_back_lease(location, RunDir(tmp_path / "another"))
        assert read_leases(first, "user")
        give_back_lease(location, second)
        assert process.wait(240) == 0


def test_a_supervisor_that_does_not_answer_gives_no_lease(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    plan, second = second_sweep(tmp_path)
    with supervising(first) as process:
        until_state(first, "ready")
        offer = find_offers(plan, second, "user")[0]
        process.send_signal(signal.SIGSTOP)
        location, problem = lease_server(offer, second, "user", answer_s=0.3)
        process.send_signal(signal.SIGCONT)
        assert location is None
        assert "did not take the lease" in problem
        assert read_leases(first, "user") == []
        assert locate_server(second, "user").lease == ""

        for number in (0, 1):
            finish_cell(first, number)
        assert process.wait(240) == 0
        location, problem = lease_server(offer, second, "user")
        assert location is None
        assert problem


def test_a_server_that_cannot_prove_itself_is_not_leased(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    plan, second = second_sweep(tmp_path)
    said: list[str] = []
    with supervising(first):
        until_state(first, "ready")
        first.api_key.write_text("another key\n")
        assert lease_servers(plan, second, ["user"], said.append) == {}
    assert "wrong proof" in said[0]
    assert "one is started" in said[1]
    assert not first.leases("user").exists()


def test_only_a_server_that_is_ready_and_fresh_is_offered(tmp_path: Path) -> None:
    first = ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    assert [offer.location.instance for offer in find_offers(plan, second, "user")] == ["user"]
    old = (datetime.now(UTC) - timedelta(minutes=2)).isoformat()
    for endpoint in (
        replace(READY, state="starting"),
        replace(READY, state="left"),
        replace(READY, host="elsewhere"),
    ):
        publish(first, endpoint)
        assert find_offers(plan, second, "user") == []
    write_json(first.endpoint("user"), {**READY.__dict__, "heartbeat": old})
    assert find_offers(plan, second, "user") == []
    # A successor that waits is no second server.
    publish(first, READY)
    write_json(first.successor("user"), {**READY.__dict__, "heartbeat": now()})
    assert len(find_offers(plan, second, "user")) == 1


@pytest.mark.parametrize(
    "user",
    [
        scripted(reuse=True, model="other"),
        scripted(reuse=True, mistakes=0.5),
        scripted(reuse=True, latency_ms=5),
        VllmModel(model="scripted", reuse=True),
    ],
)
def test_another_model_or_other_arguments_get_no_lease(user: RoleModel, tmp_path: Path) -> None:
    ready_server(tmp_path)
    plan, second = second_sweep(tmp_path, user)
    assert find_offers(plan, second, "user") == []


def test_what_clients_send_and_how_many_there_are_changes_no_server(tmp_path: Path) -> None:
    ready_server(tmp_path)
    plan, second = second_sweep(tmp_path, scripted(reuse=True, temperature=0.7, replicas=2))
    assert len(find_offers(plan, second, "user")) == 1


def test_another_role_version_or_text_gets_no_lease(tmp_path: Path) -> None:
    ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    assert find_offers(plan, second, "assistant_a") == []
    assert find_offers(plan.model_copy(update={"emobench": "9"}), second, "user") == []
    assert find_offers(plan.model_copy(update={"benchmark": "tau_bench 1"}), second, "user") == []
    control = plan.sweep.variants["control"]
    for variants in ({"control": control}, {**plan.sweep.variants, "control": other(control)}):
        sweep = plan.sweep.model_copy(update={"variants": variants})
        assert find_offers(plan.model_copy(update={"sweep": sweep}), second, "user") == []


def other(variant: Any) -> Any:
    return variant.model_copy(update={"text": "You are glad."})


def test_another_users_server_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert find_offers(plan, second, "user") == []


def test_a_run_that_leads_to_our_key_by_a_link_is_not_asked(tmp_path: Path) -> None:
    """Somebody's copy of a plan, an endpoint file of his own, and a link to our key."""
    first = ready_server(tmp_path / "ours")
    own = load_api_key(first)
    theirs = ready_server(tmp_path)
    assert len(find_offers(*second_sweep(tmp_path), "user")) == 1
    theirs.api_key.unlink()
    theirs.api_key.symlink_to(first.api_key)
    plan, second = load_plan(RunDir(tmp_path / "second")), RunDir(tmp_path / "second")
    assert find_offers(plan, second, "user") == []
    location = ServerLocation(theirs, "user")
    with pytest.raises(InvalidInput, match="no key of this run's servers") as refused:
        location.read_key()
    assert own not in str(refused.value)


@pytest.mark.parametrize("place", ["path", "endpoints", "api_key"])
def test_a_run_directory_of_which_a_part_is_not_ours_is_not_asked(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    foreign = getattr(first, place).stat().st_ino
    stat, fstat = os.stat, os.fstat

    def elsewhere(status: os.stat_result) -> os.stat_result:
        numbers = list(status)
        if status.st_ino == foreign:
            numbers[4] += 1
        return os.stat_result(numbers)

    monkeypatch.setattr(os, "stat", lambda *given, **more: elsewhere(stat(*given, **more)))
    monkeypatch.setattr(os, "fstat", lambda given: elsewhere(fstat(given)))
    assert find_offers(plan, second, "user") == []
    with pytest.raises(InvalidInput, match="it belongs to somebody else"):
        load_api_key(first)


def test_a_run_directory_that_others_may_write_is_not_asked(tmp_path: Path) -> None:
    """Who may write there can put another endpoint file in the place of the server's."""
    first = ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    assert len(find_offers(plan, second, "user")) == 1
    first.path.chmod(0o777)
    assert find_offers(plan, second, "user") == []


def test_a_lease_that_is_not_answered_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready_server(tmp_path)
    plan, second = second_sweep(tmp_path)
    monkeypatch.setattr(reuse, "find_problem", lambda *_: "")
    (offer,) = find_offers(plan, second, "user")
    assert lease_server(offer, second, "user", answer_s=0) == (
        *(None, "it did not take the lease within 0 s"),
    )
    for changed in ({"incarnation": "another start"}, {"state": "left"}):
        publish(first, replace(READY, **changed))  # type: ignore[arg-type]
        assert lease_server(offer, second, "user", answer_s=10) == (
            *(None, "it is leaving, or starts again"),
        )
    assert read_leases(first, "user") == []
    assert locate_server(second, "user").lease == ""


def test_two_replicas_do_not_turn_out_to_be_one_server_and_earlier_leases_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ready_server(tmp_path)
    plan, second = second_sweep(tmp_path, scripted(reuse=True, replicas=2))
    before = {
        instance: add_lease(ServerLocation(first, "user"), second, instance)
        for instance in ("user", "assistant_a")
    }
    for instance, location in before.items():
        point_to_leased(second, instance, location)
    monkeypatch.setattr(
        reuse,
        "lease_server",
        lambda offer, run_dir, instance: (add_lease(offer.location, run_dir, instance), ""),
    )
    said: list[str] = []
    leased = lease_servers(plan, second, ["user", "user+2", "assistant_a"], said.append)
    assert list(leased) == ["user"], said
    assert not any("assistant_a" in text for text in said), "it does not ask for reuse"
    assert [lease.id for lease in read_leases(first, "user")] == [leased["user"].lease]


def test_the_server_with_the_fewest_leases_is_asked_first(tmp_path: Path) -> None:
    first = ready_server(tmp_path, leases=("1", "2"))
    publish(first, replace(READY, server="user+2", leases=("3",)))
    plan, second = second_sweep(tmp_path)
    offers = find_offers(plan, second, "user")
    assert [offer.location.instance for offer in offers] == ["user+2", "user"]
    assert find_offers(load_plan(first), first, "user") == [], "its own are no other sweep's"
