"""What an HTTP answer is read as: a completion, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emobench.llm.client import Answer
from emobench.llm.replies import (
    ChatResult,
    Completion,
    NoCompletion,
    Step,
    describe_schema_error,
    describe_silence,
    holds_call,
    judge_step,
    quote,
    read_completion,
    read_result,
    read_token_counts,
    shorten,
)

ADDRESS = {"type": "object", "properties": {"zip": {"type": "string"}}}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "address": ADDRESS},
    "required": ["name"],
}
TOOLS = [
    {"type": "function", "function": {"name": "list_all"}},
    {"type": "function", "function": {"name": "find_user", "parameters": SCHEMA}},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "find_user", "arguments": "{}"}}


def answer(**message: Any) -> Answer:
    choice: dict[str, Any] = {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    return Answer(200, json.dumps({"choices": [choice], "usage": usage}).encode())


def body(data: Any) -> Answer:
    return Answer(200, data if isinstance(data, bytes) else json.dumps(data).encode())


def test_a_completion_is_read_whole() -> None:
    read = read_completion(answer(content="Hi.", tool_calls=[CALL], reasoning_content="Hm."))
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    assert read == Completion("Hi.", [CALL], "stop", usage, reasoning=True)
    assert read.tokens == (3, 2)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None}, None),
        ({}, None),
        ({"content": ""}, ""),
        (
            {"content": [{"type": "text", "text": "one "}, {"text": 2}, "x", {"text": "two"}]},
            "one two",
        ),
        ({"content": []}, ""),
    ],
)
def test_the_text_of_a_message(message: dict[str, Any], content: str | None) -> None:
    read = read_completion(answer(**message))
    assert (read.content, read.tool_calls, read.reasoning) == (content, [], False)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_in_a_field_of_its_own(field: str) -> None:
    assert read_completion(answer(content="Hi.", **{field: "Hm."})).reasoning is True
    assert read_completion(answer(content="Hi.", **{field: ""})).reasoning is False


@pytest.mark.parametrize(
    ("sent", "arguments", "name"),
    [
        ({"arguments": '{"a": 1}'}, '{"a": 1}', "c1"),
        ({"arguments": {"a": 1}}, '{"a": 1}', "c1"),
        ({"arguments": "no JSON"}, "no JSON", "c1"),
        ({"arguments": None}, "", "c1"),
        ({}, "", "c1"),
    ],
)
def test_a_tool_calls_arguments_are_text(sent: dict[str, Any], arguments: str, name: str) -> None:
    call = {**CALL, "function": {"name": "find_user", **sent}}
    (read,) = read_completion(answer(tool_calls=[call])).tool_calls
    assert read["function"] == {"name": "find_user", "arguments": arguments}
    assert (read["id"], read["type"]) == (name, "function")


def test_tool_calls_without_an_id_are_numbered() -> None:
    calls = [{"function": CALL["function"]}, {**CALL, "id": 5}, CALL]
    read = read_completion(answer(tool_calls=calls)).tool_calls
    assert [call["id"] for call in read] == ["call_0", "call_1", "c1"]
    assert all(call["function"] == CALL["function"] for call in read)


GOOD = {"message": {"content": "Hi."}}


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        [],
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": {"content": {"text": "Hi."}}}]},
        {"choices": [GOOD], "error": {"message": "upstream died"}},
        {"choices": [{**GOOD, "error": "upstream died"}]},
        {"choices": [{"message": {"tool_calls": 5}}]},
        {"choices": [{"message": {"tool_calls": [5]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": None}]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": 5}}]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": 5}}]}}]},
    ],
    ids=str,
)
def test_an_answer_that_is_no_completion(data: Any) -> None:
    with pytest.raises(NoCompletion, match="an answer that is no chat") as refused:
        read_completion(body(data))
    said = body(data).body.decode()
    assert str(refused.value).endswith(said)
    result = read_result(body(data), None)
    assert (result.status, result.error) == (500, str(refused.value))


def test_what_is_said_of_no_completion_is_short_and_readable() -> None:
    with pytest.raises(NoCompletion) as refused:
        read_completion(body(b"\xff" + b"x" * 300))
    text = "\ufffd" + "x" * 196 + "..."
    assert str(refused.value) == f"an answer that is no chat completion: {text}"


@pytest.mark.parametrize(
    ("more", "reason", "usage"),
    [
        ({}, None, {}),
        ({"finish_reason": 5}, None, {}),
        ({"finish_reason": "length"}, "length", {}),
        ({"usage": "much"}, None, {}),
        ({"usage": {"prompt_tokens": "3"}}, None, {"prompt_tokens": "3"}),
    ],
)
def test_odd_fields_count_as_absent(more: dict[str, Any], reason: str | None, usage: Any) -> None:
    choice = {**GOOD, **{key: more[key] for key in more if key == "finish_reason"}}
    outer = {key: more[key] for key in more if key == "usage"}
    read = read_completion(body({"choices": [choice], **outer}))
    assert (read.finish_reason, read.usage, read.tokens) == (reason, usage, (None, None))


def test_tokens_that_are_no_numbers_are_not_counted() -> None:
    assert read_token_counts({"prompt_tokens": 3, "completion_tokens": "2"}) == (3, None)
    assert read_token_counts({"prompt_tokens": None, "completion_tokens": 2}) == (None, 2)
    assert read_token_counts({"prompt_tokens": -3, "completion_tokens": True}) == (None, None)
    assert read_token_counts({"prompt_tokens": 3.0, "completion_tokens": 0}) == (None, 0)


@pytest.mark.parametrize("content", [["Hi."], [None]])
def test_a_list_of_anything_but_parts_is_no_content(content: Any) -> None:
    """It would be read as an empty message."""
    with pytest.raises(NoCompletion):
        read_completion(answer(content=content))


@pytest.mark.parametrize(
    ("reason", "used", "limit", "cut"),
    [
        ("stop", 9, 5, ""),
        ("length", 9, None, "limit"),
        ("length", 4, 5, "limit"),  # the server's own limit came first
        ("length", 5, 5, "probe"),
        ("length", None, 5, "probe"),
    ],
)
def test_what_cut_a_reply(reason: str, used: int | None, limit: int | None, cut: str) -> None:
    choice = {"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": used}
    read = read_result(body({"choices": [choice], "usage": usage}), limit)
    assert (read.status, read.error, read.content, read.cut) == (200, "", "", cut)
    assert read.calls == (("find_user", "{}"),)
    assert read.tokens == (3, used)
    assert read.reasoning is False


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (401, "", "key"),
        (403, "", "key"),
        (402, "", "refused"),
        (404, "", "no_model"),
        (405, "", "refused"),
        (400, "maximum context length is 8192", "context"),
        (500, "maximum context length is 8192", "server_error"),
        (400, "", "refused"),
        (429, "", "server_error"),
        (430, "", "refused"),
        (499, "", "refused"),
        (500, "", "server_error"),
        (503, "", "server_error"),
    ],
)
def test_a_status_that_is_no_reply(status: int, words: str, kind: str) -> None:
    assert judge_step(ChatResult(status, words), TOOLS) == Step(kind, f"HTTP {status}: {words}")  # type: ignore[arg-type]


def test_long_words_of_a_server_are_cut() -> None:
    assert judge_step(ChatResult(500, "x" * 300), []).seen == "HTTP 500: " + "x" * 197 + "..."


def called(name: str, arguments: str, **more: Any) -> Step:
    return judge_step(ChatResult(200, calls=((name, arguments),), **more), TOOLS)


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "why"),
    [
        ("find_user", '{"name": "A"}', "called", ""),
        ("find_user", '{"name": "A", "address": {"zip": "1"}}', "called", ""),
        ("list_all", "{}", "called", ""),
        ("list_all", '{"name": "A"}', "bad_schema", ": no such argument: name"),
        ("fly", "{}", "unknown_tool", ""),
        ("find_user", '{"name"', "bad_json", ""),
        ("find_user", "[]", "bad_schema", ": the arguments are list, not an object"),
        ("find_user", "{}", "bad_schema", ": 'name' is a required property"),
        ("find_user", '{"name": 5}', "bad_schema", ": name: 5 is not of type 'string'"),
        (
            *("find_user", '{"name": "A", "address": {"zip": 5}}'),
            *("bad_schema", ": address.zip: 5 is not of type 'string'"),
        ),
    ],
)
def test_a_call_is_held_against_its_tools_schema(
    name: str, arguments: str, kind: str, why: str
) -> None:
    step = called(name, arguments)
    assert (step.kind, step.seen) == (kind, f"{name}({arguments}){why}")
    assert (step.calls, step.think) == (1, ())


def test_a_call_that_was_cut_says_so() -> None:
    seen = 'find_user({"name") (cut by the limit of tokens)'
    assert called("find_user", '{"name"', cut="limit").seen == seen
    assert called("find_user", '{"name": "A"}', cut="limit").kind == "called"


def test_the_first_of_several_calls_is_judged() -> None:
    calls = (("fly", "{}"), ("list_all", "{}"))
    step = judge_step(ChatResult(200, content="<think>x</think>Hi.", calls=calls), TOOLS)
    assert step == Step("unknown_tool", "fly({})", 2, ("complete",))


def test_arguments_that_a_tool_does_not_have_are_named_shortly() -> None:
    values = {"name": "A", "p": 1, "q" * 200: 1, "r": 1, "s": 1}
    long = "q" * 137 + "..."
    assert describe_schema_error(values, SCHEMA) == f"no such argument: p, {long}, r"
    told = describe_schema_error({"name": list(range(100))}, SCHEMA)
    assert told.startswith("name: [0, 1, ") and len(told) == 140 and told.endswith("...")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (ChatResult(200, content=" Hi. "), Step("text", '"Hi."')),
        (ChatResult(200), Step("empty", "neither text nor a tool call")),
        (ChatResult(200, content=" \n"), Step("empty", "neither text nor a tool call")),
        (
            ChatResult(200, cut="limit"),
            Step("cut", "neither text nor a tool call, cut by the limit of tokens"),
        ),
        (
            ChatResult(200, cut="probe"),
            Step("long", "neither text nor a tool call, cut by the limit of tokens"),
        ),
        (
            ChatResult(200, reasoning=True),
            Step("only_reasoning", "a reasoning field and no text"),
        ),
        (
            ChatResult(200, reasoning=True, cut="limit"),
            Step("cut", "a reasoning field and no text, cut by the limit of tokens"),
        ),
        (
            ChatResult(200, content="<think>Hm.</think>"),
            Step("only_reasoning", 'reasoning only: "<think>Hm.</think>"', 0, ("complete",)),
        ),
        (
            ChatResult(200, content="<think>Hm.", cut="probe"),
            Step(
                "long",
                'reasoning only, cut by the limit of tokens: "<think>Hm."',
                0,
                ("unterminated",),
            ),
        ),
        (ChatResult(200, content="Hi.", cut="limit"), Step("text", '"Hi."')),
        (
            ChatResult(200, content="<think>Hm.</think>Hi."),
            Step("text", '"Hi."', 0, ("complete",)),
        ),
        (
            ChatResult(200, content='find_user(name="A")'),
            Step("call_as_text", '"find_user(name="A")"'),
        ),
        # What stands in the reasoning is not said.
        (
            ChatResult(200, content='<think>find_user(name="A")</think>Hi.'),
            Step("text", '"Hi."', 0, ("complete",)),
        ),
    ],
    ids=str,
)
def test_a_reply_without_a_call(result: ChatResult, expected: Step) -> None:
    assert judge_step(result, TOOLS) == expected


def test_text_that_was_cut_within_reasoning_says_nothing_yet() -> None:
    seen = describe_silence(ChatResult(200, content="Hi. <think>Hm.", cut="limit"))
    assert seen == ("cut", "neither text nor a tool call, cut by the limit of tokens")
    assert describe_silence(ChatResult(200, content="Hi. <think>Hm.")) is None


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("<tool_call>", True),
        ("find_user(name='A')", True),
        ("find_user ( { ", True),
        ("find_user()", False),
        ("I call find_user now", False),
        ("pre_find_user(name=1)", False),
        ('{"name": "find_user", "arguments": {}}', True),
        ('{"input": {}, "tool" : "find_user"}', True),
        ('{"name": "find_user"}', False),
        ('{"arguments": {}}', False),
        ('{"name": "other", "arguments": {}}', False),
    ],
)
def test_a_call_that_stands_in_the_text(text: str, holds: bool) -> None:
    assert holds_call(text, ["list_all", "find_user"]) is holds
    assert holds_call("a.b(x=1)", ["a+b", "a.b"]) is True
    assert holds_call("aXb(x=1)", ["a.b"]) is False


def test_words_are_shown_on_one_line_and_no_longer_than_that() -> None:
    assert shorten(" a\n\tb\x1b[0m  c ") == "a b [0m c"
    assert shorten("x" * 140) == "x" * 140
    assert shorten("x" * 141) == "x" * 137 + "..."
    assert shorten("xxxxx", 4) == "x..."
    assert quote("a\nb") == '"a b"'
