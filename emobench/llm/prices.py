"""What the tokens of a hosted model cost, in US dollars: as its reply says, or by a table.

The table is litellm's own, in the copy that is installed with it: it is read without importing
litellm, which takes seconds, and without the network, which a compute node may not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from emobench.core.models import Price
from emobench.llm.replies import count_in, read_token_counts

_TABLE = "model_prices_and_context_window_backup.json"
_PROVIDERS = {
    "api.anthropic.com": "anthropic",
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks_ai",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.openai.com": "openai",
    "api.together.xyz": "together_ai",
    "api.x.ai": "xai",
    "generativelanguage.googleapis.com": "gemini",
    "openrouter.ai": "openrouter",
}
"""Names in litellm's table of those who answer at OpenAI-compatible addresses."""
_MILLION = 1e6


@cache
def find_listed_price(model: str, url: str | None, provider: str | None = None) -> Price | None:
    """Return the listed price of a model at an address, or at its provider's own where `url` is
    None; None where there is none, as for one's own server."""
    if url is not None:
        provider = _PROVIDERS.get(urlsplit(url).hostname or "")
    if provider is None:
        return None
    table = _read_table()
    # With the provider's name in front, as people write it for litellm, or as Google lists its own.
    bare = model.removeprefix(f"{provider}/").removeprefix("models/")
    for name in (f"{provider}/{bare}", bare):
        entry = table.get(name)
        if not isinstance(entry, dict) or entry.get("litellm_provider") != provider:
            continue
        kinds = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
        asked, said, cached = (_parse_dollars(entry.get(kind)) for kind in kinds)
        if asked is not None and said is not None:
            return Price(
                input=asked * _MILLION,
                output=said * _MILLION,
                cached_input=None if cached is None else cached * _MILLION,
            )
    return None


def compute_cost(usage: Mapping[str, Any], price: Price | None) -> float | None:
    """Return what a reply cost: what its `usage` says itself, or else by the price; None where
    neither is known."""
    said = _parse_dollars(usage.get("cost"))
    if said is not None or price is None:
        return said
    asked, answered = read_token_counts(usage)
    if asked is None or answered is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = count_in(details, "cached_tokens") if isinstance(details, dict) else 0
    cached = min(cached or 0, asked)
    of_cached = price.input if price.cached_input is None else price.cached_input
    total = (asked - cached) * price.input + cached * of_cached + answered * price.output
    return total / _MILLION


def _read_table() -> dict[str, Any]:
    found = find_spec("litellm")
    if found is None or found.origin is None:
        return {}
    try:
        table = orjson.loads(Path(found.origin).with_name(_TABLE).read_bytes())
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _parse_dollars(value: object) -> float | None:
    known = type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore
    return float(value) if known else None  # type: ignore
