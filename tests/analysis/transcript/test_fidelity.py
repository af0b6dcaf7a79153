"""What a user does wrong is seen, and what it does right is not called wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emobench.analysis.transcript.fidelity import check_fidelity, summarise_by_condition
from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.transcript import Event, Message, ToolCall
from emobench.config.variants import load_builtin
from emobench.core.sweep import BUILTIN_VARIANTS
from emobench.scripted.assistant import Assistant
from emobench.scripted.lookup import Library
from tests.support.conversations import GREETING, conversation, conversation_of, of_events, task_of
from tests.support.tau_loop import converse

VARIANTS = {name: load_builtin(name).text for name in BUILTIN_VARIANTS}
INSTALLED = load_benchmark().label
ROSSI = (
    "Hello, I'm Yusuf Rossi, zip code 19122. About order #W2378156: the keyboard and thermostat."
)


@pytest.mark.parametrize("variant", ["control", "anger"])
def test_scripted_users_convey_everything_in_every_task(library: Library, variant: str) -> None:
    """They say the whole instruction: any value missed or invented is this code's mistake."""
    assistant = Assistant(library)
    suffix = f"\n\n{VARIANTS[variant]}"
    for env, count in TASK_COUNTS.items():
        for index in range(count):
            task = task_of(env, index)
            heard = converse(task, assistant, suffix=suffix, variants=VARIANTS)
            said: list[Event] = []
            for place, text in enumerate(heard.user):
                said.append(Message("user", text, place))
                said += [Message("assistant", w, place) for w in heard.said[place : place + 1]]
            said[-2:-2] = [ToolCall(act.tool, "", act.arguments, "", 0) for act in heard.acts]
            record = check_fidelity(of_events(env, index, said, variant=variant))
            slips = (record.missed, record.invented, record.contradicted)
            assert slips == ((), (), ()), (env, index, slips)
            assert not record.early_stop and not record.role_flips and not record.think_leaks


def test_a_good_conversation() -> None:
    record = check_fidelity(
        conversation(
            "retail",
            1,
            "Hi, something about my order W2378156.",
            "Of course. May I have your name and zip code?",
            "Yusuf Rossi, 19122. I'd like a clicky keyboard and a thermostat for Google Home.",
            "I found item 7706410293 for $269.16. Shall I go on with #W2378156 (yes/no)?",
            "Yes, 7706410293 it is, and 269.16 is fine.",
            "Done. Is there anything else I can help you with?",
            "No, thank you.",
            tools=["get_order_details", "exchange_delivered_order_items"],
            outcome="solved",
        )
    )
    assert record.conveyed == 1.0
    assert (record.invented, record.contradicted) == ((), ())
    assert not record.early_stop and record.role_flips == 0


def test_what_is_not_said_is_missed() -> None:
    record = check_fidelity(
        conversation("retail", 1, "I want to exchange a keyboard.", "Your name?")
    )
    assert record.missed == (
        "item thermostat",
        "name yusuf rossi",
        "order_id 2378156",
        "zip 19122",
    )
    assert record.conveyed == pytest.approx(1 / 5)


@pytest.mark.parametrize(
    ("said", "invented", "contradicted"),
    [
        ("It is order #W1234567.", ("order_id 1234567",), ()),
        ("My email is yusuf.rossi@example.com.", ("email yusuf.rossi@example.com",), ()),
        ("My zip is 19123.", (), ("zip 19123",)),
        ("My user id is yusuf_rossi_1111.", (), ("user_id yusuf_rossi_1111",)),
        ("My user id is yusuf_rossi_9620.", (), ()),
        ("My name is John Smith.", (), ("name john smith",)),
        ("My name is Yusuf Rossi.", (), ()),
        ("Use credit_card_1234567, item 1111111111.", ("item_id 1111111111",), ()),
        ("I live at 12 Main Street.", ("address 12 main",), ()),
        ("I paid $100 and waited 3 weeks, since 2023!", (), ()),
    ],
)
def test_values_from_nowhere(
    said: str, invented: tuple[str, ...], contradicted: tuple[str, ...]
) -> None:
    record = check_fidelity(conversation("retail", 1, ROSSI, "And?", said, "Thank you."))
    known = {value for value in record.invented if not value.startswith("payment_id")}
    assert (tuple(known), record.contradicted) == (invented, contradicted)


