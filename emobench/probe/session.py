"""The probe's calls: a few, in a fixed order, each bounded by a time-out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from emobench.benchmarks.adapter import Benchmark
from emobench.llm import client, transport
from emobench.llm.client import ChatClient, Unreachable
from emobench.llm.replies import Seen, Step, as_step, read, shorten
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe import situations, verdict
from emobench.probe.report import Call, Check, ProbeReport, State
from emobench.probe.situations import Messages

MAX_TOKENS = 2048
"""Of a reply, where the endpoint sets none: a model that babbles must not hold the probe up."""
_ELSEWHERE = (429, 502, 503, 504)
"""Too many requests, or a gateway's words about a server behind it: nothing about the model."""
_LIMIT_REFUSED = re.compile(r"max_(?:completion_)?tokens")


class _Lost(Exception):
    """The endpoint does not answer chat calls at all."""


def can_probe(endpoint: ModelEndpoint) -> bool:
    """Whether the endpoint is an OpenAI-compatible URL that is reached without a proxy."""
    url = endpoint.url
    return endpoint.provider == "openai" and url is not None and not client.needs_proxy(url)


def probe(
    endpoint: ModelEndpoint,
    role: Role,
    *,
    env: str,
    benchmark: Benchmark,
    timeout_s: float,
    tools: bool = True,
) -> ProbeReport:
    """Ask an endpoint what a sweep needs to know of it in this role, in one to seven calls.

    `tools` is False for agents that write their actions as text (react, act). `timeout_s` bounds
    each call. The endpoint's sampling goes along with every request, as in a run. Never raises for
    what the endpoint does: not answering is a report too. `endpoint.url` must not be None.
    """
    session = _Session(endpoint, timeout_s)
    try:
        checks = session.identify(role)
        if not any(check.result == "fatal" for check in checks):
            if role == "assistant" and tools:
                checks += _agent_with_tools(session, benchmark, env)
            else:
                checks += _talk(session, benchmark, env, role)
            checks.append(verdict.judge_speed(session.calls))
    except _Lost as lost:
        state: State = "unreachable"
        checks = [Check("address", "fatal", str(lost), "no model answers here", "is it running?")]
        words = f"not reachable: {lost}"
    else:
        state, words = verdict.judge(checks, role)
    finally:
        session.close()
    return ProbeReport(
        model=endpoint.model,
        url=session.url,
        role=role,
        env=env,
        state=state,
        verdict=words,
        checks=tuple(checks),
        calls=tuple(session.calls),
    )


def _agent_with_tools(session: _Session, benchmark: Benchmark, env: str) -> list[Check]:
    tools = benchmark.tools_info(env)

    def ask(what: str, messages: Messages, choice: str) -> Step:
        return as_step(session.ask(what, messages, tools=tools, tool_choice=choice), tools)

    dialogue = situations.mid_dialogue(benchmark, env)
    steps = [ask("auto", dialogue, "auto")]
    if verdict.is_final(steps[0]):
        return [verdict.judge_auto(steps)]
    if steps[0].kind != "called":
        steps.append(ask("auto, one message", situations.first_message(benchmark, env), "auto"))
    steps.append(ask("auto, two lookups", situations.after_a_result(benchmark, env), "auto"))
    if all(step.kind == "server_error" for step in steps):
        # Is it the tools, or is the server on its way out?
        plain = session.ask("without tools", dialogue)
        if plain.status != 200:
            raise _Lost(f"chat calls fail: HTTP {plain.status}: {shorten(plain.error)}")
        # It may have come back meanwhile.
        steps = [ask("auto", dialogue, "auto"), steps[-1]]
    checks = [verdict.judge_auto(steps)]
    required = ask("required", dialogue, "required")
    if required.kind == "called" or verdict.is_final(required):
        checks.append(verdict.judge_required(required))
    else:
        again = ask("required", situations.first_message(benchmark, env), "required")
        checks.append(verdict.judge_required(again))
    checks += verdict.judge_result(steps[-1])
    forms = [form for step in (*steps, required) for form in step.think]
    return [*checks, verdict.judge_think(forms)]


def _talk(session: _Session, benchmark: Benchmark, env: str, role: Role) -> list[Check]:
    if role == "user":
        turns = situations.user_turns(benchmark, env)
    else:
        dialogue = situations.mid_dialogue(benchmark, env)
        turns = (dialogue[:2], dialogue[:4])
    seens = [session.ask(f"turn {n}", messages) for n, messages in enumerate(turns, 1)]
    for seen in seens:
        if seen.status >= 500:
            raise _Lost(f"chat calls fail: HTTP {seen.status}: {shorten(seen.error)}")
    return verdict.judge_text(seens, role)


class _Session:
    """One client, and the calls that it made."""

    def __init__(self, endpoint: ModelEndpoint, timeout_s: float) -> None:
        assert endpoint.url is not None
        self.url = endpoint.url.rstrip("/")
        self.calls: list[Call] = []
        self._endpoint = endpoint
        self._client = ChatClient(self.url, endpoint.api_key, timeout_s, endpoint.identity)
        self._limited = "max_tokens" not in endpoint.sampling

    def close(self) -> None:
        self._client.close()

    def identify(self, role: Role) -> list[Check]:
        """Address, key, model, context. Raises _Lost."""
        answer = self._insist(lambda: self._client.get("/models"))
        if answer.status >= 500:
            raise _Lost(f"HTTP {answer.status} from {self.url}/models")
        model, data = self._endpoint.model, answer.json()
        error = "" if answer.status == 200 else read(answer, self._endpoint.api_key).error
        checks = verdict.judge_models(answer.status, data, error, model, self.url)
        if all(check.result != "fatal" for check in checks):
            checks.append(verdict.judge_context(data, model, role))
        return checks

    def ask(self, what: str, messages: Messages, **more: Any) -> Seen:
        """One chat call, tried again where the server failed. Raises _Lost."""
        request = {"model": self._endpoint.model, "messages": messages, **more}
        if "tools" in more:
            request["temperature"] = 0.0  # the benchmark's agents always send one
        request |= self._endpoint.sampling
        seen = self._timed(what, request)
        if self._limited and seen.status in (400, 422) and _LIMIT_REFUSED.search(seen.error):
            self._limited = False
            seen = self._timed(what, request)
        return seen

    def _timed(self, what: str, request: dict[str, Any]) -> Seen:
        limit = {"max_tokens": MAX_TOKENS} if self._limited else {}
        started = 0.0

        def send() -> client.Answer:
            nonlocal started
            started = time.monotonic()
            return self._client.chat({**request, **limit})

        answer = self._insist(send)
        took = round(time.monotonic() - started, 4)
        seen = read(answer, self._endpoint.api_key, limit.get("max_tokens"))
        if seen.status in _ELSEWHERE:
            raise _Lost(f"chat calls fail: HTTP {seen.status}: {shorten(seen.error)}")
        if seen.status == 200:
            self.calls.append(Call(what, took, *seen.tokens))
        return seen

    def _insist(self, send: Callable[[], client.Answer]) -> client.Answer:
        """Send again where the server failed; a time-out is not waited for twice."""
        for pause in (*transport.RETRY_AFTER_S, None):
            try:
                answer = send()
                if pause is None or (answer.status < 500 and answer.status != 429):
                    return answer
            except Unreachable as error:
                if pause is None or error.timed_out:
                    raise _Lost(f"{self.url}: {error}") from error
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")
