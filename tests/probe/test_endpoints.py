"""What the scripted engine cannot play: servers and models as they were met."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from emobench.benchmarks.adapter import load_benchmark
from emobench.llm.replies import describe_schema_error, holds_call
from emobench.llm.transport import ModelEndpoint, Role
from emobench.probe.report import Check, ProbeReport
from emobench.probe.session import probe
from tests.support.model_server import (
    LOOKUP,
    ORDER,
    Answer,
    ModelServer,
    Reply,
    good,
    is_user,
    results,
)


def asked(
    endpoint: ModelServer,
    role: Role = "assistant",
    model: str = "m",
    key: str | None = None,
    tools: bool = True,
    rate_limit_wait_s: float = 60.0,
    **sampling: Any,
) -> ProbeReport:
    target = ModelEndpoint(
        model, endpoint.url, key, sampling=sampling, rate_limit_wait_s=rate_limit_wait_s
    )
    return probe(target, role, env="retail", benchmark=load_benchmark(), timeout_s=60, tools=tools)


def found(report: ProbeReport, name: str) -> Check:
    (check,) = [check for check in report.checks if check.name == name]
    return check


def assistant(*replies: Reply, required: Reply | None = None) -> Answer:
    """An assistant that gives the same reply, or one after the other."""
    queue = list(replies)

    def answer(request: dict[str, Any]) -> Reply:
        if is_user(request):
            return good(request)
        if required is not None and request.get("tool_choice") == "required":
            return required
        return queue.pop(0) if len(queue) > 1 else queue[0]

    return answer


def test_a_good_model(endpoint: ModelServer) -> None:
    report = asked(endpoint)
    assert report.state == "usable"
    assert found(report, "parallel calls").seen.startswith("2 at once")
    assert found(report, "context").seen == "32,768 tokens"
    assert [request["tool_choice"] for request in endpoint.requests] == ["auto", "auto", "required"]
    first = endpoint.requests[0]
    assert {tool["function"]["name"] for tool in first["tools"]} >= {LOOKUP[0], ORDER[0]}
    assert first["messages"][0]["content"] == load_benchmark().read_wiki("retail")
    assert first["temperature"] == 0.0
    assert ProbeReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_what_a_run_sends_goes_along(endpoint: ModelServer) -> None:
    asked(endpoint, temperature=0.7, max_tokens=99, seed=4)
    sent = endpoint.requests[0]
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0.7, 99, 4)


TEXT_CALL = f'{{"name": "{LOOKUP[0]}", "arguments": {LOOKUP[1]}}}'


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply("Sure! What is your name?"), "never calls a tool by itself"),
        (Reply(f"<tool_call>\n{TEXT_CALL}\n</tool_call>"), "arrive as text"),
        (Reply(f"<think>Let me look.</think><tool_call>{TEXT_CALL}"), "arrive as text"),
        (Reply(TEXT_CALL), "arrive as text"),
        (Reply(f'[{LOOKUP[0]}(first_name="Fatima", zip="78712")]'), "arrive as text"),
        (Reply(f"[TOOL_CALLS]{LOOKUP[0]}"), "arrive as text"),
        (Reply(None, [(LOOKUP[0], '{"first_name": "Fatima"}')]), "never fit the tools"),
        (Reply(None, [(LOOKUP[0], "[]")]), "never fit the tools"),
        (Reply(None, [(LOOKUP[0], LOOKUP[1].replace('"78712"', "78712"))]), "never fit the tools"),
        (Reply(None, [(ORDER[0], '{"order_id": "#W1", "verbose": true}')]), "never fit the tools"),
        (Reply(None, [("find_customer", "{}")]), "tools that do not exist"),
        (Reply(None, [(ORDER[0], '{"order_id": ')]), "no valid JSON"),
        (Reply(""), "neither text nor a tool call"),
        (Reply("<think>I wonder</think>"), "reasons and then"),
        (Reply(status=500, error="list index out of range"), "fails on requests with tools"),
    ],
)
def test_a_model_that_calls_no_tool_well(endpoint: ModelServer, reply: Reply, words: str) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return reply if request.get("tools") else good(request)

    endpoint.answer = answer
    report = asked(endpoint)
    auto = found(report, "tool choice auto")
    assert (report.state, auto.result) == ("not_usable", "fatal")
    assert words in auto.meaning
    assert words in report.verdict
    assert "no better with 'required'" in report.verdict
    assert auto.advice


def test_a_model_that_calls_with_required_only(endpoint: ModelServer) -> None:
    endpoint.answer = assistant(Reply("How can I help?"), required=Reply(None, [LOOKUP]))
    report = asked(endpoint)
    assert report.verdict.startswith(
        "not usable: this model never calls a tool by itself (tool_choice auto): every task would "
        "fail; it does with 'required' (tool choice auto: 3 times of 3;"
    )
    assert found(report, "tool choice required").result == "ok"


def test_required_costs_nothing_where_auto_works(endpoint: ModelServer) -> None:
    endpoint.answer = assistant(Reply(None, [LOOKUP]), required=Reply(None, [(LOOKUP[0], "{}")]))
    report = asked(endpoint)
    assert report.state == "usable_with_warnings"
    assert "--tool-strict-level" in found(report, "tool choice required").advice


def test_one_call_of_three_is_a_warning(endpoint: ModelServer) -> None:
    endpoint.answer = assistant(Reply("Hm."), Reply(None, [LOOKUP]))
    report = asked(endpoint)
    assert report.state == "usable_with_warnings"
    assert found(report, "tool choice auto").seen == '2 of 3 calls were good; otherwise: "Hm."'


def test_a_template_without_tool_results(endpoint: ModelServer) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        refused = Reply(status=400, error="Conversation roles must alternate user/assistant")
        return refused if results(request) else good(request)

    endpoint.answer = answer
    report = asked(endpoint)
    assert report.state == "not_usable"
    assert "after a tool has answered" in report.verdict
    assert "must alternate" in report.verdict


def test_auto_without_its_option_is_refused_at_once(endpoint: ModelServer) -> None:
    error = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    endpoint.answer = assistant(Reply(status=400, error=error))
    report = asked(endpoint)
    assert report.state == "not_usable"
    assert error in found(report, "tool choice auto").seen
    assert "hermes" in found(report, "tool choice auto").advice
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("length", "role", "result"),
    [
        (8191, "assistant", "fatal"),
        (8192, "assistant", "warning"),
        (32767, "assistant", "warning"),
        (32768, "assistant", "ok"),
        (2047, "user", "fatal"),
        (4096, "user", "warning"),
        (8192, "user", "ok"),
        (None, "assistant", "ok"),
    ],
)
def test_context(endpoint: ModelServer, length: int | None, role: Role, result: str) -> None:
    endpoint.models = {"data": [{"id": "m", "max_model_len": length}]}
    report = asked(endpoint, role)
    check = found(report, "context")
    assert check.result == result
    assert ("unknown" in check.seen) == (length is None)
    assert (report.state == "not_usable") == (result == "fatal")
    assert bool(endpoint.requests) == (result != "fatal")


def test_a_context_that_the_policy_does_not_fit(endpoint: ModelServer) -> None:
    endpoint.models = {"data": [{"id": "m"}]}
    error = "This model's maximum context length is 4096 tokens, your request has 4700."
    endpoint.answer = assistant(Reply(status=400, error=error))
    report = asked(endpoint)
    assert "longer than the model's context" in report.verdict


def test_another_model(endpoint: ModelServer) -> None:
    ids = ["Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-32B"]
    endpoint.models = {"data": [{"id": name} for name in ids]}
    report = asked(endpoint, model="Qwen/Qwen3-4B-Instruct")
    check = found(report, "model")
    assert check.result == "fatal"
    assert check.seen == f"it serves: {', '.join(ids)}"
    assert check.advice == f"did you mean '{ids[0]}'?"
    assert "does not serve 'Qwen/Qwen3-4B-Instruct'" in report.verdict
    assert not endpoint.requests


def test_a_refused_key_is_not_shown(endpoint: ModelServer) -> None:
    endpoint.key = "sk-right"
    report = asked(endpoint, key="sk-secret-wrong")
    assert report.state == "not_usable"
    assert found(report, "key").result == "fatal"
    assert "refuses this key" in report.verdict
    assert "sk-secret-wrong" not in json.dumps(report.to_dict())
    assert endpoint.keys == ["sk-secret-wrong"]
    assert asked(endpoint, key="sk-right").state == "usable"


def test_a_server_without_a_list_of_models(endpoint: ModelServer) -> None:
    endpoint.models = None
    report = asked(endpoint)
    assert report.state == "usable_with_warnings"
    assert found(report, "model").result == "skipped"


def test_an_address_without_v1(endpoint: ModelServer) -> None:
    url = endpoint.url.removesuffix("/v1")
    report = probe(
        ModelEndpoint("m", url, None),
        "user",
        env="retail",
        benchmark=load_benchmark(),
        timeout_s=60,
    )
    assert found(report, "address").advice == f"is the address {url}/v1?"


@pytest.mark.parametrize("error", ["max_tokens is not supported with this model", "max_tokens ..."])
def test_a_server_that_refuses_the_probes_limit(endpoint: ModelServer, error: str) -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return Reply(status=400, error=error) if "max_tokens" in request else good(request)

    endpoint.answer = answer
    assert asked(endpoint).state == "usable"
    assert ["max_tokens" in request for request in endpoint.requests] == [True, *[False] * 3]


@pytest.mark.parametrize("role", ["assistant", "user"])
def test_the_probes_own_limit_condemns_nobody(endpoint: ModelServer, role: Role) -> None:
    """A model that thinks for long: a run sets no limit, so it may be well."""

    class Cut(Reply):
        def body(self) -> dict[str, Any]:
            return {**super().body(), "usage": {"completion_tokens": 2048}}

    endpoint.answer = lambda request: Cut("<think>So", finish_reason="length")
    assert asked(endpoint, role).state == "usable_with_warnings"
    assert asked(endpoint, role, max_tokens=2048).state == "not_usable"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("role", ["assistant", "user"])
def test_a_gateways_words_say_nothing_of_the_model(
    endpoint: ModelServer, status: int, role: Role
) -> None:
    endpoint.answer = lambda request: Reply(status=status, error="insufficient_quota")
    report = asked(endpoint, role)
    assert report.state == "unreachable"
    assert f"HTTP {status}: insufficient_quota" in report.verdict


BUSY = Reply(status=429, error="slow down", headers={"retry-after-ms": "20"})


def test_an_endpoint_that_has_had_too_many_requests_is_waited_for(endpoint: ModelServer) -> None:
    replies = iter([BUSY] * 9)
    endpoint.answer = lambda request: next(replies, None) or good(request)
    assert asked(endpoint).state == "usable"
    endpoint.answer = lambda request: BUSY
    report = asked(endpoint, rate_limit_wait_s=0.05)
    assert report.state == "unreachable"
    assert "HTTP 429: slow down" in report.verdict


def test_a_server_that_fails_once_is_asked_again(endpoint: ModelServer) -> None:
    failures = iter([Reply(status=500, error="x"), Reply(status=503, error="x")])
    endpoint.answer = lambda request: next(failures, None) or good(request)
    assert asked(endpoint).state == "usable"


USER_CASES: list[tuple[Callable[[int], Reply], str, str, str]] = [
    (lambda n: Reply("<think>x</think>Hi, I need help."), "reasoning", "warning", "takes it out"),
    (lambda n: Reply("Hm.</think>Hi, I need help."), "reasoning", "warning", "takes it out"),
    (lambda n: Reply("<think>x"), "reply", "fatal", "says nothing"),
    (lambda n: Reply(None), "reply", "fatal", "says nothing"),
    (lambda n: Reply(None, [LOOKUP]), "reply", "fatal", "says nothing"),
    (lambda n: Reply(None if n else "Hi."), "reply", "warning", "some replies"),
    (lambda n: Reply("<tool_call>{}</tool_call> Hi."), "tool markup", "warning", "agent reads"),
    (lambda n: Reply("Hi.", [LOOKUP]), "tool markup", "warning", "agent reads"),
    (lambda n: Reply("###STOP###"), "end of conversation", "fatal", "every conversation"),
    (lambda n: Reply("###STOP###" if n else "Hi."), "end of conversation", "warning", "hardly"),
]


@pytest.mark.parametrize(("reply", "check", "result", "words"), USER_CASES)
def test_users(
    endpoint: ModelServer, reply: Callable[[int], Reply], check: str, result: str, words: str
) -> None:
    endpoint.answer = lambda request: reply(len(endpoint.requests) - 1)
    report = asked(endpoint, "user")
    assert (found(report, check).result, words in found(report, check).meaning) == (result, True)
    assert report.state == ("not_usable" if result == "fatal" else "usable_with_warnings")
    assert len(endpoint.requests) == 2


def test_the_users_prompt_is_the_benchmarks(endpoint: ModelServer) -> None:
    asked(endpoint, "user")
    first, second = endpoint.requests
    assert first["messages"][0]["content"].startswith("You are a user interacting with an agent.")
    assert "Instruction: You are Fatima Johnson" in first["messages"][0]["content"]
    assert "###STOP###" in first["messages"][0]["content"]
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "user"]
    assert "tools" not in first
    assert "temperature" not in first


def test_reasoning_in_a_field_of_its_own_and_nothing_else(endpoint: ModelServer) -> None:
    class Reasoned(Reply):
        def body(self) -> dict[str, Any]:
            body = super().body()
            body["choices"][0]["message"]["reasoning_content"] = "Let me see."
            return body

    endpoint.answer = lambda request: Reasoned(None)
    report = asked(endpoint, "user")
    assert found(report, "reply").seen == "a reasoning field and no text"
    assert "reasons and then" in found(asked(endpoint), "tool choice auto").meaning


def test_agents_that_write_their_actions_as_text(endpoint: ModelServer) -> None:
    report = asked(endpoint, tools=False)
    assert report.state == "usable"
    assert not any("tool" in check.name for check in report.checks)
    assert not any("tools" in request for request in endpoint.requests)


@pytest.mark.parametrize("body", [b"null", b"{}", b'{"choices": []}', b"<html>"])
def test_an_answer_that_is_no_completion(endpoint: ModelServer, body: bytes) -> None:
    class Odd(Reply):
        def body(self) -> Any:
            return json.loads(body) if body[:1] != b"<" else body.decode()

    endpoint.answer = lambda request: Odd()
    report = asked(endpoint)
    assert report.state == "unreachable"
    assert "no chat completion" in report.verdict


@pytest.mark.parametrize("env", ["retail", "airline"])
def test_every_tool_of_the_benchmark_has_a_schema_that_can_be_checked(env: str) -> None:
    import jsonschema

    for tool in load_benchmark().read_tools_info(env):
        schema = tool["function"]["parameters"]
        jsonschema.Draft202012Validator.check_schema(schema)
        lacking = bool(schema.get("required"))
        assert bool(describe_schema_error({}, schema)) == lacking, tool


def test_every_action_of_the_ground_truth_fits_its_schema() -> None:
    benchmark = load_benchmark()
    for env in ("retail", "airline"):
        schemas = {
            tool["function"]["name"]: tool["function"]["parameters"]
            for tool in benchmark.read_tools_info(env)
        }
        actions = [
            a for task in benchmark.load_tasks(env) for a in task.actions if a.name in schemas
        ]
        wrong = {(a.name, describe_schema_error(a.kwargs, schemas[a.name])) for a in actions}
        assert len(actions) > 100
        assert {problem for _, problem in wrong} == {""}, wrong


@pytest.mark.parametrize(
    "text",
    [
        "I will look up your order details now.",
        "Use get_order_details to see more.",
        'You said "name": that is fine.',
        "",
    ],
)
def test_words_about_tools_are_no_calls(text: str) -> None:
    assert not holds_call(text, ["get_order_details"])
