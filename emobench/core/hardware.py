"""Accelerators and models in figures: what a card does, and what a model asks of it. Pure.

Peak figures are the makers' data sheets'; what of them an engine reaches is from published runs of
`vllm bench serve` (docs/performance.md, "Cards and models"). The forecast and the scripted engine's
time model both read them here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPUTE_SHARE = 0.35
"""Of a card's peak, in prefill: GPUStack's performance lab, vLLM 0.11 untuned, prompts of 2,000
tokens: Qwen3-14B on an H100 32 %, Qwen3-32B on an A100 50 %, on an H100 21 %."""
BANDWIDTH_SHARE = 0.6
"""Of a card's peak, in decoding: the same runs, 43 to 52 ms between tokens for 64 GB of weights
and the cache."""
STEP_OVERHEAD_S = 0.004
"""Of one decode step, whatever the model."""
MEMORY_SHARE = 0.9
"""Of a card's memory that vLLM takes, near its default gpu_memory_utilization."""
BYTES = 2
"""Of a weight, and of a value in the cache: bfloat16."""


@dataclass(frozen=True)
class Card:
    """One accelerator, by its data sheet."""

    name: str
    title: str
    memory_gb: float
    bandwidth_gb_s: float
    tflops: float
    """Dense, bfloat16."""
    words: tuple[str, ...]
    """What a GRES or a constraint that means it has in it, in lower case."""


CARDS = {
    card.name: card
    for card in (
        Card("h100", "H100", 80, 3350, 989, ("h100",)),
        Card("a100", "A100", 80, 2039, 312, ("a100",)),
        Card("gaudi2", "Gaudi 2", 96, 2450, 432, ("gaudi2", "hl225", "hl-225", "gaudi")),
    )
}
"""SXM cards of 80 GB, and the HL-225H."""
CUDA_CARDS = (CARDS["h100"], CARDS["a100"])


@dataclass(frozen=True)
class ModelSize:
    """Parameters of a model, in billions."""

    total: float
    active: float
    """For one token; less than `total` in a mixture of experts."""
    weight_bytes: float = BYTES
    """Of one parameter; fewer where the weights are quantised."""

    @property
    def weight_gb(self) -> float:
        return self.total * self.weight_bytes

    @property
    def cache_kb_per_token(self) -> float:
        """What a token takes in the cache: a fit to the layers and heads of Qwen3-4B (147),
        8B (147), 14B (164), 32B (262) and Llama-3.1-70B (328), within 30 %."""
        return 100.0 * float(self.active**0.28)


_QUANTISED = ((r"fp8|int8|w8a|8bit", 1.0), (r"awq|gptq|int4|w4a|4bit|fp4|gpt-oss", 0.5))
"""Bytes of a parameter by what stands in a model's name."""


def parse_size(model: str) -> ModelSize | None:
    """Return the size that a model's name says; None where it says none.

    >>> parse_size("Qwen/Qwen3-30B-A3B-Instruct-2507")
    ModelSize(total=30.0, active=3.0, weight_bytes=2)
    >>> parse_size("gpt-4o")
    """
    found = re.search(r"(?<![A-Za-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)([BM])(?![A-Za-z])", model, re.I)
    if found is None:
        return None
    size = float(found[2]) * (1 if found[3].upper() == "B" else 1e-3)
    active = re.search(r"-A(\d+(?:\.\d+)?)B(?![A-Za-z])", model, re.I)
    total = size * int(found[1] or 1)
    # Of the experts of Mixtral's kind two are active.
    both = min(2, int(found[1] or 1)) * size
    quantised = next((each for words, each in _QUANTISED if re.search(words, model, re.I)), BYTES)
    return ModelSize(total, float(active[1]) if active else both, quantised) if total else None


def find_card(text: str) -> Card | None:
    """Return the card that a GRES string or a constraint names; None where it names none."""
    lower = text.lower()
    return next((card for card in CARDS.values() if any(w in lower for w in card.words)), None)


@dataclass(frozen=True)
class EngineSpeed:
    """What one copy of a model does on its cards, by a roofline."""

    card: Card
    cards: int
    """That share each layer."""
    size: ModelSize

    @property
    def prefill_tokens_per_s(self) -> float:
        """Tokens of prompts that are not cached: two operations a parameter."""
        return COMPUTE_SHARE * self.card.tflops * 1e12 * self.cards / (2e9 * self.size.active)

    @property
    def cache_tokens(self) -> float:
        """What the cache holds; none where the weights leave no room."""
        free_gb = MEMORY_SHARE * self.card.memory_gb * self.cards - self.size.weight_gb
        return max(0.0, free_gb) * 1e6 / self.size.cache_kb_per_token

    def compute_step_s(self, batch: float, tokens_in_cache: float) -> float:
        """Return the seconds of one decode step: a token for each request of the batch. All weights
        are read once, and the cache of every request.

        Of a mixture of experts a small batch reads only a part.
        """
        read_gb = min(self.size.total, self.size.active * max(1.0, batch)) * self.size.weight_bytes
        read_gb += tokens_in_cache * self.size.cache_kb_per_token / 1e6
        bandwidth = BANDWIDTH_SHARE * self.card.bandwidth_gb_s * self.cards
        return STEP_OVERHEAD_S + read_gb / bandwidth
