"""What an engine says of its load at /metrics: vLLM's names in Prometheus' text format.

Names and label sets differ between versions, and data-parallel ranks each have their own samples,
so samples of one name are added up (of the cache's use the highest counts), and whatever is absent
is None.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import closing
from dataclasses import dataclass, field, replace

from emobench.llm.client import ChatClient

SAMPLE = re.compile(
    r'(?P<name>[A-Za-z_:][\w:]*)(?:\{(?:[^"}]|"(?:\\.|[^"\\])*")*\})?[ \t]+(?P<value>\S+)'
)
WHOLE_REQUESTS = re.compile(r"Maximum concurrency for [\d,]+ tokens per request: ([\d.]+)x")
# The first name that the server knows counts; later ones are of older versions.
NAMES = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "generation_tokens": ("vllm:generation_tokens_total", "vllm:generation_tokens"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "vllm:prompt_tokens"),
    "cache_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "request_s": (
        "vllm:request_inference_time_seconds_sum",
        "vllm:e2e_request_latency_seconds_sum",
    ),
    "cache_use": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions"),
    "cache_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
}


@dataclass(frozen=True)
class Load:
    """One look at an engine. Counters count since its start, in tokens."""

    running: float | None = None
    """Requests that are being computed."""
    waiting: float | None = None
    generation_tokens: float | None = None
    prompt_tokens: float | None = None
    cache_hits: float | None = None
    cache_queries: float | None = None
    request_s: float | None = None
    """Seconds that requests took which have ended, added up."""
    cache_use: float | None = None
    """0 to 1, of the fullest engine: it is there that requests are preempted."""
    preemptions: float | None = None
    """Requests taken out of the batch for lack of cache, since the engine's start."""
    at_s: float | None = field(default=None, compare=False)
    """When it was asked, by `time.monotonic`."""


def parse_load(text: str) -> Load:
    """Return Prometheus' text as a Load; lines that are none are passed over."""
    wanted = {name for names in NAMES.values() for name in names}
    sums: dict[str, float] = {}
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match is None or match["name"] not in wanted:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        if math.isfinite(value):
            name = match["name"]
            before = sums.get(name, 0.0)
            sums[name] = max(before, value) if name in NAMES["cache_use"] else before + value
    return Load(
        **{
            field: next((sums[name] for name in names if name in sums), None)
            for field, names in NAMES.items()
        }
    )


def ask_load(url: str, timeout_s: float = 3.0) -> Load:
    """Ask for the load of the server whose API is at `url` (ending in /v1).

    Raises OSError where nothing answers, or no metrics. The key is not sent: another server may
    have the port by now.
    """
    try:
        with closing(ChatClient(url.removesuffix("/v1"), None, timeout_s)) as client:
            answer = client.get("/metrics")
    except ValueError as error:
        raise OSError(f"{url!r} is no address: {error}") from None
    if answer.status != 200:
        raise OSError(f"/metrics answers HTTP {answer.status}")
    load = parse_load(answer.body.decode(errors="replace"))
    if load == Load():
        raise OSError("/metrics has none of vLLM's counters")
    return replace(load, at_s=time.monotonic())


def was_busy(before: Load | None, after: Load) -> bool:
    """Return whether the engine had a request at `after`, or finished one since `before`."""
    if (after.running or 0) + (after.waiting or 0) > 0:
        return True
    return before is not None and any(
        (new or 0) > (old or 0)
        for old, new in (
            (before.generation_tokens, after.generation_tokens),
            (before.prompt_tokens, after.prompt_tokens),
        )
    )


def parse_whole_requests(line: str) -> float | None:
    """Return what vLLM prints of its cache at its start: how many requests of full length it
    holds."""
    found = WHOLE_REQUESTS.search(line)
    return float(found[1]) if found else None
