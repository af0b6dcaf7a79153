"""The probe's calls: a few, in a fixed order, each bounded by a time-out.

They are moments of a customer-service conversation in which there is one sensible thing to do. The
policy, the tools and the user's rules come from the installed benchmark, as in a run; what is said
was written for the probe, about people and orders that the benchmark knows.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from emobench.benchmarks.adapter import Benchmark
from emobench.core.stop_signals import Stopped
from emobench.llm import transport
from emobench.llm.client import Answer, ChatClient, Unreachable
from emobench.llm.endpoint_limits import Effort, EndpointLimits
from emobench.llm.litellm_client import LitellmClient
from emobench.llm.replies import ChatResult, Step, judge_step, read_result, shorten
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe import report
from emobench.probe.report import Call, Check, ProbeReport, State

MAX_TOKENS = 2048
"""Of a reply, where the endpoint sets none: a model that babbles must not hold the probe up."""
_ELSEWHERE = (429, 502, 503, 504)
"""Too many requests, or a gateway's words about a server behind it: nothing about the model."""
_LIMIT_REFUSED = re.compile(r"max_(?:completion_)?tokens")


class _Lost(Exception):
    """The endpoint does not answer chat calls at all."""


def probe(
    endpoint: ModelEndpoint,
    role: Role,
    *,
    env: str,
    benchmark: Benchmark,
    timeout_s: float,
    tools: bool = True,
    limits: EndpointLimits | None = None,
) -> ProbeReport:
    """Ask an endpoint what a sweep needs to know of it in this role, in one to seven calls.

    `tools` is False for agents that write their actions as text (react, act). `timeout_s` bounds
    each call; `limits` are shared with whoever else asks the endpoint. The endpoint's sampling goes
    along with every request, as in a run. Never raises for what the endpoint does: not answering is
    a report too.
    """
    session = _Session(endpoint, timeout_s, benchmark, limits or EndpointLimits())
    try:
        checks = session.identify(role)
        if not any(check.result == "fatal" for check in checks):
            if role == "assistant" and tools:
                checks += _probe_agent_with_tools(session, benchmark, env)
            else:
                checks += _probe_talk(session, benchmark, env, role)
            checks.append(report.judge_speed(session.calls))
    except _Lost as lost:
        state: State = "unreachable"
        checks = [Check("address", "fatal", str(lost), "no model answers here", "is it running?")]
        words = f"not reachable: {lost}"
    else:
        state, words = report.judge(checks, role)
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


def _probe_agent_with_tools(session: _Session, benchmark: Benchmark, env: str) -> list[Check]:
    tools = benchmark.read_tools_info(env)

    def ask(what: str, messages: Messages, choice: str) -> Step:
        return judge_step(session.ask(what, messages, tools=tools, tool_choice=choice), tools)

    dialogue = build_mid_dialogue(benchmark, env)
    steps = [ask("auto", dialogue, "auto")]
    if report.is_final(steps[0]):
        return [report.judge_auto(steps)]
    if steps[0].kind != "called":
        steps.append(ask("auto, one message", build_first_message(benchmark, env), "auto"))
    steps.append(ask("auto, two lookups", build_after_result(benchmark, env), "auto"))
    if all(step.kind == "server_error" for step in steps):
        # Is it the tools, or is the server on its way out?
        plain = session.ask("without tools", dialogue)
        if plain.status != 200:
            raise _Lost(f"chat calls fail: HTTP {plain.status}: {shorten(plain.error)}")
        # It may have come back meanwhile.
        steps = [ask("auto", dialogue, "auto"), steps[-1]]
    checks = [report.judge_auto(steps)]
    required = ask("required", dialogue, "required")
    if required.kind == "called" or report.is_final(required):
        checks.append(report.judge_required(required))
    else:
        again = ask("required", build_first_message(benchmark, env), "required")
        checks.append(report.judge_required(again))
    checks += report.judge_result(steps[-1])
    forms = [form for step in (*steps, required) for form in step.think]
    return [*checks, report.judge_think(forms)]


def _probe_talk(session: _Session, benchmark: Benchmark, env: str, role: Role) -> list[Check]:
    if role == "user":
        turns = build_user_turns(benchmark, env)
    else:
        dialogue = build_mid_dialogue(benchmark, env)
        turns = (dialogue[:2], dialogue[:4])
    seens = [session.ask(f"turn {n}", messages) for n, messages in enumerate(turns, 1)]
    for seen in seens:
        if seen.status >= 500:
            raise _Lost(f"chat calls fail: HTTP {seen.status}: {shorten(seen.error)}")
    return report.judge_text(seens, role)


