"""Providers behind litellm, asked as an OpenAI-compatible URL is asked."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.llm.client import Unreachable
from emobench.llm.litellm_client import LitellmClient
from emobench.llm.rate_limits import Busy
from emobench.llm.replies import read_result
from emobench.llm.transport import CallFailed, LitellmTransport, ModelEndpoint
from tests.support.model_server import ORDER, Reply, recording

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}


def client(url: str, timeout_s: float = 20) -> LitellmClient:
    endpoint = ModelEndpoint("m", url, "k", provider="hosted_vllm", timeout_s=timeout_s)
    return LitellmClient(endpoint, load_benchmark().import_module("envs.user").completion)


def test_answers_read_as_any_servers_do() -> None:
    with recording(lambda request: Reply("Hello.", [ORDER], finish_reason="length")) as server:
        seen = read_result(client(server.url).chat(REQUEST))
    assert (seen.status, seen.content, seen.calls) == (200, "Hello.", (ORDER,))
    assert (seen.cut, seen.tokens) == ("limit", (3, 2))


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_a_refusal_keeps_its_status_and_its_words(status: int) -> None:
    with recording(lambda request: Reply(status=status, error="your balance")) as server:
        seen = read_result(client(server.url).chat(REQUEST))
        assert len(server.requests) == 1, "whether to ask again is the caller's to say"
    assert seen.status == status
    assert "your balance" in seen.error


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "Your credit balance is too low", "infra"),
        (400, "model not found", "infra"),
        (422, "Unknown parameter", "infra"),
        (401, "no such key", "infra"),
        (500, "unknown tool 'fly'", "infra"),
        (400, "This model's maximum context length is 8192 tokens", "context_overflow"),
        (400, "prompt is too long: 9000 tokens > 8192 maximum", "context_overflow"),
        (400, "tool call validation failed: attempted to call tool 'fly'", "rejected"),
        (400, "content_policy_violation", "rejected"),
    ],
)
def test_whose_matter_a_refusal_is(
    status: int, words: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emobench.llm.transport.RETRY_AFTER_S", ())
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    with recording(lambda request: Reply(status=status, error=words)) as server:
        endpoint = ModelEndpoint("m", server.url, "sk-key", provider="hosted_vllm")
        stock = load_benchmark().import_module("envs.user").completion
        with pytest.raises(CallFailed, match=re.escape(words[:20])) as failed:
            LitellmTransport(endpoint, stock).send("assistant", {**REQUEST, "tools": tools})
    assert failed.value.kind == kind


def test_a_provider_that_litellm_does_not_know_is_no_agents_mistake() -> None:
    """As a plan of an earlier version may name one."""
    endpoint = ModelEndpoint("m", None, "k", provider="antropic")
    stock = load_benchmark().import_module("envs.user").completion
    with pytest.raises(CallFailed) as failed:
        LitellmTransport(endpoint, stock).send("assistant", dict(REQUEST))
    assert failed.value.kind == "infra"


@pytest.mark.parametrize("provider", ["openai", "anthropic", "groq", "gemini", "openrouter"])
@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_busy_provider_says_for_how_long(provider: str, status: int) -> None:
    """litellm makes errors of its own of these answers, some with another status."""
    reply = Reply(status=status, error="slow down", headers={"Retry-After": "7"})
    with recording(lambda request: reply) as server:
        endpoint = ModelEndpoint("m", server.url, "sk-key", provider=provider)
        stock = load_benchmark().import_module("envs.user").completion
        with pytest.raises(CallFailed) as failed:
            LitellmTransport(endpoint, stock).send_once("assistant", REQUEST, is_last=True)
    assert failed.value.busy == Busy(7)


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
