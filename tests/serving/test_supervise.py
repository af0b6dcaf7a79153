"""The supervisor around the real scripted server, as real processes."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emobench.core.models import OpenAIModel
from emobench.core.plan import CellBlock, load_plan, save_plan
from emobench.llm import guard
from emobench.llm.client import ChatClient
from emobench.serving.waiting import wait_for_endpoint
from emobench.store.endpoints import Endpoint, load_api_key, read_endpoint
from emobench.store.hosted_keys import save_hosted_keys
from emobench.store.jobs import write_jobs
from tests.support import processes
from tests.support.jobs import ended_record, local_record
from tests.support.plans import LOCAL, scripted
from tests.support.runs import change_sweep, finish_cell
from tests.support.serving import assert_stays, make_run, supervising, until_state


def _engine_pids(endpoint: Endpoint) -> list[int]:
    """The processes of that start of the engine, by its environment."""
    setting = f"EMOBENCH_INCARNATION={endpoint.incarnation}"
    return [pid for pid in processes.pids() if processes.has_environment(pid, setting)]


def _answers(endpoint: Endpoint) -> bool:
    try:
        return ChatClient(endpoint.url, None, 60).get("/models").status > 0
    except OSError:
        return False


def test_a_server_is_announced_once_it_answers_and_only_to_holders_of_the_key(
    tmp_path: Path,
) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = wait_for_endpoint(run_dir, "user", deadline_s=240, poll_s=0.05).endpoint
        assert (endpoint.role, endpoint.model, endpoint.engine) == ("user", "scripted", "scripted")
        assert endpoint.pid == process.pid
        assert ChatClient(endpoint.url, None, 10).get("/models").status == 401
        assert ChatClient(endpoint.url, load_api_key(run_dir), 10).get("/models").status == 200
        process.terminate()
        output = process.stdout.read() if process.stdout else ""
    assert f"URL:   {endpoint.url}" in output
    assert load_api_key(run_dir) not in output + run_dir.endpoint("user").read_text()


def test_scripts_of_an_earlier_release_get_the_guard_of_this_one(tmp_path: Path) -> None:
    """A job that waited while emobench was updated starts a server that can prove itself."""
    run_dir = make_run(tmp_path)
    copy = run_dir.scripts / "emobench_guard.py"
    copy.write_text("class Guard: ...\n")
    with supervising(run_dir) as process:
        until_state(run_dir, "ready")
        process.terminate()
        assert process.wait(240) == 0
    assert copy.read_text() == Path(guard.__file__).read_text()


def test_a_server_leaves_when_the_cells_that_need_it_are_done(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir, "assistant_a") as process:
        until_state(run_dir, "ready", "assistant_a")
        finish_cell(run_dir, 1)
        finish_cell(run_dir, 0, expected=1)  # it has two tasks by now
        assert_stays(process, run_dir, "assistant_a")
        finish_cell(run_dir, 0)
        assert process.wait(240) == 0
    endpoint = read_endpoint(run_dir, "assistant_a")
    assert endpoint is not None
    assert (endpoint.state, endpoint.reason) == ("left", "all cells are done")
    assert not _engine_pids(endpoint)


def test_without_recorded_jobs_cells_that_ended_since_the_start_are_enough(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    finish_cell(run_dir, 0, "failed", ended="2020-01-01T00:00:00+00:00")
    finish_cell(run_dir, 1)
    with supervising(run_dir) as process:
        until_state(run_dir, "ready")
        assert_stays(process, run_dir)
        finish_cell(run_dir, 0, "incomplete", ended=datetime.now(UTC).isoformat())
        assert process.wait(240) == 0


def test_a_server_leaves_when_its_arrays_are_gone_but_not_before_they_come(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    gone = ended_record("array", "a", "1", os.getpid())
    alive = local_record("array", "a", "3", os.getpid())
    own = local_record("server", "user", "2", os.getpid())
    write_jobs(run_dir, [gone, own])  # the array of an earlier submission
    with supervising(run_dir, SUBMITIT_LOCAL_JOB_ID="2") as process:
        until_state(run_dir, "ready")
        for jobs in ((gone, own), (gone, own, alive)):
            write_jobs(run_dir, jobs)
            assert_stays(process, run_dir)
        write_jobs(run_dir, [gone, own, ended_record("array", "a", "3", os.getpid())])
        assert process.wait(240) == 0
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert endpoint.reason == "its arrays have left the queue"


def test_a_killed_engine_comes_back_a_bounded_number_of_times(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    seen = set()
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        for _ in range(4):
            seen.add((endpoint.incarnation, endpoint.url))
            for pid in _engine_pids(endpoint):
                os.kill(pid, signal.SIGKILL)
            if len(seen) < 4:
                endpoint = until_state(run_dir, "ready", other=endpoint.incarnation)
        assert process.wait(240) == 1
    assert len(seen) == 4
    failed = read_endpoint(run_dir, "user")
    assert failed is not None
    assert (failed.state, failed.reason.splitlines()[0]) == ("failed", "the engine ended with -9")
    assert failed.cause == "host_memory"


def test_an_engine_that_never_comes_up_fails_at_once_with_its_last_words(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    script.write_text("echo loading weights\necho 'it broke' >&2\nexit 7\n")
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert (endpoint.state, endpoint.cause) == ("failed", "unknown")
    first, *_, last = endpoint.reason.splitlines()
    assert first == "the engine ended with 7"
    assert last == "its last lines: loading weights | it broke"


def test_a_server_of_another_model_is_never_announced(tmp_path: Path) -> None:
    profile = LOCAL.model_copy(update={"server_deadline_min": 0.1})
    run_dir = make_run(tmp_path, profile)
    script = run_dir.scripts / "serve_user.sh"
    script.write_text(script.read_text().replace("--model scripted", "--model other"))
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    assert "serves other, not scripted" in endpoint.reason
    assert "0.1 minutes" in endpoint.reason


def test_a_server_that_cannot_prove_itself_is_never_announced(tmp_path: Path) -> None:
    """As one whose script does not load the guard, or holds another server's key or name."""
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    script.write_text("export EMOBENCH_SERVER=another\n" + script.read_text())

    def told() -> str:
        endpoint = read_endpoint(run_dir, "user")
        return "" if endpoint is None else f"{endpoint.state}: {endpoint.reason}"

    with supervising(run_dir) as process:
        processes.until(lambda: "gives a wrong proof" in told(), "the supervisor to ask it")
        assert told().startswith("starting: ")
        process.terminate()
        assert process.wait(240) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_server_and_engine(number: signal.Signals, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        assert _engine_pids(endpoint)
        process.send_signal(number)
        assert process.wait(240) == 0
    assert not _engine_pids(endpoint)
    left = read_endpoint(run_dir, "user")
    assert left is not None
    assert (left.state, left.reason) == ("left", f"received {number.name}")


def test_an_engine_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    script.write_text("trap '' TERM\nsleep 600 &\nsleep 600\n")
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "starting")
        processes.until(lambda: len(_engine_pids(endpoint)) == 3, "the engine's processes")
        process.terminate()
        assert process.wait(240) == 0
    assert not _engine_pids(endpoint)