class _Session:
    """One client, and the calls that it made."""

    def __init__(
        self,
        endpoint: ModelEndpoint,
        timeout_s: float,
        benchmark: Benchmark,
        limits: EndpointLimits,
    ) -> None:
        self.url = (endpoint.url or "").rstrip("/")
        self.calls: list[Call] = []
        self._endpoint = endpoint
        self._limit = limits.find(endpoint)
        self._where = self.url or endpoint.provider
        self._client: ChatClient | LitellmClient
        if endpoint.direct:
            self._client = ChatClient(self.url, endpoint.api_key, timeout_s, endpoint.identity)
        else:
            bounded = replace(endpoint, timeout_s=timeout_s)
            self._client = LitellmClient(bounded, benchmark.import_module("envs.user").completion)
        self._limited = "max_tokens" not in endpoint.sampling

    def close(self) -> None:
        self._client.close()

    def identify(self, role: Role) -> list[Check]:
        """Check address, key, model and context. Raises _Lost."""
        client = self._client
        if isinstance(client, LitellmClient):
            place = f"{self._where}, through litellm"
            listed = "litellm does not ask a provider for its models"
            return [Check("address", "ok", place), Check("model", "skipped", listed)]
        answer = self._insist(lambda: client.get("/models"))
        if answer.status >= 500:
            raise _Lost(f"HTTP {answer.status} from {self.url}/models")
        model, data = self._endpoint.model, answer.json()
        error = "" if answer.status == 200 else read_result(answer).error
        checks = report.judge_models(answer.status, data, error, model, self.url)
        if all(check.result != "fatal" for check in checks):
            checks.append(report.judge_context(data, model, role))
        return checks

    def ask(self, what: str, messages: Messages, **more: Any) -> ChatResult:
        """Send one chat call, again where the server failed. Raises _Lost."""
        request = {"model": self._endpoint.model, "messages": messages, **more}
        if "tools" in more:
            request["temperature"] = 0.0  # the benchmark's agents always send one
        request |= self._endpoint.sampling
        seen = self._send_timed(what, request)
        if self._limited and seen.status in (400, 422) and _LIMIT_REFUSED.search(seen.error):
            self._limited = False
            seen = self._send_timed(what, request)
        return seen

    def _send_timed(self, what: str, request: dict[str, Any]) -> ChatResult:
        limit = {"max_tokens": MAX_TOKENS} if self._limited else {}
        started = 0.0

        def send() -> Answer:
            nonlocal started
            started = time.monotonic()
            return self._client.chat({**request, **limit})

        answer = self._insist(send)
        took = round(time.monotonic() - started, 4)
        seen = read_result(answer, limit.get("max_tokens"))
        if seen.status in _ELSEWHERE:
            raise _Lost(f"chat calls fail: HTTP {seen.status}: {shorten(seen.error)}")
        if seen.status == 200:
            self.calls.append(Call(what, took, *seen.tokens))
        return seen

    def _insist(self, send: Callable[[], Answer]) -> Answer:
        """Send again where the server failed, and wait while it is busy; a time-out is not waited
        for twice."""
        pauses, effort = list(transport.RETRY_AFTER_S), Effort()
        budget_s = self._endpoint.rate_limit_wait_s
        try:
            while True:
                if budget_s and not self._limit.wait_for_turn(effort, budget_s):
                    raise _Lost(self._limit.words)
                try:
                    answer = send()
                    if answer.busy is not None and budget_s:
                        words = f"HTTP {answer.status}: {shorten(answer.describe_error())}"
                        if self._limit.wait_after(answer.busy, words, effort, budget_s):
                            continue
                        return answer
                    if not pauses or (answer.status < 500 and answer.status != 429):
                        return answer
                except Unreachable as error:
                    if not pauses or error.timed_out:
                        raise _Lost(f"{self._where}: {error}") from error
                time.sleep(pauses.pop(0))
        except Stopped:
            raise _Lost("stopped while it waited for a rate limit") from None


Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class _Scene:
    """The words of one environment."""

    dialogue: tuple[str, ...]
    """User and assistant in turn; whoever the user is has been told, so a lookup is next."""
    opening: str
    """A single message that asks for a lookup."""
    two_lookups: str
    """Instead of the dialogue's end: wants two lookups that do not need each other."""
    known: tuple[str, dict[str, str], str]
    """The call that made the user known, and its result."""
    instruction: str
    """To the simulated user."""
    question: str
    """The agent's second question to it."""


