"""The controller of concurrency: its properties, and model endpoints that it has to fill."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emobench.llm.concurrency import (
    CACHE_FULL,
    CUT_FIRST,
    SETTLE_S,
    UPPER,
    USED_UP,
    ConcurrencyController,
    EngineSample,
)

SAMPLES = st.builds(
    EngineSample,
    in_use=st.integers(0, 500),
    running=st.floats(0, 300),
    waiting=st.floats(0, 100),
    cache_use=st.none() | st.floats(0, 1),
    preemptions=st.sampled_from([0.0, 0.0, 3.0]),
    tokens_per_s=st.none() | st.floats(0, 5000),
)
LOOKS = st.lists(st.tuples(st.floats(0, 30), st.none() | SAMPLES), max_size=60)
BOUNDS = st.tuples(st.integers(1, 50), st.integers(1, 500))


@given(LOOKS, BOUNDS)
def test_the_limit_stays_within_its_bounds_and_moves_for_a_reason(
    looks: list[tuple[float, EngineSample | None]], bounds: tuple[int, int]
) -> None:
    lower, upper = min(bounds), max(bounds)
    controller = ConcurrencyController(lower=lower, upper=upper)
    now_s = 0.0
    for passed_s, sample in looks:
        now_s += passed_s
        before = controller.limit
        after = controller.observe(now_s, sample)
        assert after == controller.limit and lower <= after <= upper
        if sample is None:
            assert after == before
        elif after > before:
            assert sample.in_use >= USED_UP * before
            assert sample.preemptions == 0
            assert after <= 2 * before + 1
        elif after < before:
            full = (sample.cache_use or 0.0) >= CACHE_FULL or sample.waiting >= 1
            took_back = sample.tokens_per_s is not None
            assert sample.preemptions > 0 or full or took_back
            assert took_back or sample.in_use <= before
            assert after >= int(CUT_FIRST * before)


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from("rrrrra4"), st.floats(0.1, 60)), max_size=80
    )
)
def test_signals_of_a_hosted_endpoint_keep_the_bounds(
    signals: list[tuple[float, str, float]],
) -> None:
    controller = ConcurrencyController(initial=8, upper=64)
    now_s = 0.0
    for passed_s, kind, value in signals:
        now_s += passed_s
        before = controller.limit
        if kind == "r":
            controller.observe_reply(now_s, value, 100, in_use=before)
            assert controller.limit <= before + 1
        elif kind == "a":
            assert controller.observe_allowance(now_s, value / 60, value) == before
        else:
            assert controller.observe_rejection(now_s, value) <= before
            assert controller.paused_until_s >= now_s + value
        assert 1 <= controller.limit <= 64


def run_engine(
    controller: ConcurrencyController,
    batch: int,
    looks: int = 200,
    wish: int = UPPER,
    every_s: float = 5.0,
    begin_s: float = 0.0,
) -> list[int]:
    """Conversations that follow the limit, at an engine that computes `batch` requests at a time;
    the limits."""
    limits = []
    for look in range(looks):
        in_use = min(controller.limit, wish)
        sample = EngineSample(in_use, min(in_use, batch), max(0, in_use - batch))
        limits.append(controller.observe(begin_s + look * every_s, sample))
    return limits


def test_it_fills_a_large_batch_within_minutes_and_keeps_it_full() -> None:
    limits = run_engine(ConcurrencyController(initial=16), batch=256)
    assert limits[0] >= 16
    assert any(limit >= 256 for limit in limits[:12])  # a minute
    assert all(0.9 * 256 <= limit <= 1.5 * 256 for limit in limits[30:])


def test_it_goes_down_to_a_small_batch() -> None:
    limits = run_engine(ConcurrencyController(initial=16), batch=3)
    assert all(limit <= 5 for limit in limits[40:])
    assert all(limit >= 3 for limit in limits)


def test_it_follows_a_batch_that_shrinks_and_grows_again() -> None:
    controller = ConcurrencyController(initial=16)
    run_engine(controller, batch=200)
    down = run_engine(controller, batch=50, begin_s=1000)
    assert all(45 <= limit <= 75 for limit in down[40:])
    up = run_engine(controller, batch=200, begin_s=2000)
    assert all(180 <= limit <= 300 for limit in up[150:])


def test_a_limit_that_is_not_used_up_is_not_raised() -> None:
    assert max(run_engine(ConcurrencyController(initial=16), batch=256, wish=10)) <= 16


def look_for(
    controller: ConcurrencyController, looks: int, begin_s: float = 0.0, **sample: float
) -> int:
    """Look every 5 s at a server whose limit is used up; the limit."""
    for look in range(looks):
        each = EngineSample(controller.limit, controller.limit, 0, **sample)
        controller.observe(begin_s + 5 * look, each)
    return controller.limit


def test_no_more_begin_while_those_that_have_begun_still_grow() -> None:
    controller = ConcurrencyController(initial=64)
    for look in range(25):  # 2 to 80 % of the cache
        sample = EngineSample(64, 64, 0, cache_use=0.02 + 0.0325 * look)
        assert controller.observe(5 * look, sample) == 64


def test_it_is_raised_as_far_as_the_cache_holds_conversations_that_have_grown() -> None:
    controller = ConcurrencyController(initial=64)
    limits = set()
    for look in range(100):
        limit = controller.limit
        limits.add(controller.observe(5 * look, EngineSample(limit, limit, 0, limit / 256)))
    assert max(limits) == controller.limit == int(0.75 * 256)


def test_a_full_cache_lowers_the_limit_before_requests_wait() -> None:
    controller = ConcurrencyController(initial=64)
    assert controller.observe(0, EngineSample(64, 64, 0, cache_use=0.95)) < 64


def test_a_raise_that_brings_no_more_tokens_is_taken_back_and_tried_again_later() -> None:
    controller = ConcurrencyController(initial=64)
    # 64 at a time give 3,000 tokens a second, and so do more.
    assert look_for(controller, 2, tokens_per_s=3000) == 128
    assert look_for(controller, 2, begin_s=15, tokens_per_s=3000) == 64
    held = look_for(controller, 11, begin_s=25, tokens_per_s=3000)
    assert held == 64
    assert 64 < look_for(controller, 2, begin_s=80, tokens_per_s=3000) <= 96


def test_raises_that_bring_more_tokens_go_on() -> None:
    controller = ConcurrencyController(initial=64)
    for look in range(40):
        limit = controller.limit
        sample = EngineSample(limit, limit, 0, tokens_per_s=100 * min(limit, 500))
        controller.observe(5 * look, sample)
    assert 500 <= controller.limit < 1024


def test_preempted_requests_lower_the_limit_once_until_that_shows() -> None:
    controller = ConcurrencyController(initial=100)
    controller.observe(0, EngineSample(100, 80, 10, 1.0, preemptions=5))
    lowered = controller.limit
    assert lowered < 90
    for second in range(5, 60, 5):  # conversations end one by one
        controller.observe(second, EngineSample(100, 80, 10, 1.0, preemptions=5))
    assert controller.limit == lowered
    controller.observe(60, EngineSample(lowered, 80, 0, 1.0, preemptions=1))
    assert controller.limit < lowered


def test_rejections_of_one_burst_count_once_and_the_pause_is_kept() -> None:
    controller = ConcurrencyController(initial=64)
    for moment in range(5):
        controller.observe_rejection(moment * 0.1, retry_after_s=20)
    lowered = controller.limit
    assert 40 <= lowered < 64
    assert controller.paused_until_s == 20.4
    controller.observe_reply(19, 1.0, 100, in_use=lowered)
    assert controller.limit == lowered
    for moment in range(200):
        controller.observe_reply(21 + moment / 10, 1.0, 100, in_use=controller.limit)
    assert controller.limit > lowered


def test_a_hosted_endpoint_that_never_rejects_is_found_out_quickly() -> None:
    controller = ConcurrencyController(initial=8, upper=512)
    replies = 0
    while controller.limit < 128:
        controller.observe_reply(replies / 50, 1.0, 100, in_use=controller.limit)
        replies += 1
    assert replies <= 128


def test_replies_that_get_slow_end_the_raises_and_lower_the_limit() -> None:
    controller = ConcurrencyController(initial=32)
    for moment in range(20):
        controller.observe_reply(moment, 1.0, 100, in_use=32)
    before = controller.limit
    for moment in range(20, 120):
        controller.observe_reply(moment, 10.0, 100, in_use=controller.limit)
    assert controller.limit < before


def test_little_allowance_left_holds_the_limit_until_it_is_whole() -> None:
    controller = ConcurrencyController(initial=8)
    controller.observe_allowance(0, left=0.05, reset_s=30)
    assert controller.observe_reply(29, 1.0, 100, in_use=8) == 8
    assert controller.observe_reply(30, 1.0, 100, in_use=8) == 9
    assert SETTLE_S < 29
