"""The probe against the scripted engine, well and with its faults."""

from __future__ import annotations

from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.llm.client import Answer, ChatClient
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe.report import ProbeReport
from emobench.probe.session import probe
from tests.support.scripted import Launch


def asked(url: str, role: Role, env: str = "retail", timeout_s: float = 20) -> ProbeReport:
    target = ModelEndpoint("scripted", f"{url}/v1", None)
    return probe(target, role, env=env, benchmark=load_benchmark(), timeout_s=timeout_s)


@pytest.mark.parametrize("env", ["retail", "airline"])
@pytest.mark.parametrize("role", ["assistant", "user"])
@pytest.mark.parametrize("mistakes", [0.0, 1.0])
def test_it_is_usable(launch: Launch, role: Role, env: str, mistakes: float) -> None:
    """Also one that fails its tasks: the probe asks whether it can work, not how well."""
    report = asked(launch(role=role, mistakes=mistakes).url, role, env)
    assert (report.state, report.verdict) == ("usable", f"usable as {role}")
    assert {check.result for check in report.checks} == {"ok"}
    assert 2 <= len(report.calls) <= 3
    assert all(call.prompt_tokens and call.completion_tokens for call in report.calls)


@pytest.mark.parametrize("env", ["retail", "airline"])
def test_a_server_of_both_roles_tells_them_apart(launch: Launch, env: str) -> None:
    url = launch(role="both").url
    assert [asked(url, role, env).state for role in ("assistant", "user")] == ["usable"] * 2


@pytest.mark.parametrize(
    ("fault", "role", "state", "check", "words"),
    [
        ("bad_tool_json", "assistant", "not_usable", "tool choice auto", "no valid JSON"),
        ("null_content", "assistant", "not_usable", "tool choice auto", "neither text nor"),
        ("think_complete", "assistant", "usable_with_warnings", "reasoning", "takes it out"),
        ("think_closing_only", "assistant", "usable_with_warnings", "reasoning", "takes it out"),
        ("think_unterminated", "assistant", "not_usable", "tool choice auto", "limit of tokens"),
        ("null_content", "user", "not_usable", "reply", "the user says nothing"),
        ("think_complete", "user", "usable_with_warnings", "reasoning", "takes it out"),
        ("think_closing_only", "user", "usable_with_warnings", "reasoning", "takes it out"),
        ("think_unterminated", "user", "not_usable", "reply", "the user says nothing"),
    ],
)
def test_faults(launch: Launch, fault: str, role: Role, state: str, check: str, words: str) -> None:
    report = asked(launch(role=role, faults={fault: 1}).url, role)
    assert report.state == state, report
    (found,) = [c for c in report.checks if c.name == check]
    assert found.result == ("fatal" if state == "not_usable" else "warning")
    assert words in found.meaning
    assert words in report.verdict


def test_a_fault_now_and_then_does_not_condemn(launch: Launch) -> None:
    """Seed 4 strikes some of the calls and not all of them."""
    report = asked(launch(role="assistant", faults={"bad_tool_json": 0.5}, seed=4).url, "assistant")
    (auto,) = [check for check in report.checks if check.name == "tool choice auto"]
    assert auto.result == "warning"
    assert report.state == "usable_with_warnings"


@pytest.mark.parametrize("fault", ["http_500", "disconnect", "hang"])
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_a_server_that_answers_no_chat_call_is_not_reachable(
    launch: Launch, fault: str, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = launch(role=role, faults={fault: 1}).url
    chats: list[dict[str, Any]] = []
    chat = ChatClient.chat

    def counted(client: ChatClient, request: dict[str, Any]) -> Answer:
        chats.append(request)
        return chat(client, request)

    monkeypatch.setattr(ChatClient, "chat", counted)
    report = asked(url, role, timeout_s=5)
    assert report.state == "unreachable"
    assert report.verdict.startswith("not reachable: ")
    assert (len(chats) == 1) == (fault == "hang"), "a call that hung is not waited for again"
