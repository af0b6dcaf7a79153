"""The time model against cases computed by hand, and against published measurements."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emobench.core.errors import InvalidInput
from emobench.core.hardware import CARDS, ModelSize
from emobench.core.models import Hardware
from emobench.scripted.timing import (
    REACH,
    BatchingEngine,
    TimeModel,
    build_time_model,
)

# Weights 10 ms, a token 0.1 ms, a token of context 1 us, a step 1 ms, a request 10 us.
ROUND = TimeModel(
    weights_s=0.010,
    token_s=0.0001,
    context_token_s=1e-6,
    cache_tokens=10_000,
    max_num_seqs=8,
    max_num_batched_tokens=1000,
    overhead_s=0.001,
    request_s=0.00001,
)


def build_engine(**other: float) -> BatchingEngine:
    return BatchingEngine(TimeModel(**{**vars(ROUND), **other}))


def run_out(engine: BatchingEngine) -> dict[int, float]:
    """Return when each request is done."""
    ends: dict[int, float] = {}
    while (then := engine.find_next_s()) is not None:
        ends |= dict.fromkeys(engine.advance(then), then)
    return ends


def test_a_step_reads_the_weights_or_computes_its_tokens_whichever_takes_longer() -> None:
    assert ROUND.compute_step(4, 2000) == pytest.approx(0.001 + 0.010 + 0.002 + 0.00004)
    assert ROUND.compute_step(4, 2000, 496) == pytest.approx(0.001 + 0.050 + 0.002 + 0.00004)


@given(st.integers(1, 200), st.integers(1, 300), st.integers(0, 100_000))
def test_several_steps_are_their_sum_and_are_counted_back(
    steps: int, batch: int, context: int
) -> None:
    each = [ROUND.compute_step(batch, context + batch * done) for done in range(steps)]
    assert ROUND.sum_steps(steps, batch, context) == pytest.approx(sum(each))
    whole = ROUND.sum_steps(steps, batch, context)
    assert ROUND.count_steps(whole, batch, context) == steps
    assert ROUND.count_steps(whole * 0.9999, batch, context) == steps - 1


def test_a_request_alone_takes_its_prompt_and_a_step_for_each_further_token() -> None:
    engine = build_engine()
    engine.submit(5.0, 1, [("a", 100)], 3)
    # The prompt: 100 tokens of 0.1 ms, as long as the weights. Then 101 and 102 tokens are read.
    expected = 0.011 + (0.01101 + 101e-6) + (0.01101 + 102e-6)
    assert run_out(engine) == {1: pytest.approx(5.0 + expected)}
    assert (engine.counters.prompt_tokens, engine.counters.generation_tokens) == (100, 3)


def test_a_long_prompt_is_computed_in_chunks_beside_those_that_decode() -> None:
    engine = build_engine()
    engine.submit(0.0, 1, [("a", 100)], 2)
    engine.submit(0.0, 2, [("b", 1500)], 1)
    # Step 1: 100 + 900 tokens. Step 2: one decodes with 101 tokens beside the other 600.
    first = 0.001 + 0.1
    assert engine.advance(first - 0.001) == []
    ends = run_out(engine)
    second = first + 0.001 + 0.0601 + 0.00001 + 101e-6
    assert ends == {1: pytest.approx(second), 2: pytest.approx(second)}


def test_one_that_comes_during_a_step_waits_for_its_end() -> None:
    engine = build_engine()
    engine.submit(0.0, 1, [("a", 100)], 3)
    engine.advance(0.015)  # 4 ms into the second step, which ends at 0.011 + 0.011111
    engine.submit(0.015, 2, [("b", 10)], 1)
    assert (engine.running, engine.waiting) == (1, 1)
    ends = run_out(engine)
    third = 0.011 + 0.011111 + 0.01101 + 102e-6  # both: the third token, and the prompt of 10
    assert ends == {1: pytest.approx(third), 2: pytest.approx(third)}


def test_what_is_in_the_cache_is_not_computed_again() -> None:
    engine = build_engine()
    engine.submit(0.0, 1, [("policy", 800), ("hello", 100)], 40, reply="reply")
    ends = run_out(engine)
    now = ends[1]
    engine.submit(now, 2, [("policy", 800), ("hello", 100), ("reply", 40), ("more", 60)], 1)
    engine.submit(now, 3, [("policy", 800), ("other", 140)], 1)
    # 60 and 140 tokens are new: 20 ms.
    expected = now + 0.001 + 0.020
    assert run_out(engine) == {2: pytest.approx(expected), 3: pytest.approx(expected)}
    assert engine.counters.prefix_queries == 900 + 1000 + 940
    assert engine.counters.prefix_hits == 0 + 940 + 800


def test_a_segment_behind_a_gap_is_computed() -> None:
    engine = build_engine(cache_tokens=1000)
    engine.submit(0.0, 1, [("a", 300), ("b", 300)], 1)
    run_out(engine)
    # Needs 700 tokens of room: "b", the end of an unused prompt, goes first, then "a".
    engine.submit(1.0, 2, [("c", 690)], 10)
    run_out(engine)
    engine.submit(2.0, 3, [("a", 300), ("b", 300)], 1)
    run_out(engine)
    assert engine.counters.prefix_hits == 300
    assert engine.cache_use == 0


def test_of_a_segment_that_grew_only_what_is_new_is_computed() -> None:
    engine = build_engine()
    engine.submit(0.0, 1, [("policy", 100), ("talk", 100)], 40, reply="talk")
    run_out(engine)
    engine.submit(50.0, 2, [("policy", 100), ("talk", 200)], 1, reply="talk")
    run_out(engine)
    assert engine.counters.prefix_hits == 100 + 140
    # The end of what nobody uses is forgotten first, and no more of it than has to be.
    engine.submit(100.0, 3, [("other", engine.model.cache_tokens - 251)], 1)
    run_out(engine)
    engine.submit(150.0, 4, [("policy", 100), ("talk", 201)], 1)
    run_out(engine)
    assert 0 < engine.counters.prefix_hits - 240 < 301


def test_more_than_the_batch_holds_waits_in_order() -> None:
    engine = build_engine(max_num_seqs=2)
    for number in range(4):
        engine.submit(0.0, number, [(number, 10)], 5)
    assert engine.advance(0.0) == []
    assert (engine.running, engine.waiting) == (2, 2)
    ends = run_out(engine)
    assert ends[0] == ends[1] < ends[2] == ends[3]


def test_a_request_waits_until_the_cache_has_room() -> None:
    engine = build_engine(cache_tokens=1000)
    engine.submit(0.0, 1, [("a", 600)], 5)
    engine.submit(0.0, 2, [("b", 600)], 5)
    engine.advance(0.0)
    assert (engine.running, engine.waiting, engine.cache_use) == (1, 1, 0.6)
    ends = run_out(engine)
    assert ends[2] > ends[1] and engine.counters.preemptions == 0


def test_the_last_that_came_makes_room_and_is_computed_again() -> None:
    engine = build_engine(cache_tokens=1000)
    engine.submit(0.0, 1, [("a", 400)], 300)
    engine.submit(0.0, 2, [("b", 400)], 300)
    ends = run_out(engine)
    assert engine.counters.preemptions == 1
    assert ends[1] < ends[2]
    assert engine.counters.generation_tokens == 600
    assert engine.counters.prompt_tokens == 800


def test_a_request_that_the_cache_can_never_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="the cache holds 10000"):
        build_engine().submit(0.0, 1, [("a", 9_990)], 11)


@given(st.randoms(use_true_random=False))
def test_looks_in_between_change_nothing(dice: random.Random) -> None:
    """However often an engine is looked at, and however full it is, requests end at the same time;
    nothing is lost, and the cache is never overfull."""
    arrivals = sorted((dice.uniform(0, 2), number) for number in range(30))
    sizes = [(dice.randint(1, 700), dice.randint(1, 200)) for _ in arrivals]

    def run(look_s: float | None) -> list[tuple[int, int]]:
        engine = build_engine(cache_tokens=2500)
        seen: list[tuple[int, int]] = []
        now = 0.0
        for at, number in arrivals:
            while look_s is not None and now + look_s < at:
                now += look_s
                seen += [(number, 0) for number in engine.advance(now)]
                assert 0 <= engine.cache_use <= 1
            seen += [(number, 0) for number in engine.advance(at)]
            prompt, output = sizes[number]
            engine.submit(at, number, [("policy", 100), (number, prompt)], output)
            now = at
        seen += [(number, round(end * 1e6)) for number, end in run_out(engine).items()]
        assert engine.running == engine.waiting == 0
        assert engine.counters.generation_tokens == sum(output for _, output in sizes)
        return seen

    whole = run(None)
    assert sorted(number for number, _ in whole) == list(range(30))
    assert run(0.0137) == whole


# Batch, prompt tokens, reply tokens, generated tokens a second of one card. NVIDIA's page has FP8
# for the H100 and FP16 for the A100, Intel's has FP8; see docs/performance.md.
PUBLISHED: list[tuple[Hardware, str, int, int, int, int]] = [
    ("h100", "llama-7b", 768, 128, 128, 19_694),
    ("h100", "llama-7b", 112, 128, 2048, 6_818),
    ("h100", "llama-7b", 80, 2048, 128, 2_244),
    ("h100", "llama-7b", 48, 2048, 2048, 2_740),
    ("a100", "llama-7b", 384, 128, 128, 5_586),
    ("a100", "llama-7b", 60, 128, 2048, 1_928),
    ("a100", "llama-7b", 52, 2048, 128, 591),
    ("gaudi2", "llama-7b", 1230, 128, 128, 13_137),
    ("gaudi2", "llama-7b", 163, 128, 2048, 4_791),
    ("gaudi2", "llama-7b", 94, 2048, 128, 1_449),
    ("gaudi2", "llama-7b", 81, 2048, 2048, 1_953),
    ("gaudi2", "llama-8b", 2429, 128, 128, 18_201),
    ("gaudi2", "llama-8b", 289, 128, 2048, 11_138),
    ("gaudi2", "llama-8b", 179, 2048, 128, 2_028),
    ("gaudi2", "llama-8b", 155, 2048, 2048, 5_511),
]


@pytest.mark.parametrize(("hardware", "model", "batch", "prompt", "reply", "published"), PUBLISHED)
def test_published_throughput_is_met_within_a_fifth(
    hardware: Hardware, model: str, batch: int, prompt: int, reply: int, published: int
) -> None:
    card, reach = CARDS[hardware], REACH[hardware]
    width = 2 if hardware == "a100" else 1  # bytes; FP8 also has twice the operations a second
    parameters, heads = (6.74e9, 32) if model == "llama-7b" else (8.03e9, 8)
    bandwidth = card.bandwidth_gb_s * 1e9 * reach.bandwidth
    engine = BatchingEngine(
        TimeModel(
            weights_s=width * parameters / bandwidth,
            token_s=2 * parameters / (card.tflops * 1e12 * 2 / width * reach.flops),
            context_token_s=width * 2 * 32 * heads * 128 / bandwidth,
            cache_tokens=batch * (prompt + reply + 1),
            max_num_seqs=batch,
            max_num_batched_tokens=16_384,
        )
    )
    for number in range(batch):
        engine.submit(0.0, number, [(number, prompt)], reply)
    seconds = max(run_out(engine).values())
    assert batch * reply / seconds == pytest.approx(published, rel=0.2)


def test_a_model_on_cards() -> None:
    """Qwen3-4B on an H100: 8 GB of weights, 147 kB of cache a token."""
    model = build_time_model("h100", ModelSize(4, 4))
    assert model.weights_s == pytest.approx(8e9 / (3.35e12 * 0.85))
    assert model.token_s == pytest.approx(8e9 / (989e12 * 0.43))
    assert model.context_token_s == pytest.approx(147e3 / (3.35e12 * 0.85), rel=0.01)
    assert model.cache_tokens == pytest.approx((80 * 0.9 - 3 - 8) * 1e9 / 147e3, rel=0.01)
    both = build_time_model("h100", ModelSize(32, 32), cards=2)
    assert both.weights_s == pytest.approx(64e9 / (2 * 3.35e12 * 0.85))
    assert both.cache_tokens == pytest.approx((2 * 69 - 64) * 1e9 / 262e3, rel=0.02)


def test_a_model_that_leaves_no_cache_is_refused() -> None:
    with pytest.raises(InvalidInput, match="70B leaves no room for a cache on 1 x A100"):
        build_time_model("a100", ModelSize(70, 70))
