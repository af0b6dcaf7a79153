"""The time model on real HTTP."""

from __future__ import annotations

import threading
import time

import pytest

from emobench.llm.engine_metrics import SAMPLE
from emobench.scripted.engine_clock import split_prompt
from emobench.scripted.messages import Reply, ToolCall
from emobench.scripted.protocol import parse_request
from tests.support.processes import until
from tests.support.scripted import Client, Launch

POLICY = {"role": "system", "content": "You are an agent of an airline. " * 100}
HELLO = {"role": "user", "content": "Hello, what is the weather like?"}


def read_metrics(client: Client) -> dict[str, float]:
    lines = client.request("/metrics").body.decode().splitlines()
    found = (SAMPLE.match(line) for line in lines)
    return {match["name"]: float(match["value"]) for match in found if match}


def test_a_reply_takes_its_tokens_and_the_scale_shortens_it(launch: Launch) -> None:
    # 80 GB of weights on two A100: 23 ms a token.
    settings = {"hardware": "a100", "model_size": 40, "accelerators": 2}
    took = {}
    for scale in (1, 20):
        client = launch(**settings, time_scale=scale)
        began = time.monotonic()
        tokens = client.chat([POLICY, HELLO]).json["usage"]["completion_tokens"]
        took[scale] = time.monotonic() - began
        assert took[scale] >= tokens * 0.023 / scale
    assert tokens >= 10
    assert took[20] < took[1]


def test_metrics_have_vllm_s_names(launch: Launch) -> None:
    client = launch(hardware="a100", model_size=30, time_scale=0.2)
    threads = [threading.Thread(target=client.chat, args=([POLICY, HELLO],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: read_metrics(client)["vllm:num_requests_running"] == 3, "three run")
    while_running = read_metrics(client)
    for thread in threads:
        thread.join()
    # All three prompts are the same: their tokens are held once.
    assert 0 < while_running["vllm:kv_cache_usage_perc"] < 0.1
    assert while_running["vllm:num_requests_waiting"] == 0
    after = read_metrics(client)
    assert after["vllm:num_requests_running"] == after["vllm:kv_cache_usage_perc"] == 0
    assert after["vllm:num_preemptions_total"] == 0
    queries = after["vllm:prefix_cache_queries_total"]
    assert after["vllm:prefix_cache_hits_total"] == pytest.approx(queries * 2 / 3)


def test_the_next_turn_finds_the_conversation_in_the_cache(launch: Launch) -> None:
    client = launch(hardware="h100", time_scale=1000)
    message = client.chat([POLICY, HELLO]).message
    before = read_metrics(client)["vllm:prefix_cache_queries_total"]
    client.chat([POLICY, HELLO, message, {"role": "user", "content": "Thanks"}])
    after = read_metrics(client)
    new = after["vllm:prefix_cache_queries_total"] - before - after["vllm:prefix_cache_hits_total"]
    # Of the answer the line that names its speaker was not generated.
    assert 0 < new <= len("assistant\nuser\nThanks") // 4


def test_a_prompt_that_no_cache_holds_is_refused(launch: Launch) -> None:
    client = launch(hardware="a100", model_size=33, time_scale=1000)
    answer = client.chat([{"role": "user", "content": "long " * 40_000}])
    assert answer.status == 400
    assert "maximum context length" in answer.json["error"]["message"]


def test_without_hardware_a_server_takes_no_time_and_says_nothing_of_a_cache(
    launch: Launch,
) -> None:
    client = launch()
    client.chat([POLICY, HELLO])
    assert "vllm:kv_cache_usage_perc" not in read_metrics(client)


def test_a_reply_has_the_key_that_it_has_in_the_next_prompt() -> None:
    reply = Reply(None, (ToolCall("call_1", "get_user", '{"id": 7}'),), "tool_calls")
    sent = b'[{"role": "user", "content": "Hi"}'
    first = parse_request(b'{"messages": %s]}' % sent, "m")
    prompt, key = split_prompt(first, reply)
    # As clients send it back: with an id, and without or with an empty text.
    for content in (b"null", b'""'):
        said = b'{"role": "assistant", "content": %s, "tool_calls": [{"id": "call_1", ' % content
        said += (
            b'"type": "function", "function": {"name": "get_user", "arguments": "{\\"id\\": 7}"}}]}'
        )
        later = parse_request(b'{"messages": %s, %s]}' % (sent, said), "m")
        assert [*prompt, (key, later_tokens(later))] == split_prompt(later, reply)[0]


def later_tokens(request: object) -> int:
    return split_prompt(request, Reply("x"))[0][-1][1]  # type: ignore[arg-type]
