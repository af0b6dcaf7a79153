"""Moments of a customer-service conversation in which there is one sensible thing to do.

The policy, the tools and the user's rules come from the installed benchmark, as in a run; what is
said was written for the probe, about people and orders that the benchmark knows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from emobench.benchmarks.adapter import Benchmark

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


def mid_dialogue(benchmark: Benchmark, env: str) -> Messages:
    """The user has said who they are and wants to be looked up."""
    messages: Messages = [{"role": "system", "content": benchmark.wiki(env)}]
    for number, text in enumerate(_SCENES[env].dialogue):
        messages.append({"role": ("user", "assistant")[number % 2], "content": text})
    return messages


def first_message(benchmark: Benchmark, env: str) -> Messages:
    """One message with all that a lookup needs."""
    return [
        {"role": "system", "content": benchmark.wiki(env)},
        {"role": "user", "content": _SCENES[env].opening},
    ]


def after_a_result(benchmark: Benchmark, env: str) -> Messages:
    """A tool has answered; two independent lookups are next."""
    scene = _SCENES[env]
    name, arguments, result = scene.known
    call = {
        "id": "call_0123456789ab",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    return [
        *mid_dialogue(benchmark, env)[:-1],
        {"role": "user", "content": scene.two_lookups},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "name": name, "content": result},
    ]


def user_turns(benchmark: Benchmark, env: str) -> tuple[Messages, Messages]:
    """What a user simulator is sent for its first and for its second turn."""
    scene = _SCENES[env]
    stock = benchmark.user_class("llm")
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
