"""A cell has as many conversations under way as both its servers give it, up and down."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emobench.core.files import write_bytes_atomic
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Cell
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.llm.transport import ModelEndpoint, Role
from emobench.runner.endpoint_resolver import RoleEndpoints
from emobench.runner.pace import CellPace
from emobench.store.clients import Client, read_clients
from emobench.store.endpoints import (
    Endpoint,
    ServerLocation,
    load_api_key,
    point_to_leased,
    publish,
    read_endpoint,
)
from emobench.store.leases import add_lease
from tests.support import runs
from tests.support.plans import scripted
from tests.support.processes import until
from tests.support.serving import READY, LoadedServer, make_run, supervising, until_state

FIXED = 8
"""Conversations of a cell where no server says how many fit."""


class Resolver:
    """Where the servers are, as a test says."""

    def __init__(self, **locations: ServerLocation) -> None:
        self.locations: dict[Role, ServerLocation] = locations  # type: ignore[assignment]
        hosted = ModelEndpoint("m", "http://h/v1", "k")
        self.latest = RoleEndpoints(0, {"user": hosted, "assistant": hosted})


class Study:
    """A cell at a user's and an assistant's server, whose endpoint files a test writes."""

    def __init__(self, folder: Path, **sweep: Any) -> None:
        self.run_dir = runs.make_run(
            folder / "run", user=scripted(), assistants={"a": scripted()}, tasks=100, **sweep
        )
        self.plan = load_plan(self.run_dir)
        self.user = ServerLocation(self.run_dir, "user")
        self.assistant = ServerLocation(self.run_dir, "assistant_a")
        self.resolver = Resolver(user=self.user, assistant=self.assistant)
        self.name = f"{self.run_dir.identity}-0"
        self.limits = EndpointLimits()
        self.pace = self.make_pace(self.plan.cells[0])

    def make_pace(self, cell: Cell) -> CellPace:
        resolver: Any = self.resolver
        return CellPace(self.plan, self.run_dir, cell, resolver, self.limits)

    def give(self, user: int | None, assistant: int | None, **changed: Any) -> None:
        """Publish these shares; None: a server that does not know the cell."""
        for location, share in ((self.user, user), (self.assistant, assistant)):
            shares = {} if share is None else {self.name: share}
            endpoint = replace(READY, server=location.instance, limit=64, shares=shares)
            publish(location.run_dir, replace(endpoint, **changed))

    def told(self, location: ServerLocation) -> Client | None:
        return next(iter(read_clients(location.run_dir, location.instance)), None)

    def wishes(self) -> tuple[int, int]:
        user, assistant = self.told(self.user), self.told(self.assistant)
        assert user is not None
        assert assistant is not None
        return user.wish, assistant.wish


@pytest.fixture(autouse=True)
def looking_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emobench.runner.pace.LOOK_S", 0.0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_the_smaller_share_counts_and_the_other_server_is_asked_for_little_more(
    study: Study,
) -> None:
    study.give(30, 12)
    assert study.pace.follow(left=100, under_way=0) == 12
    assert study.wishes() == (18, 45)
    study.give(18, 40)
    assert study.pace.follow(left=100, under_way=12) == 18
    assert study.wishes() == (60, 27), "both can grow"
    study.give(2, 40)
    assert study.pace.follow(left=100, under_way=18) == 2


def test_a_server_of_an_earlier_version_gets_what_it_always_got(study: Study) -> None:
    study.give(None, None, limit=None)
    assert study.pace.follow(100, 0) == FIXED
    assert study.wishes() == (FIXED, FIXED)


def test_a_server_that_does_not_know_the_cell_yet_has_room_or_the_cell_begins_with_one(
    study: Study,
) -> None:
    study.give(None, None, shares={"other-0": 60})
    assert study.pace.follow(100, 0) == 4
    assert study.wishes() == (100, 100)
    study.give(None, None, shares={"other-0": 64})
    assert study.pace.follow(100, 0) == 1
    study.give(20, 20)
    assert study.pace.follow(100, 4) == 20
    study.give(None, None, shares={"other-0": 64})
    assert study.pace.follow(100, 20) == 20, "what it had counts until it hears otherwise"


def test_a_server_that_is_away_changes_nothing_and_the_other_one_is_given_back(
    study: Study,
) -> None:
    study.give(10, 10)
    assert study.pace.follow(100, 0) == 10
    publish(study.run_dir, replace(READY, state="starting", limit=64))
    assert study.pace.follow(100, 10) == 10
    assert study.wishes() == (15, 1)
    study.user.file.unlink()
    assert study.pace.follow(100, 10) == 10


def test_concurrency_is_an_upper_bound_and_unset_there_is_none(tmp_path: Path) -> None:
    study = Study(tmp_path, concurrency=5)
    study.give(30, 30)
    assert study.pace.follow(100, 0) == 5
    assert study.wishes() == (5, 5)
    study.give(3, 30)
    assert study.pace.follow(100, 5) == 3


def test_episodes_that_are_left_are_all_that_is_wished_for(study: Study) -> None:
    study.give(30, 30)
    study.pace.follow(100, 0)
    study.pace.follow(10, 10)
    assert study.wishes() == (10, 10)


def test_files_are_written_where_that_changes_something_and_now_and_then(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.give(20, 20)
    study.pace.follow(100, 0)
    study.pace.follow(90, 5)
    assert study.told(study.user) == replace(first := _told(study), in_use=0, wish=30)
    study.pace.follow(80, 20)  # all that it was given is used up
    assert _told(study).in_use == 20
    study.pace.follow(80, 19)
    assert _told(study).in_use == 20
    monkeypatch.setattr("emobench.runner.pace.CLIENT_BEAT_S", 0.0)
    study.pace.follow(80, 19)
    assert _told(study).in_use == 19
    assert _told(study).heartbeat > first.heartbeat


def _told(study: Study) -> Client:
    client = study.told(study.user)
    assert client is not None
    return client


def test_a_cell_that_moves_to_another_replica_or_ends_takes_its_file_away(study: Study) -> None:
    study.give(20, 20)
    study.pace.follow(100, 0)
    moved = ServerLocation(study.run_dir, "user+2")
    publish(study.run_dir, replace(READY, server="user+2", limit=64))
    study.resolver.locations["user"] = moved
    study.pace.follow(100, 20)
    assert study.pace.follow(100, 20) == FIXED, "as long as that one does not know it"
    assert study.told(study.user) is None
    assert study.told(moved) is not None
    study.pace.leave()
    assert study.told(moved) is study.told(study.assistant) is None


def test_the_variants_of_a_trial_have_their_turn_together(study: Study) -> None:
    study.give(20, 20)
    turns = []
    for cell in study.plan.cells:
        pace = study.make_pace(cell)
        pace.follow(100, 0)
        turns += [client.turn for client in read_clients(study.run_dir, "user")]
        pace.leave()
    assert len(study.plan.sweep.variants) == 4
    assert turns == [0, 0, 0, 0, 4, 4, 4, 4]


def test_a_server_whose_folder_cannot_be_written_serves_all_the_same(study: Study) -> None:
    study.give(20, 20)
    study.run_dir.clients("user").parent.write_text("no folder")
    assert study.pace.follow(100, 0) == 20


def test_a_file_system_that_is_away_changes_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.give(20, 20)
    assert study.pace.follow(100, 0) == 20

    def fail(_: ServerLocation) -> None:
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(ServerLocation, "read", fail)
    assert study.pace.follow(100, 20) == 20


def test_a_hosted_role_follows_its_controller(study: Study) -> None:
    study.give(30, 30)
    del study.resolver.locations["assistant"]
    assert study.pace.follow(100, 0) == FIXED
    limit = study.limits.find(study.resolver.latest.roles["assistant"])
    assert study.pace.follow(100, 8) == FIXED
    limit.note_reply(1.0, 100, None)
    assert study.pace.follow(100, 8) == _told(study).wish == FIXED + 1, "it was used up"
    limit.note_reply(1.0, 100, None)
    assert study.pace.follow(100, 8) == FIXED + 1, "it was not"


@contextmanager
def running(run_dir: RunDir) -> Iterator[subprocess.Popen[str]]:
    """Cell 0 of the run, which looks and speaks often."""
    code = (
        "import sys; import emobench.runner.pace as pace; from emobench.cli.main import main; "
        "pace.LOOK_S = 0.05; pace.CLIENT_BEAT_S = 0.2; "
        f"sys.exit(main(['run', '--run-dir', {str(run_dir.path)!r}, '--cell', '0']))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def in_use(run_dir: RunDir, instance: str = "assistant_a") -> int:
    endpoint = read_endpoint(run_dir, instance)
    return endpoint.in_use if endpoint is not None else 0


def limit(run_dir: RunDir, instance: str = "assistant_a") -> int:
    endpoint = read_endpoint(run_dir, instance)
    return (endpoint.limit or 0) if endpoint is not None else 0


def test_a_cell_follows_its_servers_up_and_down_and_up_again(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path, tasks=100, probe="off")
    user = LoadedServer(run_dir, tmp_path / "user", "user")
    assistant = LoadedServer(run_dir, tmp_path / "assistant", "assistant_a")
    for name in ("user", "assistant_a"):  # what an earlier start found
        known: Endpoint = replace(READY, server=name, state="left", limit=8, incarnation="old")
        publish(run_dir, known)
    with supervising(run_dir), supervising(run_dir, "assistant_a"):
        for name in ("user", "assistant_a"):
            until_state(run_dir, "ready", name, other="old")
        for server in (user, assistant):
            server.load(running=20, waiting=0, cache=0.4)  # room for 37
        user.hold.touch()
        with running(run_dir) as cell:
            until(lambda: in_use(run_dir) >= 32, "the cell to fill what was doubled twice")
            assert in_use(run_dir) <= limit(run_dir)
            high = in_use(run_dir)
            assistant.load(running=4, waiting=20)
            until(lambda: limit(run_dir) < high, "a crowded server to lower its limit")
            write_bytes_atomic(user.delay, b"1")
            user.hold.unlink()
            until(lambda: in_use(run_dir) < high, "the cell to let conversations end")
            until(lambda: in_use(run_dir) <= limit(run_dir), "the cell to come down to the limit")
            assert cell.poll() is None
            assistant.load(running=4, waiting=0)
            low = in_use(run_dir)
            until(lambda: in_use(run_dir) > low, "the cell to begin more again")
            write_bytes_atomic(user.delay, b"0")
            assert cell.wait(240) == 0
        until(lambda: in_use(run_dir, "user") == 0, "the cell to be forgotten")
        assert not read_clients(run_dir, "user")
    lines = run_dir.cell(0).episodes.read_text().splitlines()
    assert len(lines) == 100


def test_two_sweeps_share_a_leased_server_fairly(tmp_path: Path) -> None:
    run_dir, other = (make_run(tmp_path / name, tasks=60, probe="off") for name in ("one", "other"))
    user = LoadedServer(run_dir, tmp_path / "user", "user")
    location = add_lease(ServerLocation(run_dir, "user"), other, "user")
    load_api_key(other, create=True)
    point_to_leased(other, "user", location)
    with (
        supervising(run_dir),
        supervising(run_dir, "assistant_a"),
        supervising(other, "assistant_a"),
    ):
        until_state(run_dir, "ready")
        for each in (run_dir, other):
            until_state(each, "ready", "assistant_a")
        user.load(running=64, waiting=0, cache=0.8)  # room for as many as there are, and no more
        user.hold.touch()
        with running(run_dir) as one, running(other) as two:
            names = {f"{each.identity}-0" for each in (run_dir, other)}
            until(lambda: set(user.read().shares) == names, "both cells")
            user.until_shares(dict.fromkeys(names, 32))
            until(lambda: user.read().in_use == 64, "both cells to have what they were given")
            user.hold.unlink()
            assert one.wait(240) == two.wait(240) == 0
