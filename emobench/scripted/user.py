"""Policy of the simulated user: a pure function of the messages it is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from emobench.benchmarks.transcript import REACT_USER, STOP
from emobench.scripted.messages import Message, Reply, system_text, text_of
from emobench.scripted.wording import phrase, turns, variant_of_prompt

MAX_TURNS = 40
"""Then the user hangs up, whatever the agent says: no dialogue goes on for ever."""

_PROMPT = "You are a user interacting with an agent."
_SUPERVISOR = "You are a supervisor of the Agent in the conversation."
_DONE = re.compile(r"anything else|all done|have a (great|nice|good) day|transferred to", re.I)
_CONFIRM = re.compile(r"\(yes/no\)|\byes\b|proceed|confirm|go ahead|shall i|would you like", re.I)


def is_user_request(messages: Sequence[Message]) -> bool:
    """Whether tau-bench asks for the user here (its turn, or the check of a turn)."""
    return bool(messages) and text_of(messages[0]).lstrip().startswith((_PROMPT, _SUPERVISOR))


def reply(messages: Sequence[Message], variants: Mapping[str, str]) -> Reply:
    """What the user says next. `variants` are the suffixes of the system prompt by name."""
    opening = text_of(messages[0]) if messages else ""
    if opening.lstrip().startswith(_SUPERVISOR):
        return Reply(_supervise(opening))
    prompt = system_text(messages)
    instruction = _instruction(prompt)
    if not instruction:
        return Reply(_formed("Hello! I would like some help, please.", prompt))
    # Agent's messages are counted, not the user's own: the reflection user loses the latter.
    heard = [text_of(message) for message in messages[1:] if message["role"] == "user"]
    said = _say(instruction, variant_of_prompt(prompt, variants), len(heard) - 1, heard[-1:])
    return Reply(_formed(said, prompt))


def _say(instruction: str, variant: str, turn: int, last: list[str]) -> str:
    request, identity, rest = turns(instruction)
    tone = phrase(variant, max(turn, 0))
    parts: tuple[str, ...]
    if turn <= 0:
        parts = ("Hi!", tone, request or "I need some help, please.")
    elif turn == 1:
        parts = (tone, identity)
    elif turn == 2:
        parts = (tone, rest, "That is everything.")
    elif turn >= MAX_TURNS or _DONE.search(last[0]):
        return STOP
    elif _CONFIRM.search(last[0]):
        parts = (tone, "Yes, please go ahead.")
    else:
        parts = (tone, "I have told you everything I know. Please go on.")
    return " ".join(part for part in parts if part)


def _instruction(prompt: str) -> str:
    _, found, rest = prompt.partition("Instruction: ")
    return rest.partition("\nRules:")[0].strip() if found else ""


def _formed(said: str, prompt: str) -> str:
    """In the react user's format if its prompt asks for it.

    Its parser splits at "Thought:" and refuses a second one, hence one of each word only.
    """
    if "Thought:" in prompt and REACT_USER in prompt:
        said = said.replace("Thought:", "Thought -").replace(REACT_USER, "User Response -")
        return f"Thought:\nI answer what I was just asked.\n\n{REACT_USER}\n{said}"
    return said


def _supervise(prompt: str) -> str:
    if prompt.rstrip().endswith("Classification:"):
        return "true"
    given = prompt.rpartition("# Response:")[2].partition("# Format:")[0].strip()
    # The answer is split at "Response:", which may stand there only once.
    given = given.rpartition("Response:")[2].strip() or "Please go on."
    return f"Reflection:\nThe answer was short but fits.\n\nResponse:\n{given}"
