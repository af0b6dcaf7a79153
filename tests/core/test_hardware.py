"""What cards and models are taken for, against published runs."""

from __future__ import annotations

import pytest

from emobench.core.hardware import CARDS, EngineSpeed, ModelSize, find_card, parse_size


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen3-32B", ModelSize(32, 32)),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", ModelSize(30, 3)),
        ("mistralai/Mixtral-8x7B-Instruct", ModelSize(56, 14)),
        ("./models/SmolLM2-135M-Instruct", ModelSize(0.135, 0.135)),
        ("Qwen/Qwen2.5-0.5B", ModelSize(0.5, 0.5)),
        ("Qwen/Qwen3-32B-FP8", ModelSize(32, 32, 1)),
        ("meta-llama/Llama-3.1-70B-AWQ", ModelSize(70, 70, 0.5)),
        ("gpt-4o", None),
        ("openai/o3-mini", None),
        ("my-4Bit-model", None),
    ],
)
def test_a_model_s_size_is_read_from_its_name(name: str, size: ModelSize | None) -> None:
    assert parse_size(name) == size


def test_a_gres_names_its_card() -> None:
    assert [find_card(text) for text in ("gpu:h100", "gpu:HL-225", "gpu:a100_80gb", "gpu")] == [
        CARDS["h100"],
        CARDS["gaudi2"],
        CARDS["a100"],
        None,
    ]


@pytest.mark.parametrize(
    ("card", "model", "prefill", "step_ms"),
    [
        # GPUStack's performance lab, vLLM untuned: tokens a second at 2,000 tokens a prompt, median
        # ms between tokens at 4,000, with as many requests as the cache holds.
        ("h100", "Qwen3-14B", 10_597, 44),
        ("h100", "Qwen3-32B", 3_195, 43),
        ("a100", "Qwen3-32B", 2_521, 52),
    ],
)
def test_speeds_are_within_twice_of_published_runs(
    card: str, model: str, prefill: float, step_ms: float
) -> None:
    size = parse_size(model)
    assert size is not None
    speed = EngineSpeed(CARDS[card], 1, size)
    assert prefill / 2 < speed.prefill_tokens_per_s < prefill * 2
    batch = speed.cache_tokens / 4_200
    step_s = speed.compute_step_s(batch, speed.cache_tokens)
    assert step_ms / 1.5 < 1000 * step_s < step_ms * 1.5


def test_what_does_not_fit_leaves_no_cache() -> None:
    assert EngineSpeed(CARDS["a100"], 1, ModelSize(70, 70)).cache_tokens == 0
    one, two = (EngineSpeed(CARDS["h100"], n, ModelSize(32, 32)).cache_tokens for n in (1, 2))
    assert 20_000 < one < 60_000 < 5 * one < two
