"""Who was at fault, one case a rule, and what the rules must not say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emobench.analysis.transcript.fault import Fault, find_fault
from emobench.benchmarks.tasks import load_env
from emobench.benchmarks.tools import writes
from tests.support.conversations import conversation_of

INSTRUCTION = (
    "You are Yusuf Rossi in 19122. You want to cancel your order #W2378156 because it is no longer "
    "needed, and to get a refund to your paypal account."
)
CANCEL = {"order_id": "#W2378156", "reason": "no longer needed"}
OPENING = "I am Yusuf Rossi, zip 19122. Cancel order #W2378156, it is no longer needed."


def record(*events: tuple[str, Any], outcome: str = "failed", **changed: Any) -> dict[str, Any]:
    """A conversation: ('user', text), ('assistant', text) or (tool, (arguments, result))."""
    traj: list[dict[str, Any]] = []
    for number, (who, what) in enumerate(events):
        if who in ("user", "assistant"):
            traj.append({"role": who, "content": what})
            continue
        function = {"name": who, "arguments": json.dumps(what[0])}
        calls = [{"id": str(number), "function": function}]
        traj += [
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": str(number), "content": what[1]},
        ]
    task = {
        "user_id": "yusuf_rossi_9620",
        "instruction": INSTRUCTION,
        "actions": [{"name": "cancel_pending_order", "kwargs": CANCEL}],
        "outputs": [],
    }
    return {
        "outcome": outcome,
        "env": "retail",
        "agent_strategy": "tool-calling",
        "assistant": "a",
        "variant": "anger",
        "trial": 1,
        "task_id": 0,
        "info": {"task": task},
        "traj": traj,
        **changed,
    }


def judged(one: dict[str, Any]) -> Fault:
    found = find_fault(conversation_of(one))
    assert found is not None
    return found


STOP = ("user", "###STOP###")
ASK = ("assistant", "Shall I go on?")


def test_a_solved_task_has_no_fault() -> None:
    one = record(("user", OPENING), outcome="solved")
    assert find_fault(conversation_of(one)) is None


@pytest.mark.parametrize(
    ("outcome", "party"),
    [
        ("infra_error", "infrastructure"),
        ("agent_error", "agent"),
        ("user_error", "user simulator"),
        ("context_overflow", "undetermined"),
    ],
)
def test_outcomes_that_name_the_party(outcome: str, party: str) -> None:
    one = record(("user", OPENING), outcome=outcome, error={"type": "x", "message": "y"})
    assert judged(one).party == party


def test_a_wrong_argument_although_the_user_said_the_right_one() -> None:
    wrong = {**CANCEL, "reason": "ordered by mistake"}
    found = judged(record(("user", OPENING), ASK, ("cancel_pending_order", (wrong, "{}")), STOP))
    assert found.party == "agent"
    assert found.rule == "wrong argument although the user said the right one"
    assert "ordered by mistake instead of no longer needed" in found.findings[0].detail


def test_a_wrong_argument_that_the_user_said() -> None:
    said = "I am Yusuf Rossi, zip 19122. Cancel order #W2378156, it was ordered by mistake."
    wrong = {**CANCEL, "reason": "ordered by mistake"}
    found = judged(record(("user", said), ASK, ("cancel_pending_order", (wrong, "{}")), STOP))
    assert (found.party, found.rule) == ("user", "the user said another value than its task")


def test_both_values_said_proves_nothing_by_itself() -> None:
    said = f"{OPENING} Or was it ordered by mistake?"
    wrong = {**CANCEL, "reason": "ordered by mistake"}
    found = judged(record(("user", said), ASK, ("cancel_pending_order", (wrong, "{}")), STOP))
    assert "wrong argument" not in found.rule


def test_an_id_that_nobody_mentioned() -> None:
    said = "I am Yusuf Rossi, zip 19122. Cancel my order."
    wrong = {**CANCEL, "order_id": "#W9999999"}
    found = judged(record(("user", said), ASK, ("cancel_pending_order", (wrong, "{}")), STOP))
    assert "an id that nobody mentioned" in [each.rule for each in found.findings]
    shown = ("get_user_details", ({"user_id": "x"}, '{"orders": ["#W9999999"]}'))
    found = judged(
        record(("user", said), shown, ASK, ("cancel_pending_order", (wrong, "{}")), STOP)
    )
    assert "an id that nobody mentioned" not in [each.rule for each in found.findings]


@pytest.mark.parametrize(
    "claim",
    [
        "I have cancelled your order.",
        "I\u2019ve just cancelled it.",
        "I cancelled it.",
        "All of it has been taken care of.",
        "It has been successfully cancelled.",
    ],
)
def test_a_claim_without_any_change(claim: str) -> None:
    found = judged(record(("user", OPENING), ("assistant", f"{claim} Anything else?"), STOP))
    assert (found.party, found.rule) == ("agent", "it claimed to be done and had changed nothing")


@pytest.mark.parametrize(
    "claim",
    ["If I cancelled it, it would be gone.", "It was cancelled.", "I can cancel it for you."],
)
def test_what_is_no_claim(claim: str) -> None:
    found = judged(record(("user", OPENING), ("assistant", f"{claim} Goodbye."), STOP))
    assert "claimed" not in found.rule


def test_a_claim_after_a_change_is_none_of_nothing() -> None:
    claim = ("assistant", "I have cancelled your order. Anything else?")
    done = ("cancel_pending_order", ({**CANCEL, "order_id": "#W1"}, "{}"))
    rules = [each.rule for each in judged(record(("user", OPENING), done, claim, STOP)).findings]
    assert "it claimed to be done and had changed nothing" not in rules


def test_a_write_before_asking_anything() -> None:
    extra = ("modify_user_address", ({"user_id": "yusuf_rossi_9620"}, "{}"))
    found = judged(record(("user", OPENING), extra, ("assistant", "Hm."), STOP))
    assert (found.party, found.rule) == ("agent", "a write before asking the user anything")


def test_a_transfer_counts_unless_the_user_asks_for_it() -> None:
    transfer = ("transfer_to_human_agents", ({"summary": "x"}, "Transfer successful"))
    found = judged(record(("user", OPENING), ASK, ("user", "Yes."), transfer))
    assert found.rule == "a transfer that neither the task nor the user asked for"
    found = judged(record(("user", OPENING), ASK, ("user", "Get me a human!"), transfer))
    assert "transfer" not in found.rule


def test_a_user_that_leaves_while_the_agent_waits() -> None:
    found = judged(record(("user", OPENING), ASK, STOP))
    assert found.party == "user"
    assert found.rule == "the user ended it too early"


def test_a_user_that_never_names_what_only_it_knows() -> None:
    bye = ("assistant", "I am sorry to hear that. Have a nice day.")
    found = judged(record(("user", "I am angry."), bye, STOP))
    assert found.party == "user"
    assert "#W2378156" in found.findings[-1].detail


def test_a_user_out_of_its_role() -> None:
    bye = ("assistant", "Have a nice day.")
    flip = f"{OPENING} How can I help you today?"
    assert judged(record(("user", flip), bye, STOP)).party == "user simulator"
    leak = f"<think>I should say my name</think> {OPENING}"
    assert judged(record(("user", leak), bye, STOP)).party == "user simulator"


def test_several_parties_leave_it_undetermined() -> None:
    claim = ("assistant", "I have cancelled your order. Anything else?")
    found = judged(record(("user", f"How can I help you today? {OPENING}"), claim, STOP))
    assert (found.party, found.rule) == ("undetermined", "several parties")
    assert {each.party for each in found.findings} == {"agent", "user simulator"}


def test_elimination_needs_a_user_that_told_everything() -> None:
    bye = ("assistant", "That is against our rules. Have a nice day.")
    found = judged(record(("user", f"{OPENING} Refund it to my paypal account."), bye, STOP))
    assert found.party == "probably agent"
    shown = ("get_user_details", ({"user_id": "x"}, '{"orders": ["#W2378156"]}'))
    vague = judged(
        record(("user", "I am Yusuf Rossi, zip 19122. Cancel my order."), shown, bye, STOP)
    )
    assert (vague.party, vague.rule) == ("undetermined", "no rule applies")


def test_a_loop_until_the_step_limit() -> None:
    look = ("get_order_details", ({"order_id": "#W2378156"}, "{}"))
    found = judged(record(("user", OPENING), *[look] * 8, outcome="max_steps"))
    assert (found.party, found.rule) == ("agent", "the same calls until the step limit")
    several = [("get_order_details", ({"order_id": f"#W{number}"}, "{}")) for number in range(8)]
    assert judged(record(("user", OPENING), *several, outcome="max_steps")).party == "undetermined"


@pytest.mark.parametrize("env", ["retail", "airline"])
def test_the_tools_that_write_are_those_that_change_the_database(env: str) -> None:
    """By executing every ground truth with the benchmark's own tools."""
    from emobench.benchmarks.adapter import load_benchmark

    benchmark = load_benchmark()
    tools = {
        tool.get_info()["function"]["name"]: tool
        for tool in benchmark.import_module(f"envs.{env}.tools").ALL_TOOLS
    }
    load_data = benchmark.import_module(f"envs.{env}.data").load_data
    data, untouched = load_data(), load_data()
    changing, used = set(), set()
    for task in load_env(env).tasks:
        for act in task.actions:
            used.add(act.tool)
            if act.tool in changing:
                continue
            try:
                tools[act.tool].invoke(data=data, **act.arguments)
            except Exception:  # as stock: a tool's exception is its answer
                continue
            if data != untouched:
                changing.add(act.tool)
                data = load_data()
    assert changing == {name for name in used if writes(name)}
    unused = set(tools) - used
    assert {name for name in unused if writes(name)} == set()
