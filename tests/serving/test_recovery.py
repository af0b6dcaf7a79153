"""What a server does when its engine ends: who is started again, how often, and what is said."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from emobench.cli.status import render
from emobench.cli.terminal import render_plain
from emobench.cli.watch_screen import render_screen
from emobench.core.plan import load_plan
from emobench.core.run_dir import RunDir
from emobench.runs.status import read_status
from emobench.runs.watching.state import Seen, build_watch_state
from emobench.store.endpoints import Endpoint, read_endpoint
from emobench.store.events import Event, read_events
from emobench.store.jobs import JobKind, JobRecord, LocalProcess, add_jobs
from tests.support import processes
from tests.support.plans import LOCAL
from tests.support.runs import change_sweep, finish_cell
from tests.support.serving import LaterClock, make_run, supervising, until_state

DEVICE = "RuntimeError: synStatus=26 [Generic failure] Device acquire failed."


def events_of(run_dir: RunDir) -> list[Event]:
    return [event for events in read_events(run_dir).values() for event in events]


def endpoint_of(run_dir: RunDir) -> Endpoint:
    endpoint = read_endpoint(run_dir, "user")
    assert endpoint is not None
    return endpoint


def dies_saying(run_dir: RunDir, words: str, code: int = 1) -> Path:
    """Let every start of the user's engine end like this; where the starts are counted."""
    count = run_dir.path / "starts"
    lines = f"echo x >> {count}\ncat <<'EOF'\n{words}\nEOF\nexit {code}\n"
    (run_dir.scripts / "serve_user.sh").write_text(lines)
    return count


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        ("vllm: error: unrecognized arguments: --nosuch", 2, "argument"),
        ("ModuleNotFoundError: No module named 'vllm'", 1, "missing"),
        ("torch.OutOfMemoryError: CUDA out of memory.", 1, "device_memory"),
        ("it just ended", 3, "unknown"),
    ],
)
def test_what_cannot_heal_is_not_started_again(
    words: str, code: int, cause: str, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path)
    count = dies_saying(run_dir, words, code)
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    assert count.read_text().count("x") == 1
    assert endpoint_of(run_dir).cause == cause
    assert [(each.event, each.cause) for each in events_of(run_dir)] == [
        ("starting", ""),
        ("failed", cause),
    ]


def test_what_can_heal_is_started_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    count = dies_saying(run_dir, DEVICE)
    with supervising(run_dir) as process:
        assert process.wait(240) == 1
    assert count.read_text().count("x") == 4
    events = events_of(run_dir)
    assert [each.cause for each in events if each.event == "restarted"] == ["device"] * 3
    again = [each.time for each in events if each.event == "restarted"]
    starts = [each.time for each in events if each.event == "starting"][1:]
    waited = [start - end for start, end in zip(starts, again, strict=True)]
    assert waited[0] >= 0.09 and waited[1] >= 0.19 and waited[2] >= 0.19