_SCENES = {
    "retail": _Scene(
        dialogue=(
            "Hi! I want to change order #W8665881 to be delivered to Suite 641 instead.",
            "I can help with that. Could you tell me your name and zip code, so that I find your "
            "profile?",
            "I am Fatima Johnson in 78712.",
            "Thank you. Is there anything else that I should know before I look you up?",
            "No, that is all. Please look me up now.",
        ),
        opening="Hello, my name is Fatima Johnson and my zip code is 78712. Has my order "
        "#W8665881 been shipped yet?",
        two_lookups="No, but please look up two of my orders as well, and tell me the status of "
        "both: #W8665881 and #W9389413.",
        known=(
            "find_user_id_by_name_zip",
            {"first_name": "Fatima", "last_name": "Johnson", "zip": "78712"},
            "fatima_johnson_7581",
        ),
        instruction="You are Fatima Johnson in 78712. You want to change order #W8665881 to be "
        "delivered to Suite 641 instead.",
        question="I can help with that. Could you tell me your name and zip code?",
    ),
    "airline": _Scene(
        dialogue=(
            "Hi! I want to change my upcoming one-stop flight from LAS to IAH to a nonstop flight. "
            "My reservation ID is 1N99U6.",
            "I can help with that. Could you tell me your user id?",
            "My user id is james_taylor_7043.",
            "Thank you. Is there anything else that I should know before I look it up?",
            "I also want to remove my checked bag. Please look up my reservation now.",
        ),
        opening="Hello, my user id is james_taylor_7043. How many bags does my reservation 1N99U6 "
        "include?",
        two_lookups="I also want to remove my checked bag. Please look up two of my reservations "
        "and tell me the cabin of both: 1N99U6 and 2DQPLK.",
        known=(
            "get_user_details",
            {"user_id": "james_taylor_7043"},
            '{"name": {"first_name": "James", "last_name": "Taylor"}, "membership": "regular", '
            '"reservations": ["1N99U6", "2DQPLK"]}',
        ),
        instruction="Your user id is james_taylor_7043. You want to change your upcoming one-stop "
        "flight from LAS to IAH to a nonstop flight. Your reservation ID is 1N99U6.",
        question="I can help with that. Could you tell me your user id?",
    ),
}
GREETING = "Hi! How can I help you today?"


def build_mid_dialogue(benchmark: Benchmark, env: str) -> Messages:
    """Return a conversation in which the user has said who they are and wants to be looked up."""
    messages: Messages = [{"role": "system", "content": benchmark.read_wiki(env)}]
    for number, text in enumerate(_SCENES[env].dialogue):
        messages.append({"role": ("user", "assistant")[number % 2], "content": text})
    return messages


def build_first_message(benchmark: Benchmark, env: str) -> Messages:
    """Return one message with all that a lookup needs."""
    return [
        {"role": "system", "content": benchmark.read_wiki(env)},
        {"role": "user", "content": _SCENES[env].opening},
    ]


def build_after_result(benchmark: Benchmark, env: str) -> Messages:
    """Return a conversation in which a tool has answered; two independent lookups are next."""
    scene = _SCENES[env]
    name, arguments, result = scene.known
    call = {
        "id": "call_0123456789ab",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    return [
        *build_mid_dialogue(benchmark, env)[:-1],
        {"role": "user", "content": scene.two_lookups},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": name, "content": result},
    ]


def build_user_turns(benchmark: Benchmark, env: str) -> tuple[Messages, Messages]:
    """Return what a user simulator is sent for its first and for its second turn."""
    scene = _SCENES[env]
    stock = benchmark.find_user_class("llm")
    # The method alone: the constructor holds a conversation.
    user: Any = object.__new__(stock)
    user.trait_dict = None
    prompt = str(user.build_system_prompt(scene.instruction))
    first: Messages = [
        {"role": "system", "content": prompt},
        {"role": "user", "content": GREETING},
    ]
    second = [
        *first,
        {"role": "assistant", "content": scene.dialogue[0]},
        {"role": "user", "content": scene.question},
    ]
    return first, second
