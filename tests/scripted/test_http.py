from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.scripted.protocol import RequestRefused, parse_request
from emobench.scripted.server import ScriptedServer, ServerSettings
from tests.support.scripted import Launch
from tests.support.tau_loop import PROMPT

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}


def test_open_routes_and_models(launch: Launch) -> None:
    client = launch(model="other")
    assert client.request("/health").status == 200
    assert client.request("/v1/models").json["data"][0]["id"] == "scripted"
    for path in ("/", "/v1/completions", "/v1/chat/completions"):
        answer = client.request(path)
        assert answer.status == 404
        assert answer.json["error"]["type"] == "NotFoundError"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/%761/models", "//v1/models"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "secret", "Bearer secret2", "Bearer é"])
def test_the_key_is_needed(launch: Launch, path: str, header: str | None) -> None:
    client = launch(api_key="secret")
    connection = http.client.HTTPConnection(urlsplit(client.url).netloc, timeout=240)
    connection.request("GET", path, headers={} if header is None else {"Authorization": header})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 401
    assert json.loads(body)["error"]["message"]


def test_the_key_opens_and_health_stays_open(launch: Launch) -> None:
    client = launch(api_key="secret")
    assert client.request("/v1/models").status == 200
    assert client.chat(HELLO).status == 200
    assert type(client)(client.url).request("/health").status == 200
    assert type(client)(client.url).request("/metrics").status == 200
    assert type(client)(client.url).chat(HELLO).status == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[" * 100_000, 400),
        (b"[]", 400),
        (b"\xff", 400),
        (b'{"model": "scripted"}', 400),
        (b'{"messages": []}', 400),
        (b'{"messages": "x"}', 400),
        (b'{"messages": [1]}', 400),
        (b'{"messages": [{"content": "x"}]}', 400),
        (b'{"messages": [{"role": "user", "content": 1}]}', 400),
        (b'{"messages": [{"role": "user", "content": ["x"]}]}', 400),
        (b'{"messages": [{"role": "user"}], "model": "gpt"}', 404),
        (b'{"messages": [{"role": "user"}], "tools": [{}]}', 400),
        (b'{"messages": [{"role": "user"}], "tool_choice": "auto"}', 400),
        (b'{"messages": [{"role": "user"}], "tool_choice": {"function": 1}}', 400),
        (b'{"messages": [{"role": "user"}], "seed": "1"}', 400),
        (b'{"messages": [{"role": "user"}], "max_tokens": 0}', 400),
        (b'{"messages": [{"role": "user"}], "stream": 1}', 400),
    ],
)
def test_bad_requests(launch: Launch, body: bytes, status: int) -> None:
    answer = launch().request("/v1/chat/completions", body)
    assert answer.status == status
    error = answer.json["error"]
    assert error["code"] == status
    assert error["message"]


def test_roles(launch: Launch) -> None:
    prompt = PROMPT.format(instruction="You are Bo. You want a lamp.")
    user = [{"role": "system", "content": prompt}, {"role": "user", "content": "Hi!"}]
    for role in ("both", "user"):
        assert launch(role=role).chat(user).message["content"] == "Hi! I want a lamp."
    assert launch(role="assistant").chat(user).message["content"].startswith("I understand.")
    assert launch(role="user").chat(HELLO).message["content"].startswith("Hello!")


def test_equal_requests_have_equal_answers(launch: Launch) -> None:
    first, second = launch(seed=1), launch(seed=1)
    weather = [{"role": "user", "content": "The weather?"}]
    bodies = [first.chat(weather, tools=[TOOL]).body for _ in range(2)]
    second.chat(HELLO)
    bodies.append(second.chat(weather, tools=[TOOL]).body)
    assert len(set(bodies)) == 1
    assert b"call_" in bodies[0]


def test_usage_and_metrics(launch: Launch) -> None:
    client = launch()
    usage = client.chat(HELLO).json["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    client.chat([])
    text = client.request("/metrics").body.decode()
    assert 'vllm:num_requests_running{model_name="scripted"} 0' in text
    assert f'vllm:prompt_tokens_total{{model_name="scripted"}} {usage["prompt_tokens"]}' in text
    assert 'vllm:request_success_total{model_name="scripted",finished_reason="stop"} 1' in text
    assert 'http_requests_total{model_name="scripted",status="400"} 1' in text


def test_streaming_adds_up_to_the_same_reply(launch: Launch) -> None:
    client = launch()
    cases: list[tuple[Any, dict[str, Any]]] = [
        (HELLO, {}),
        ([{"role": "user", "content": "weather"}], {"tools": [TOOL]}),
    ]
    for messages, more in cases:
        whole = client.chat(messages, **more).json["choices"][0]
        answer = client.chat(messages, stream=True, stream_options={"include_usage": True}, **more)
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        lines = [line for line in answer.body.decode().split("\n\n") if line]
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert chunks[-1]["usage"]["completion_tokens"] > 0
        parts = [chunk["choices"][0] for chunk in chunks[:-1]]
        text = "".join(part["delta"].get("content", "") for part in parts)
        assert text == (whole["message"]["content"] or "")
        calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
        for call in calls:
            assert call.pop("index") == 0
        assert calls == whole["message"].get("tool_calls", [])
        assert parts[-1]["finish_reason"] == whole["finish_reason"]


TEXT = st.one_of(
    st.text(alphabet=st.characters(), max_size=60),
    st.sampled_from(
        [
            "You are a user interacting with an agent.\n\nInstruction: You are Bo.\n\nRules:",
            "You are a supervisor of the Agent in the conversation.",
            "# Retail agent policy\nThought:\n<x>\nAction:\n{",
            "API output: x",
            "To be open with you, I am in a \ud800 state of mind.",
        ]
    ),
)
CONTENT = st.one_of(TEXT, st.none(), st.lists(st.dictionaries(st.just("text"), TEXT), max_size=2))
ROLE = st.one_of(st.sampled_from(["system", "user", "assistant", "tool", "developer"]), TEXT)
MESSAGE = st.fixed_dictionaries({"role": ROLE, "content": CONTENT})
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAME = st.sampled_from(["get_order_details", "book_reservation", "think", "Bo", ""])
FUNCTION = st.fixed_dictionaries({"name": NAME}, optional={"parameters": JUNK})
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE | JUNK, max_size=6) | st.lists(MESSAGE, min_size=1, max_size=6)},
    optional={
        "tools": st.lists(st.fixed_dictionaries({"function": FUNCTION}), max_size=3) | JUNK,
        "tool_choice": st.sampled_from(["auto", "required", "none"])
        | st.fixed_dictionaries({"function": FUNCTION})
        | JUNK,
        "seed": st.integers() | JUNK,
        "stream": JUNK,
        "n": st.integers(0, 3) | JUNK,
    },
)


@settings(max_examples=600)
@given(request=REQUEST)
def test_no_request_breaks_the_server(request: dict[str, Any]) -> None:
    """What HTTP would turn into a 500 is raised here; refusals are the only way out."""
    body = json.dumps(request).encode()
    try:
        parsed = parse_request(body, "scripted")
    except RequestRefused as error:
        assert error.status in (400, 404)
        return
    reply = SERVER.reply(parsed)
    assert reply.content is not None or reply.tool_calls
    for call in reply.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)


SERVER = ScriptedServer(ServerSettings())


def test_random_messages_over_http(launch: Launch) -> None:
    client = launch()

    @settings(max_examples=60)
    @given(messages=st.lists(MESSAGE, min_size=1, max_size=5))
    def check(messages: list[dict[str, Any]]) -> None:
        assert client.chat(messages).status == 200

    check()
