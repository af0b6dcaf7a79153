"""Reading engines' counters, and the log of what a server's job went through."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from emobench.core.run_dir import RunDir
from emobench.llm.engine_metrics import Load, ask_load, parse_load, was_busy
from emobench.store.events import EventLog, read_events
from tests.support.processes import until
from tests.support.runs import finish_cell
from tests.support.serving import make_run, supervising, until_state

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a } \\" b"} 3.0
vllm:num_requests_running{engine="1",model_name="a } \\" b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03 1700000000000
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_hits_total{engine="0"} 150.0
vllm:gpu_prefix_cache_hits_total{engine="0"} 1.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:num_preemptions_total{engine="0"} 1.0
vllm:num_preemptions_total{engine="1"} 2.0
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Load(7, 0, 1500, None, 150, 200, cache_use=0.75, preemptions=3)),
        ("vllm:gpu_cache_usage_perc 0.5\n", Load(cache_use=0.5)),
        ("vllm:gpu_prefix_cache_hits_total 5\n", Load(cache_hits=5)),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting{", Load()),
        ("vllm:num_requests_running\n<html>no</html>\n", Load()),
        ("", Load()),
    ],
)
def test_counters_of_any_version(text: str, load: Load) -> None:
    assert parse_load(text) == load


@pytest.mark.parametrize(
    ("before", "after", "busy"),
    [
        (None, Load(running=1), True),
        (None, Load(waiting=1), True),
        (None, Load(running=0, generation_tokens=9), False),
        (Load(generation_tokens=9), Load(running=0, generation_tokens=9), False),
        (Load(generation_tokens=9), Load(running=0, generation_tokens=12), True),
        (Load(), Load(), False),
    ],
)
def test_a_request_between_two_looks_counts(before: Load | None, after: Load, busy: bool) -> None:
    assert was_busy(before, after) is busy


def test_only_changes_are_noted_and_torn_lines_passed_over(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.endpoints.mkdir()
    loads = [Load(running=n, generation_tokens=0) for n in (0, 1, 2, 0, 0)]
    log = EventLog(run_dir, "assistant_a.b", "7")
    log.note("starting", "aaaa")
    log.note("ready")
    for load in loads:
        log.note_load(load)
    log.note("left", reason="all\ncells are done")
    with run_dir.events("assistant_a.b", "7").open("a") as stream:
        stream.write('{"time": "2026-01-01T00:0')
    events = read_events(run_dir)["7"]
    assert [e.event for e in events] == ["starting", "ready", "busy", "idle", "served", "left"]
    assert {(e.server, e.incarnation) for e in events} == {("assistant_a.b", "aaaa")}
    assert events[-1].reason == "all cells are done"
    assert abs(events[-1].time - time.time()) < 60


def test_a_folder_that_is_gone_ends_no_server(tmp_path: Path) -> None:
    log = EventLog(RunDir(tmp_path), "user", "7")
    log.note("ready")  # there is no folder: a printed line, no exception
    assert read_events(RunDir(tmp_path)) == {}
    with pytest.raises(OSError, match="refused"):
        ask_load("http://127.0.0.1:1/v1")


def test_a_supervisor_notes_its_life(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path)
    with supervising(run_dir) as process:
        endpoint = until_state(run_dir, "ready")
        assert ask_load(endpoint.url).running == 0
        until(lambda: read_events(run_dir), "events")
        finish_cell(run_dir, 0)
        finish_cell(run_dir, 1)
        assert process.wait(240) == 0
    (events,) = read_events(run_dir).values()
    assert [e.event for e in events] == ["starting", "ready", "left"]
    assert {e.incarnation for e in events} == {endpoint.incarnation}
