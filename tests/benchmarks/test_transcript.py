"""A transcript as messages and tool calls, in every form that agents and accidents give it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from emobench.analysis.transcript.fault import PARTIES
from emobench.analysis.transcript.patterns import (
    apologises,
    extract_features,
    refuses,
    split_user_words,
)
from emobench.analysis.transcript.tally import summarise
from emobench.benchmarks.tasks import find_task
from emobench.benchmarks.transcript import (
    Message,
    OtherMessage,
    ToolCall,
    parse_transcript,
    remove_stop,
)
from tests.support.conversations import conversation_of


def call(id_: str, tool: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": tool, "arguments": arguments}}


def test_tool_calls_find_their_results_by_id_also_where_several_are_made_at_once() -> None:
    said = parse_transcript(
        agent_strategy="tool-calling",
        messages=[
            {"role": "system", "content": "policy"},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "let me see",
                "tool_calls": [
                    call("a", "get_user_details", '{"user_id": "x"}'),
                    call("b", "cancel_pending_order", '{"order_id": "#W1"}'),
                ],
            },
            {"role": "tool", "tool_call_id": "b", "content": "Error: order not found"},
            {"role": "tool", "tool_call_id": "a", "content": "{}"},
            {"role": "assistant", "content": "Sorry, no."},
            {"role": "user", "content": "###STOP###"},
        ],
    )
    assert said.events == (
        Message("user", "Hi", 0),
        ToolCall("get_user_details", '{"user_id": "x"}', {"user_id": "x"}, "{}", 1, "let me see"),
        ToolCall(
            "cancel_pending_order",
            '{"order_id": "#W1"}',
            {"order_id": "#W1"},
            "Error: order not found",
            1,
        ),
        Message("assistant", "Sorry, no.", 2),
        Message("user", "###STOP###", 2),
    )
    assert said.stopped_by_user
    assert [each.failed for each in said.calls] == [False, True]
    assert [each.writes for each in said.calls] == [False, True]


def test_a_react_agents_text_holds_calls_and_replies() -> None:
    action = '{"name": "get_order_details", "arguments": {"order_id": "#W1"}}'
    reply = '{"name": "respond", "arguments": {"content": "It is on its way."}}'
    said = parse_transcript(
        agent_strategy="react",
        user_strategy="react",
        messages=[
            {"role": "user", "content": "Thought:\nhm\n\nUser Response:\nWhere is it?"},
            {"role": "assistant", "content": f"Thought:\nlook\nAction:\n{action}"},
            {"role": "user", "content": 'API output: {"status": "x"}'},
            {"role": "assistant", "content": f"Thought:\nsay\nAction:\n{reply}"},
            {"role": "user", "content": "API output: is what I say"},
            {"role": "assistant", "content": "Action:\nno JSON"},
        ],
    )
    assert said.events[1:] == (
        ToolCall(
            "get_order_details",
            '{"order_id": "#W1"}',
            {"order_id": "#W1"},
            '{"status": "x"}',
            1,
            "look",
        ),
        Message("assistant", "It is on its way.", 2, "say"),
        Message("user", "API output: is what I say", 2),
        Message("assistant", "no JSON", 3),
    )
    first = said.events[0]
    assert isinstance(first, Message)
    assert said.extract_words(first) == "Where is it?"


def test_a_thought_is_cut_off_only_of_users_that_may_have_one() -> None:
    traj = [{"role": "user", "content": "It said: User Response: yes. ###STOP###"}]
    turns = {name: parse_transcript(traj, "act", name).turns for name in ("llm", "react")}
    assert turns == {"llm": ("It said: User Response: yes",), "react": ("yes",)}
    assert parse_transcript(traj, "act").turns == ("yes",)  # not known: it may have been react


def test_words_are_the_same_to_all_that_count_them() -> None:
    traj = [
        {"role": "user", "content": "Thought:\nhm\n\nUser Response:\nBye now. '###STOP###'."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": " ###STOP### "},
    ]
    said = parse_transcript(traj, "act", "react")
    assert said.turns == ("Bye now",)
    assert said.spoken == (("user", "Bye now"),)
    assert split_user_words(said) == [["bye", "now"], []]
    assert remove_stop("###STOP### and ###STOP###, yes") == "and , yes"
    assert len(remove_stop("." * 2_000_000 + "###STOP###")) == 0


def test_what_is_no_message_keeps_its_place() -> None:
    traj = [
        {"role": "system", "content": "policy"},
        {"role": "assistant", "tool_calls": [call("a", "think", "{}")]},
        {"role": "critic", "content": "hm"},
        {"role": "tool", "tool_call_id": "a", "content": "ok"},
        3,
    ]
    said = parse_transcript(traj, "tool-calling")
    assert said.events == (ToolCall("think", "{}", {}, "ok", 1),)
    assert said.others == (
        OtherMessage("system", "policy", 0),
        OtherMessage("critic", "hm", 1),
        OtherMessage("other", "3", 1),
    )


def test_patterns_of_a_conversation() -> None:
    arguments = '{"order_id": "#W1"}'
    other_order = '{ "order_id" : "#W1" }'
    traj: list[dict[str, Any]] = [{"role": "user", "content": "I want it cancelled, now!"}]
    for number, (tool, given_, answer) in enumerate(
        (
            ("get_order_details", arguments, "{}"),
            ("get_order_details", other_order, "{}"),
            ("delete_order", arguments, "Unknown action delete_order"),
            ("cancel_pending_order", arguments, "Error: invalid reason"),
            ("transfer_to_human_agents", "{}", "Transfer successful"),
        )
    ):
        traj += [
            {"role": "assistant", "content": None, "tool_calls": [call(str(number), tool, given_)]},
            {"role": "tool", "tool_call_id": str(number), "content": answer},
        ]
    traj.append({"role": "assistant", "content": "I apologize. I can\u2019t cancel it."})
    traj.append({"role": "user", "content": "###STOP###"})
    found = extract_features(parse_transcript(traj, "tool-calling"))
    assert found.steps == 6
    assert (found.user_messages, found.user_words) == (2, 2.5)
    assert (found.assistant_messages, found.assistant_words) == (1, 6)
    assert (found.tool_calls, found.tool_errors, found.unknown_tools) == (5, 2, 1)
    assert found.repeated_calls == 1  # the same arguments, spaced otherwise
    assert (found.write_calls, found.wrote, found.first_write_step) == (1, True, 4)
    assert (found.apologies, found.refusals, found.transferred) == (1, 1, True)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
anything: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
texts = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["", "###STOP###", "API output: Error", 'Action: {"name": 3, "arguments": []}', "Action:"]
    ),
)
calls = st.fixed_dictionaries(
    {"id": anything, "function": st.one_of(anything, st.fixed_dictionaries({
        "name": st.one_of(anything, st.sampled_from(["cancel_pending_order", "think"])),
        "arguments": st.one_of(anything, st.sampled_from(['{"order_id": ', "[" * 5000, "{}"])),
    }))}
)  # fmt: skip
messages = st.one_of(
    anything,
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["system", "user", "assistant", "tool", "function", "x", None]),
            "content": st.one_of(texts, anything),
        },
        optional={
            "tool_calls": st.one_of(anything, st.lists(calls, max_size=3)),
            "tool_call_id": anything,
            "name": anything,
        },
    ),
)
records = st.fixed_dictionaries(
    {
        "traj": st.one_of(anything, st.lists(messages, max_size=8)),
        "outcome": st.sampled_from(["solved", "failed", "max_steps", "infra_error", "agent_error"]),
        "agent_strategy": st.sampled_from(["tool-calling", "react", "act"]),
        "user_strategy": st.sampled_from(["llm", "react"]),
        "env": st.sampled_from(["retail", "airline", "x"]),
        "variant": st.just("anger"),
        "assistant": st.just("a"),
        "trial": st.just(1),
        "task_id": st.integers(0, 60),
    },
    optional={"info": anything, "error": anything},
)


@settings(max_examples=150)
@given(records)
def test_no_transcript_raises(record: dict[str, Any]) -> None:
    conversation = conversation_of(record)
    said, one = conversation.transcript, summarise(conversation)
    assert (one.fault is None) == (record["outcome"] == "solved")
    assert one.fault is None or one.fault.party in PARTIES
    assert (one.features is None) == (record["outcome"] == "infra_error")
    if one.features is not None:
        found = one.features
        assert found.tool_calls == sum(1 for _ in said.calls)
        assert 0 <= found.tool_errors <= found.tool_calls
        assert found.unknown_tools <= found.tool_errors
        assert found.repeated_calls < max(1, found.tool_calls)
        assert found.wrote == (found.write_calls > 0) == (found.first_write_step is not None)
        assert found.steps >= found.assistant_messages
        assert sum(one.words.values()) == round((found.user_words or 0) * found.user_messages)


@settings(max_examples=50)
@given(anything)
def test_no_ground_truth_raises(info: Any) -> None:
    record = {"trial": 1, "task_id": 0, "outcome": "failed", "traj": [], "info": {"task": info}}
    assert summarise(conversation_of(record)).fault is not None
    assert find_task("retail", 0, info, "") is None or isinstance(info, dict)


def test_a_long_text_takes_no_long_time() -> None:
    import time

    text = "I cannot " * 50_000 + json.dumps({"a": "b" * 200_000})
    traj = [{"role": "assistant", "content": text}, {"role": "user", "content": text}]
    began = time.thread_time()
    record = {"outcome": "failed", "agent_strategy": "tool-calling", "traj": traj}
    one = summarise(conversation_of(record))
    assert one.features is not None
    assert one.features.assistant_words is not None
    assert one.features.assistant_words > 100_000
    assert time.thread_time() - began < 10


def test_refusals_and_apologies_by_their_words() -> None:
    refused = (
        "I was not able to complete this request.",
        "We\u2019re unable to do so.",
        "Unfortunately, this is not permitted.",
        "That is against our cancellation policy.",
        "Our policy does not allow refunds.",
    )
    taken = ("I can help.", "I cannot go on without your id.", "I won't charge you until then.")
    assert [refuses(text) for text in refused] == [True] * 5
    assert [refuses(text) for text in taken] == [False] * 3
    assert [apologises(text) for text in ("My mistake!", "I apologise.", "Sorry.")] == [True] * 3
    assert not apologises("Your sorrow is understood.")


@given(
    st.one_of(
        st.text(st.sampled_from(' \t\n\u00a0\ufeff{}[]":,\\u0d8Ee1.-'), max_size=12),
        st.builds(
            lambda before, value, after: before + json.dumps(value) + after,
            st.text(st.sampled_from(" \t\n\r\u00a0\ufeff")),
            st.dictionaries(st.text(), st.floats() | st.integers() | st.text() | st.none()),
            st.sampled_from(["", " \n", "\u00a0", "}", " x"]),
        ),
    )
)
def test_arguments_are_what_json_makes_of_them(raw: str) -> None:
    try:
        expected = json.loads(raw)
    except ValueError:
        expected = None
    messages = [{"role": "assistant", "content": None, "tool_calls": [call("a", "think", raw)]}]
    (found,) = parse_transcript(messages, "tool-calling").calls
    assert repr(found.arguments) == repr(expected if isinstance(expected, dict) else None)
