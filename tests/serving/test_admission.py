"""A server's supervisor publishes how many conversations fit, and whose they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from emobench.core.models import VllmModel
from emobench.core.run_dir import RunDir
from emobench.llm.concurrency import INITIAL
from emobench.llm.engine_metrics import Load
from emobench.serving.admission import Admission, build_sample
from emobench.store.clients import Client, read_clients, remove_client, write_client
from emobench.store.endpoints import ServerLocation, publish, read_endpoint
from tests.support.processes import until
from tests.support.serving import (
    READY,
    LaterClock,
    LoadedServer,
    make_run,
    supervising,
    until_state,
)


@pytest.fixture
def server(tmp_path: Path) -> LoadedServer:
    return LoadedServer(make_run(tmp_path), tmp_path / "load")


def test_cells_of_two_sweeps_share_fairly_and_one_that_ends_gives_back(
    server: LoadedServer,
) -> None:
    with supervising(server.location.run_dir):
        until_state(server.location.run_dir, "ready")
        assert server.read().limit == INITIAL == 64
        first = server.come("x", 0, wish=100)
        server.until_shares({"x-0": 64})
        server.come("x", 1, wish=100)
        server.come("y", 0, wish=20)
        server.until_shares({"x-0": 22, "x-1": 22, "y-0": 20})
        remove_client(server.location, first)
        server.until_shares({"x-1": 44, "y-0": 20})


def test_a_cell_that_was_killed_gives_back_as_well(server: LoadedServer, tmp_path: Path) -> None:
    clock = LaterClock(tmp_path)
    with supervising(server.location.run_dir, first=clock.lines):
        until_state(server.location.run_dir, "ready")
        killed = server.come("x", 0, wish=100)
        server.come("x", 1, wish=100)
        server.until_shares({"x-0": 32, "x-1": 32})
        clock.advance(21)
        server.come("x", 1, wish=100)  # its next sign of life
        server.until_shares({"x-1": 64})
        write_client(server.location, killed)
        server.until_shares({"x-0": 32, "x-1": 32})


def test_the_limit_follows_what_the_engine_says_up_and_down(server: LoadedServer) -> None:
    with supervising(server.location.run_dir):
        until_state(server.location.run_dir, "ready")
        server.come("x", 0, wish=500, in_use=10)
        server.load(running=10, waiting=0)
        server.until_shares({"x-0": 64})
        server.come("x", 0, wish=500, in_use=64)
        until(lambda: server.read().shares["x-0"] == 128, "a limit that is used up to be doubled")
        assert server.read().in_use == 64
        server.come("x", 0, wish=500, in_use=100)
        server.load(running=60, waiting=40)
        until(lambda: server.read().shares["x-0"] <= 100, "a crowded engine to get fewer")
        before = server.read().limit or 0
        server.come("x", 0, wish=500, in_use=before // 2)
        preempted = count(1)

        def has_fallen() -> bool:
            server.load(running=60, waiting=0, preemptions=next(preempted))
            return (server.read().limit or 0) < before

        until(has_fallen, "preemptions to lower the limit", poll=0.1)


def test_a_server_that_takes_over_goes_on_with_what_was_found(server: LoadedServer) -> None:
    publish(server.location.run_dir, replace(READY, state="left", limit=200))
    with supervising(server.location.run_dir):
        until(lambda: server.read().incarnation != "abc", "the new server")
        until_state(server.location.run_dir, "ready")
        assert server.read().limit == 200


def test_files_that_are_no_clients_are_passed_over(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    location = ServerLocation(run_dir, "user")
    write_client(location, Client("x", "a", 1, 5, 0))
    folder = run_dir.clients("user")
    (folder / "x-2.json").write_text((folder / "x-1.json").read_text())  # another's name
    (folder / "x-3.json").write_text('{"sweep": "x", "wish": -1}')
    (folder / "x-4.json").write_text("[")
    old = (folder / "x-1.json").read_text().replace('"cell": 1', '"cell": 5')
    stamp = old[old.index('"heartbeat"') :].split('"')[3]
    (folder / "x-5.json").write_text(old.replace(stamp, "2026-01-01T00:00:00+00:00"))
    (folder / "x-6.json").mkdir()
    assert [client.name for client in read_clients(run_dir, "user")] == ["x-1"]
    assert read_clients(run_dir, "assistant_a") == []


def test_what_a_look_says() -> None:
    load = Load(running=3, waiting=2, preemptions=7, cache_use=0.5)
    first = build_sample(None, load, in_use=4)
    assert first is not None
    assert (first.in_use, first.preemptions, first.cache_use) == (5, 0, 0.5)
    again = build_sample(replace(load, preemptions=4), load, in_use=9)
    assert again is not None
    assert (again.in_use, again.preemptions) == (9, 3)
    assert build_sample(None, Load(generation_tokens=1), in_use=4) is None
    later = replace(load, at_s=4.0)
    assert first.tokens_per_s is None
    counted = replace(load, generation_tokens=100.0), replace(later, generation_tokens=500.0)
    sample = build_sample(*counted, in_use=4)
    assert sample is not None and sample.tokens_per_s == 100


@pytest.mark.parametrize(
    ("model", "whole", "limit"),
    [
        ({}, None, 64),
        ({"data_parallel": 4, "replicas": 2}, None, 256),
        ({"max_num_seqs": 200, "replicas": 2}, None, 200),
        ({}, 5.3, 21),
        ({"data_parallel": 2}, 5.3, 42),
        ({}, 0.1, 1),
    ],
)
def test_a_server_begins_with_what_it_is_known_to_hold(
    tmp_path: Path, model: dict[str, int], whole: float | None, limit: int
) -> None:
    found = VllmModel(model="m", tool_call_parser="hermes", **model)  # type: ignore[arg-type]
    admission = Admission(RunDir(tmp_path), "assistant_a", found)
    assert admission.limit is None
    admission.begin("http://127.0.0.1:9/v1", whole)
    assert admission.limit == limit


def test_an_endpoint_file_of_an_earlier_version_names_no_limit(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    publish(run_dir, READY)
    file = run_dir.endpoint("user")
    kept = [line for line in file.read_text().splitlines() if '"limit"' not in line]
    text = "\n".join(kept).replace('"shares": {},', "").replace('"in_use": 0,', "")
    file.write_text(text)
    assert "shares" not in text and "in_use" not in text
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert (endpoint.limit, endpoint.shares, endpoint.in_use) == (None, {}, 0)


@pytest.mark.parametrize(
    ("model", "whole", "limit"),
    [({}, None, 192), ({}, 5.3, 21), ({"max_num_seqs": 100}, None, 100)],
)
def test_a_user_s_server_begins_with_enough_for_each_assistant(
    tmp_path: Path, model: dict[str, int], whole: float | None, limit: int
) -> None:
    found = VllmModel(model="m", **model)  # type: ignore[arg-type]
    admission = Admission(RunDir(tmp_path), "user", found, partners=3)
    admission.begin("http://127.0.0.1:9/v1", whole)
    assert admission.limit == limit
