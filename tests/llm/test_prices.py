"""What a call to a hosted model cost: by its reply, by the sweep file, by litellm's list."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from emobench.core.models import Price
from emobench.llm import prices
from emobench.llm.prices import compute_cost, find_listed_price
from emobench.llm.transport import HttpTransport, LitellmTransport, ModelEndpoint

OPENAI = "https://api.openai.com/v1"
TABLE: dict[str, Any] = {
    "m": {
        "litellm_provider": "openai",
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 4e-6,
        "cache_read_input_token_cost": 0.5e-6,
    },
    "groq/m": {
        "litellm_provider": "groq",
        "input_cost_per_token": 2e-6,
        "output_cost_per_token": 3e-6,
    },
    "image": {"litellm_provider": "openai", "input_cost_per_token": 1e-6},
    "odd": {
        "litellm_provider": "openai",
        "input_cost_per_token": "free",
        "output_cost_per_token": -1,
    },
}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(prices, "_read_table", lambda: TABLE)
    find_listed_price.cache_clear()
    yield
    find_listed_price.cache_clear()


@pytest.mark.parametrize(
    ("model", "url", "price"),
    [
        ("m", OPENAI, Price(input=1, output=4, cached_input=0.5)),
        ("m", "https://api.groq.com/openai/v1", Price(input=2, output=3)),
        ("m", "https://api.x.ai/v1", None),
        ("m", "http://node1:8000/v1", None),
        ("image", OPENAI, None),
        ("odd", OPENAI, None),
        ("unknown", OPENAI, None),
    ],
)
def test_a_price_is_that_of_who_answers(
    table: None, model: str, url: str, price: Price | None
) -> None:
    found = find_listed_price(model, url)
    assert (found and found.model_dump()) == (price and pytest.approx(price.model_dump()))


@pytest.mark.parametrize(
    ("model", "named", "url", "provider"),
    [
        ("gpt-4o-mini", "openai/gpt-4o-mini", OPENAI, None),
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5", None, "anthropic"),
        (
            "gemini-2.5-pro",
            "models/gemini-2.5-pro",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            None,
        ),
    ],
)
def test_the_providers_name_in_front_of_the_models(
    model: str, named: str, url: str | None, provider: str | None
) -> None:
    price = find_listed_price(model, url, provider)
    assert price is not None
    assert find_listed_price(named, url, provider) == price


def test_the_list_that_comes_with_litellm_is_read() -> None:
    assert "litellm" not in vars(prices)
    price = find_listed_price("gpt-4o-mini", OPENAI)
    assert price is not None and 0 < price.input < price.output


PRICE = Price(input=2.0, output=10.0, cached_input=0.5)


@pytest.mark.parametrize(
    ("usage", "price", "cost"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 100}, PRICE, 0.003),
        ({"prompt_tokens": 1000, "completion_tokens": 100, "cost": 0.5}, PRICE, 0.5),
        ({"cost": 0}, None, 0.0),
        ({"prompt_tokens": 1000, "completion_tokens": 0}, None, None),
        ({"prompt_tokens": 1000}, PRICE, None),
        ({"prompt_tokens": "1000", "completion_tokens": 1}, PRICE, None),
        ({"prompt_tokens": -1000, "completion_tokens": 1}, PRICE, None),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": -400},
            },
            PRICE,
            0.002,
        ),
        ({"cost": "dear", "prompt_tokens": 0, "completion_tokens": 1}, PRICE, 1e-5),
        ({"cost": float("inf")}, None, None),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": 400},
            },
            PRICE,
            0.0014,
        ),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 0,
                "prompt_tokens_details": {"cached_tokens": 400},
            },
            Price(input=2.0, output=10.0),
            0.002,
        ),
    ],
)
def test_what_a_reply_cost(usage: dict[str, Any], price: Price | None, cost: float | None) -> None:
    assert compute_cost(usage, price) == (None if cost is None else pytest.approx(cost))


def test_the_sweep_files_price_is_before_the_list(table: None) -> None:
    assert HttpTransport(ModelEndpoint("m", OPENAI, "k", price=PRICE))._price is PRICE
    listed = HttpTransport(ModelEndpoint("m", OPENAI, "k"))._price
    assert listed is not None and listed.input == pytest.approx(1)
    own = ModelEndpoint("m", "http://node1:8000/v1", "k", server="user", incarnation="i")
    assert HttpTransport(own)._price is None
    assert LitellmTransport(ModelEndpoint("m", None, "k", "p", price=PRICE), max)._price is PRICE


def test_no_list_of_prices_is_fetched_at_the_start() -> None:
    """A node without a way out would wait for it, half a minute."""
    program = """
import socket
asked = []
def refuse(host, *rest, **more):
    asked.append(host)
    raise socket.gaierror("no way out")
socket.getaddrinfo = refuse
from emobench.benchmarks.adapter import load_benchmark
completion = load_benchmark().import_module("envs.user").completion
try:
    completion(model="gpt-4o-mini", custom_llm_provider="openai", api_key="k", num_retries=0,
               max_retries=0, messages=[{"role": "user", "content": "hi"}])
except Exception as error:
    print(type(error).__name__)
print(sorted(set(map(str, asked))))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=True
    )
    assert ended.stdout.splitlines()[-1] == "['api.openai.com']"