def test_a_killed_supervisor_leaves_no_engine(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        process.kill()
        process.wait(240)
        processes.until(lambda: not _engine_pids(endpoint), "the engine to end")
    assert not _answers(endpoint)


def test_a_killed_supervisor_leaves_no_child_of_an_engine_that_was_killed_too(
    tmp_path: Path,
) -> None:
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    script.write_text("(trap '' TERM; sleep 600; true) &\nexec sleep 600\n")
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "starting")
        processes.until(lambda: len(_engine_pids(endpoint)) == 3, "the engine's processes")
        process.kill()
        process.wait(240)
        processes.until(lambda: not _engine_pids(endpoint), "the engine to end")


def test_slurm_ending_every_process_at_once_is_no_crash(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        for pid in [*_engine_pids(endpoint), process.pid]:
            os.kill(pid, signal.SIGTERM)
        assert process.wait(240) == 0


def test_a_wrong_server_name_is_the_users_mistake(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir, "assistant_b") as process:
        output = process.stdout.read() if process.stdout else ""
        assert process.wait(240) == 2
    assert "user, assistant_a" in output
    assert "Traceback" not in output


def test_cells_that_are_added_meanwhile_keep_the_server(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    plan = load_plan(run_dir)
    last = plan.cells[-1]
    added = last.model_copy(update={"number": last.number + 1, "trial": last.trial + 1})
    block = CellBlock(name="b_2", assistant=last.assistant, first_cell=added.number, size=1)
    with supervising(run_dir) as process:
        until_state(run_dir, "ready")
        save_plan(
            run_dir,
            plan.model_copy(
                update={"cells": (*plan.cells, added), "blocks": (*plan.blocks, block)}
            ),
        )
        for cell in plan.cells:
            finish_cell(run_dir, cell.number)
        assert_stays(process, run_dir)
        finish_cell(run_dir, added.number)
        assert process.wait(240) == 0


def test_a_hubs_token_reaches_the_engine_and_no_key_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run(tmp_path)
    keys = {"HF_TOKEN": "hf_of-a-model-hub", "OTHER_KEY": "sk-of-an-endpoint"}
    hosted = {
        name: OpenAIModel(model="m", base_url="https://models.example/v1", api_key_env=name)
        for name in keys
    }
    change_sweep(run_dir, assistants={"a": scripted(), **hosted})
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    load_api_key(run_dir, create=True)
    save_hosted_keys(run_dir, load_plan(run_dir).sweep)
    seen = tmp_path / "seen"
    (run_dir.scripts / "serve_user.sh").write_text(f'echo "$HF_TOKEN,$OTHER_KEY" > {seen}; exit 1')
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    assert seen.read_text() == "hf_of-a-model-hub,\n"
