"""Providers behind litellm, asked as an OpenAI-compatible URL is asked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.llm.client import Unreachable
from emobench.llm.litellm_client import LitellmClient
from emobench.llm.replies import read_result
from emobench.llm.transport import ModelEndpoint
from tests.support.model_server import ORDER, Reply, recording

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}


def client(url: str, timeout_s: float = 20) -> LitellmClient:
    endpoint = ModelEndpoint("m", url, "k", provider="hosted_vllm", timeout_s=timeout_s)
    return LitellmClient(endpoint, load_benchmark().module("envs.user").completion)


def test_answers_read_as_any_servers_do() -> None:
    with recording(lambda request: Reply("Hello.", [ORDER], finish_reason="length")) as server:
        seen = read_result(client(server.url).chat(REQUEST), None)
    assert (seen.status, seen.content, seen.calls) == (200, "Hello.", (ORDER,))
    assert (seen.cut, seen.tokens) == ("limit", (3, 2))


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_a_refusal_keeps_its_status_and_its_words(status: int) -> None:
    with recording(lambda request: Reply(status=status, error="your balance")) as server:
        seen = read_result(client(server.url).chat(REQUEST), None)
        assert len(server.requests) == 1, "whether to ask again is the caller's to say"
    assert seen.status == status
    assert "your balance" in seen.error


def test_no_answer_in_time() -> None:
    over = threading.Event()

    def answer(request: dict[str, Any]) -> Reply:
        over.wait(20)
        return Reply("late")

    with recording(answer) as server:
        with pytest.raises(Unreachable, match=r"0\.3 s") as late:
            client(server.url, 0.3).chat(REQUEST)
        over.set()
    assert late.value.timed_out
