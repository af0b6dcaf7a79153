"""Endpoint files and keys: who may read them, and what a client believes."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.files import write_json
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.server_state import read_server
from emobench.serving import waiting
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import (
    load_api_key,
    publish,
    read_endpoint,
)
from emobench.store.jobs import add_jobs
from tests.support.jobs import ended_record
from tests.support.model_server import ModelServer, answering, proving
from tests.support.serving import READY, make_run


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    load_api_key(run_dir, create=True)
    return run_dir


@pytest.fixture
def url(run_dir: RunDir) -> Iterator[str]:
    """A server that knows the run's key and serves model m."""

    key = load_api_key(run_dir)
    with answering(ModelServer()) as server:
        server.key = key
        server.prove = proving(key, READY.incarnation, READY.server)
        yield server.url


def test_the_key_is_private_and_stays_the_same(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "new")
    with pytest.raises(InvalidInput, match="no key"):
        load_api_key(run_dir)
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_api_key(run_dir, create=True), range(16)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert stat.S_IMODE(run_dir.api_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(run_dir.endpoints.stat().st_mode) == 0o700
    assert list(run_dir.endpoints.iterdir()) == [run_dir.api_key]


def test_a_folder_that_others_can_read_is_closed(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.endpoints.mkdir(mode=0o755)
    publish(run_dir, READY)
    assert stat.S_IMODE(run_dir.endpoints.stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1}', "null"])
def test_a_file_that_is_no_endpoint_counts_as_none(text: str, run_dir: RunDir) -> None:
    run_dir.endpoint("user").write_text(text)
    assert read_endpoint(run_dir, "user") is None


@pytest.mark.parametrize(
    "wrong", [{"url": ["http://x"]}, {"state": "asleep"}, {"pid": None}, {"warnings": "none"}]
)
def test_a_file_with_a_value_of_another_type_is_no_endpoint(
    wrong: dict[str, object], run_dir: RunDir
) -> None:
    write_json(run_dir.endpoint("user"), asdict(READY) | wrong)
    assert read_endpoint(run_dir, "user") is None


@pytest.mark.parametrize("text", ['"ready"', "[1]", '{"schema": 1, "state": "ready"}'])
def test_status_shows_no_server_where_the_file_is_no_endpoint(text: str, tmp_path: Path) -> None:
    """All readers of an endpoint file take the same files for one."""
    run_dir = make_run(tmp_path)
    run_dir.endpoints.mkdir()
    run_dir.endpoint("user").write_text(text)
    assert read_server(load_plan(run_dir), run_dir, "user", [], {}).state == "none"


def test_keys_of_a_later_version_are_ignored(run_dir: RunDir) -> None:
    write_json(run_dir.endpoint("user"), asdict(READY) | {"new": 1})
    assert read_endpoint(run_dir, "user") == READY


def test_a_ready_server_that_answers_is_believed(run_dir: RunDir, url: str) -> None:
    publish(run_dir, replace(READY, url=url))
    endpoint = wait_for_endpoint(run_dir, "user", deadline_s=240).endpoint
    assert endpoint.incarnation == "abc"
    assert endpoint.compute_age_s() < 60


def test_a_server_that_comes_later_is_waited_for(run_dir: RunDir, url: str) -> None:
    timer = threading.Timer(0.1, publish, (run_dir, replace(READY, url=url)))
    timer.start()
    found = wait_for_endpoint(run_dir, "user", deadline_s=240, poll_s=0.02)
    assert found.endpoint.url == url
    timer.join()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": "starting"}, "its state is 'starting'"),
        ({"state": "left", "reason": "received SIGTERM"}, "its state is 'left' received SIGTERM"),
        ({"model": "other"}, "serves m, not other"),
        ({"url": "http://127.0.0.1:1/v1"}, "does not answer"),
        ({"url": "nonsense"}, "does not answer"),
    ],
)
def test_a_server_that_does_not_prove_itself_is_not_believed(
    change: dict[str, str], reason: str, run_dir: RunDir, url: str
) -> None:
    publish(run_dir, replace(READY, **({"url": url} | change)))  # type: ignore[arg-type]
    with pytest.raises(ServersGone, match=f"(?s)user was not ready within 0.1 s: .*{reason}"):
        wait_for_endpoint(run_dir, "user", deadline_s=0.1, poll_s=0.02)


def test_a_server_that_refuses_the_key_is_another_ones(run_dir: RunDir, url: str) -> None:
    publish(run_dir, replace(READY, url=url))
    run_dir.api_key.write_text("another\n")
    with pytest.raises(ServersGone, match="another server has that port"):
        wait_for_endpoint(run_dir, "user", deadline_s=0)


def test_a_stale_heartbeat_is_not_believed(run_dir: RunDir, url: str) -> None:
    old = asdict(replace(READY, url=url)) | {"heartbeat": "2026-01-01T00:00:00+00:00"}
    write_json(run_dir.endpoint("user"), old)
    with pytest.raises(ServersGone, match="last sign of life"):
        wait_for_endpoint(run_dir, "user", deadline_s=0)


def test_a_failed_server_and_an_interruption_end_the_wait_at_once(run_dir: RunDir) -> None:
    publish(run_dir, replace(READY, state="starting"))
    with pytest.raises(ServersGone, match="interrupted"):
        wait_for_endpoint(run_dir, "user", deadline_s=10_000, interrupted=lambda: True)
    publish(run_dir, replace(READY, state="failed", reason="out of memory"))
    with pytest.raises(ServersGone, match="user failed: out of memory"):
        wait_for_endpoint(run_dir, "user", deadline_s=10_000)


def test_a_server_whose_job_ended_without_a_word_ends_the_wait(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "JOB_CHECK_S", 0.0)
    publish(run_dir, replace(READY, state="starting"))
    add_jobs(run_dir, [ended_record("server", "user", "7", os.getpid())])
    with pytest.raises(ServersGone, match="user is gone: its job 7: GONE"):
        wait_for_endpoint(run_dir, "user", deadline_s=240)