def test_what_the_agent_said_before_is_no_invention_and_after_is() -> None:
    order = "It is #W7654321."
    heard = conversation("retail", 1, ROSSI, f"Is it this one? {order}", order)
    guessed = conversation("retail", 1, f"{ROSSI} {order}", f"Yes, {order}")
    assert check_fidelity(heard).invented == ()
    assert check_fidelity(guessed).invented == ("order_id 7654321",)


def test_what_only_a_tool_said_is_invention() -> None:
    """The user never sees a tool's answer or the agent's reasoning."""
    record: dict[str, Any] = {
        "env": "retail",
        "agent_strategy": "react",
        "assistant": "a",
        "variant": "control",
        "trial": 1,
        "task_id": 1,
        "outcome": "failed",
        "traj": [
            {"role": "system", "content": "policy"},
            {"role": "user", "content": ROSSI},
            {
                "role": "assistant",
                "content": 'Thought:\n#W7654321\nAction:\n{"name": "get_user_details", '
                '"arguments": {"user_id": "yusuf_rossi_9620"}}',
            },
            {"role": "user", "content": "API output: orders #W7654322"},
            {
                "role": "assistant",
                "content": 'Action:\n{"name": "respond", "arguments": {"content": "#W7654323?"}}',
            },
            {"role": "user", "content": "Thought:\nhm\n\nUser Response:\n#W7654321, #W7654323"},
            {"role": "assistant", "content": "Action:\nNot JSON: bye"},
            {"role": "user", "content": "###STOP###"},
        ],
    }
    read = conversation_of(record, INSTALLED)
    assert read.transcript.spoken == (
        ("user", ROSSI),
        ("assistant", "#W7654323?"),
        ("user", "#W7654321, #W7654323"),
        ("assistant", "Not JSON: bye"),
    )
    assert [call.tool for call in read.transcript.calls] == ["get_user_details"]
    assert read.transcript.stopped_by_user
    assert read.transcript.turns == (ROSSI, "#W7654321, #W7654323")
    assert check_fidelity(read).invented == ("order_id 7654321",)


ASKS = "I will exchange the keyboard. Do you want to proceed (yes/no)?"
BYE = "I am sorry, this cannot be done. Is there anything else I can help you with?"
WRITE = "exchange_delivered_order_items"


@pytest.mark.parametrize(
    ("last", "tools", "stopped", "early"),
    [
        (ASKS, [], True, True),
        (ASKS, [], False, False),
        (ASKS, [WRITE], True, False),
        (BYE, [], True, False),
        ("Would you like me to transfer you to a human agent?", [], True, False),
        ("It is done. Have a great day!", [], True, False),
        ("One moment, I'll check your order.", [], True, True),
    ],
)
def test_early_stop(last: str, tools: list[str], stopped: bool, early: bool) -> None:
    found = check_fidelity(
        conversation("retail", 1, ROSSI, last, "Thanks, bye.", tools=tools, stopped=stopped)
    )
    assert found.early_stop is early


CANCELS = "cancel_pending_order"
"""Task 16 of retail wants it twice, beside a return, of a user who has to say its zip."""


@pytest.mark.parametrize("times", [0, 1, 2])
def test_each_of_two_like_writes_has_to_be_called(times: int) -> None:
    asked = "I am going to cancel the orders. Shall I proceed (yes/no)?"
    tools = ["return_delivered_order_items", *[CANCELS] * times]
    found = check_fidelity(conversation("retail", 16, "Cancel both.", asked, "Bye.", tools=tools))
    assert found.early_stop is (times < 2)


@pytest.mark.parametrize(("tools", "early"), [([], True), (["think"], True), ([CANCELS], False)])
def test_whom_the_agent_has_written_for_has_said_who_it_is(tools: list[str], early: bool) -> None:
    found = check_fidelity(conversation("retail", 16, "Cancel both.", BYE, "No.", tools=tools))
    assert "zip 78712" in found.missed
    assert found.early_stop is early


def test_leaving_without_a_name_is_early() -> None:
    found = check_fidelity(conversation("retail", 1, "Exchange my keyboard.", BYE, "Then not."))
    assert found.early_stop
    nothing_to_do = check_fidelity(
        conversation("airline", 12, "Cancel my flights.", BYE, "Then not.")
    )
    assert not nothing_to_do.early_stop