def test_an_engine_that_is_out_of_memory_after_it_served_comes_back(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    script = run_dir.scripts / "serve_user.sh"
    once = tmp_path / "once"
    words = "torch.OutOfMemoryError: CUDA out of memory."
    dying = f"( until [ -e {once} ]; do sleep 0.05; done; echo '{words}'; kill -9 $$ ) &\n"
    text = script.read_text()
    script.write_text(text.replace("exec ", f"[ -e {once} ] || {dying}exec ", 1))
    with supervising(run_dir) as process:
        first = until_state(run_dir, "ready")
        once.touch()
        second = until_state(run_dir, "ready", other=first.incarnation)
        assert second.incarnation != first.incarnation
        assert (second.reason, second.cause) == ("", "")
        process.terminate()
        assert process.wait(240) == 0
    restarted = [each for each in events_of(run_dir) if each.event == "restarted"]
    assert [each.cause for each in restarted] == ["device_memory"]


@pytest.mark.parametrize("how", ["signal", "done"])
def test_a_backoff_beats_and_ends_when_nothing_is_needed_any_more(how: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    dies_saying(run_dir, DEVICE)
    with supervising(run_dir, backoff_s="(10_000,)") as process:
        processes.until(
            lambda: (found := read_endpoint(run_dir, "user")) and "after 10000 s" in found.reason,
            "the backoff",
        )
        before = endpoint_of(run_dir)
        assert before.state == "starting"
        assert "Device acquire failed" in before.reason
        processes.until(lambda: endpoint_of(run_dir).heartbeat != before.heartbeat, "a heartbeat")
        if how == "signal":
            process.send_signal(signal.SIGTERM)
        else:
            for cell in load_plan(run_dir).cells:
                finish_cell(run_dir, cell.number)
        assert process.wait(240) == 0
    assert endpoint_of(run_dir).state == "left"


def ailing(run_dir: RunDir) -> Path:
    """Let a file say how healthy the user's server is (see tests/support/ailing_server.py)."""
    answers = run_dir.path / "health"
    answers.write_text("")
    script = run_dir.scripts / "serve_user.sh"
    server = Path(__file__).parents[1] / "support" / "ailing_server.py"
    begun, module, rest = script.read_text().partition("-m emobench.scripted ")
    assert module
    script.write_text(f"{begun}{server} {answers} {rest}")
    return answers


def test_three_failed_probes_in_a_row_and_no_fewer_restart_an_engine(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    answers = ailing(run_dir)
    with supervising(run_dir) as process:
        first = until_state(run_dir, "ready")
        answers.write_text("xxoxoxxo")
        processes.until(lambda: not answers.read_text(), "eight probes")
        assert endpoint_of(run_dir).incarnation == first.incarnation
        answers.write_text("xxx")
        second = until_state(run_dir, "ready", other=first.incarnation)
        assert second.incarnation != first.incarnation
        # The new start is given three again.
        answers.write_text("xxo")
        processes.until(lambda: not answers.read_text(), "three probes")
        assert endpoint_of(run_dir).incarnation == second.incarnation
        process.terminate()
        assert process.wait(240) == 0
    (restarted,) = [each for each in events_of(run_dir) if each.event == "restarted"]
    assert restarted.reason.startswith("3 health probes in a row failed")


def test_an_engine_that_served_has_the_whole_deadline_again(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    change_sweep(run_dir, idle_limit_min=0)
    clock = LaterClock(tmp_path)
    with supervising(run_dir, first=clock.lines) as process:
        first = until_state(run_dir, "ready")
        clock.advance(9999)
        setting = f"EMOBENCH_INCARNATION={first.incarnation}"
        engine = next(p for p in processes.pids() if processes.has_environment(p, setting))
        os.killpg(os.getpgid(engine), signal.SIGKILL)
        until_state(run_dir, "ready", other=first.incarnation)
        process.terminate()
        assert process.wait(240) == 0


def test_the_deadline_counts_from_the_jobs_start(tmp_path: Path) -> None:
    profile = LOCAL.model_copy(update={"scheduler": "slurm", "server_deadline_min": 10})
    run_dir = make_run(tmp_path, profile)
    (run_dir.scripts / "serve_user.sh").write_text("echo loading weights\nexec sleep 600\n")
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": str(int(time.time()) - 601)}
    with supervising(run_dir, **environment) as process:
        assert process.wait(240) == 1
    endpoint = endpoint_of(run_dir)
    assert endpoint.cause == "timeout"
    assert "not ready 10 minutes (server_deadline_min)" in endpoint.reason
    assert "VLLM_ENGINE_READY_TIMEOUT_S" in endpoint.reason


def test_status_and_watch_say_the_cause_and_what_to_do_on_lines_of_their_own(
    tmp_path: Path,
) -> None:
    run_dir = make_run(tmp_path)
    dies_saying(run_dir, "vllm: error: unrecognized arguments: --nosuch", 2)
    away = LocalProcess(os.getpid(), 1, "elsewhere", "t")
    add_jobs(run_dir, [JobRecord(JobKind.SERVER, "user", "7", process=away)])
    with supervising(run_dir, SUBMITIT_LOCAL_JOB_ID="7") as process:
        assert process.wait(240) == 1
    status = read_status(run_dir)
    server = next(each for each in status.servers if each.name == "user")
    assert (server.state, server.cause) == ("failed", "argument")
    seen = Seen(status=status, planned={"control": 1})
    state = build_watch_state(None, seen, {}, time.time())
    for shown in (
        render_plain(*render(status)),
        render_plain(render_screen(state, 200, 60), columns=200),
    ):
        stripped = [line.strip() for line in shown.splitlines()]
        assert any(line.startswith("what to do: correct extra_args") for line in stripped)
        assert (
            "vLLM does not take an argument: vllm: error: unrecognized arguments: --nosuch"
            in stripped
        )
