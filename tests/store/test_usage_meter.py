"""Seconds with a request, and of requests, from looks at an engine."""

from __future__ import annotations

import pytest

from emobench.llm.engine_metrics import Load
from emobench.store.usage_meter import LONGEST_S, Served, UsageMeter


def measure(*looks: tuple[float, Load]) -> Served:
    meter = UsageMeter()
    for time, load in looks:
        meter.observe(time, load)
    return meter.served


def test_requests_at_two_looks_stand_for_the_time_between() -> None:
    looks = [(0.0, Load(running=0)), (10.0, Load(running=4)), (20.0, Load(running=8))]
    assert measure(*looks) == Served(20.0, 10 * 2 + 10 * 6)


def test_what_the_engine_adds_up_counts_where_it_does() -> None:
    looks = [(0.0, Load(running=0, request_s=100.0)), (10.0, Load(running=1, request_s=130.0))]
    assert measure(*looks) == Served(10.0, 30.0)
    # Requests that began and ended between two looks are seen by it alone.
    short = [
        (0.0, Load(running=0, generation_tokens=5, request_s=1.0)),
        (10.0, Load(running=0, generation_tokens=90, request_s=21.0)),
    ]
    assert measure(*short) == Served(10.0, 20.0)


@pytest.mark.parametrize(
    "looks",
    [
        [(0.0, Load(running=0)), (10.0, Load(running=0))],
        [(0.0, Load(running=4))],
        [(0.0, Load(running=4)), (LONGEST_S + 1, Load(running=4))],
        [(10.0, Load(running=4)), (10.0, Load(running=4))],
    ],
    ids=["idle", "one look", "a silence", "no time"],
)
def test_nothing_is_made_up(looks: list[tuple[float, Load]]) -> None:
    assert not measure(*looks)


def test_another_engine_s_counters_begin_anew_and_the_sum_stays() -> None:
    meter = UsageMeter()
    meter.observe(0.0, Load(running=2, request_s=50.0))
    meter.observe(10.0, Load(running=2, request_s=70.0))
    meter.forget_engine()
    meter.observe(20.0, Load(running=2, request_s=0.0))
    meter.observe(30.0, Load(running=2, request_s=5.0))
    assert meter.served == Served(20.0, 25.0)
