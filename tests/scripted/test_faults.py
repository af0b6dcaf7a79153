"""Each injected fault as a client sees it."""

from __future__ import annotations

import http.client
import json

import pytest

from tests.support.scripted import Launch

WEATHER = [{"role": "user", "content": "The weather?"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
HELLO = [{"role": "user", "content": "Hello"}]


def test_http_500(launch: Launch) -> None:
    answer = launch(faults={"http_500": 1}).chat(HELLO)
    assert answer.status == 500
    assert answer.json["error"]["type"] == "InternalServerError"


def test_hang(launch: Launch) -> None:
    client = launch(faults={"hang": 1})
    with pytest.raises(TimeoutError):
        client.chat(HELLO, timeout=0.3)
    assert client.request("/health").status == 200


def test_disconnect(launch: Launch) -> None:
    client = launch(faults={"disconnect": 1})
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        client.chat(HELLO)


def test_bad_tool_json(launch: Launch) -> None:
    client = launch(faults={"bad_tool_json": 1})
    call = client.chat(WEATHER, tools=[TOOL]).message["tool_calls"][0]
    with pytest.raises(json.JSONDecodeError):
        json.loads(call["function"]["arguments"])
    assert client.chat(HELLO).message["content"] == launch().chat(HELLO).message["content"]


def test_think_blocks(launch: Launch) -> None:
    plain = launch().chat(HELLO).message["content"]
    complete = launch(faults={"think_complete": 1}).chat(HELLO).message["content"]
    assert complete.startswith("<think>")
    assert complete.split("</think>")[1].strip() == plain
    closing = launch(faults={"think_closing_only": 1}).chat(HELLO).message["content"]
    assert "<think>" not in closing
    assert closing.split("</think>")[1].strip() == plain
    answer = launch(faults={"think_unterminated": 1}).chat(HELLO)
    assert answer.message["content"].startswith("<think>")
    assert "</think>" not in answer.message["content"]
    assert answer.json["choices"][0]["finish_reason"] == "length"


def test_null_content(launch: Launch) -> None:
    message = launch(faults={"null_content": 1}).chat(WEATHER, tools=[TOOL]).message
    assert message == {"role": "assistant", "content": None}


def test_a_retry_can_fare_better(launch: Launch) -> None:
    def statuses(seed: int) -> list[int]:
        client = launch(faults={"http_500": 0.5}, seed=seed)
        return [client.chat(HELLO).status for _ in range(24)]

    seen = statuses(1)
    assert set(seen) == {200, 500}
    assert statuses(1) == seen
    assert statuses(2) != seen


def test_latency(launch: Launch) -> None:
    client = launch(latency_ms=60_000)
    with pytest.raises(TimeoutError):
        client.chat(HELLO, timeout=0.2)