@pytest.mark.parametrize(
    ("said", "flips"),
    [
        ("How can I help you today?", 1),
        ("Sure! Could you please provide your order number?", 1),
        ("I have processed your return.", 1),
        ("Thank you for contacting us.", 1),
        ("As an AI assistant I cannot do that.", 1),
        ("Is there anything else I can help you with?", 1),
        ("Can you give me your name and your manager's number?", 0),
        ("Could you tell me your return policy?", 0),
        ("I have cancelled my plans. How can I get help?", 0),
        ("Is there anything else I need to do?", 0),
        ("I can provide my order number if you need it.", 0),
        ("Thank you for your help.", 0),
    ],
)
def test_a_user_that_speaks_as_the_agent(said: str, flips: int) -> None:
    assert check_fidelity(conversation("retail", 1, ROSSI, "Yes?", said)).role_flips == flips


def test_leaks() -> None:
    leaking = conversation("retail", 1, "<think>I am a user</think> Hi", GREETING, "<tool_call>x")
    assert check_fidelity(leaking).think_leaks == 2


def test_differences_are_paired_by_task_and_cut_conversations_are_left_out() -> None:
    flip = "How can I help you today?"
    talks = [
        conversation("retail", 1, ROSSI, "Yes?"),
        conversation("retail", 2, ROSSI, "Yes?"),
        conversation("retail", 1, ROSSI, "Yes?", flip, variant="anger"),
        conversation("retail", 1, ROSSI, "Yes?", variant="anger", trial=2),
        conversation("retail", 3, ROSSI, "Yes?", flip, variant="anger"),
        conversation("retail", 2, ROSSI, "Yes?", flip, variant="anger", outcome="agent_error"),
    ]
    control, anger = summarise_by_condition(map(check_fidelity, talks))
    assert (control.conversations, control.left_out, control.differences) == (2, 0, {})
    assert (anger.conversations, anger.left_out) == (3, 1)
    assert anger.measures["role_flips"].value == pytest.approx(2 / 3)
    assert anger.measures["role_flips"].few_events
    # Task 1 is the only one that both have: half of the variant's, none of control's.
    paired = anger.differences["role_flips"]
    assert (paired.value, paired.interval, paired.tasks) == (0.5, None, 1)
    assert "anger minus control, 1 task," in paired.label


def test_a_transcript_of_anything_is_read() -> None:
    record = {
        "env": "retail",
        "agent_strategy": "tool-calling",
        "assistant": "a",
        "variant": "control",
        "trial": 1,
        "task_id": 1,
        "outcome": "agent_error",
        "info": {"error": "x"},
        "calls": [None, {"role": "user", "think": ["complete"]}, {"role": "user"}],
        "traj": [None, 3, {"role": "user"}, {"role": "user", "content": [{"text": ROSSI}]}],
    }
    found = check_fidelity(conversation_of(json.loads(json.dumps(record)), INSTALLED))
    assert (found.turns, found.missed, found.think_removed) == (1, (), 1)
    assert not found.counts


def test_the_tasks_of_another_version_accuse_nobody() -> None:
    """A failure left no task in the record, and the installed benchmark is not the record's."""
    record: dict[str, Any] = {
        "env": "retail",
        "agent_strategy": "tool-calling",
        "assistant": "a",
        "variant": "control",
        "trial": 1,
        "task_id": 1,
        "outcome": "user_error",
        "traj": [
            {"role": "user", "content": "Order #W1234567. How can I help you today?"},
            {"role": "assistant", "content": "Shall I go on?"},
            {"role": "user", "content": "###STOP###"},
        ],
    }
    known = check_fidelity(conversation_of(record, INSTALLED))
    assert known.facts and known.invented and known.missed and known.early_stop
    for other in ({"benchmark": {"package": "tau_trait", "version": "9"}}, {"task_id": 115}):
        unknown = check_fidelity(conversation_of(record | other, INSTALLED))
        assert unknown.facts is None and unknown.conveyed is None
        assert not (unknown.invented or unknown.contradicted or unknown.missed)
        assert not unknown.early_stop
        assert unknown.role_flips == 1
        (shares,) = summarise_by_condition([unknown])
        assert shares.measures["role_flips"].tasks == 1
        assert shares.measures["invented"].tasks == 0
