"""Policy of the simulated user: a pure function of the messages it is sent.

It says its instruction in the first person, in the tone of its variant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from emobench.benchmarks.transcript import REACT_USER, STOP
from emobench.scripted.messages import Message, Reply, extract_system_text, extract_text

MAX_TURNS = 40
"""Then the user hangs up, whatever the agent says: no dialogue goes on for ever."""

_ENDS = (
    "(this will be parsed and sent to the agent)>",
    "and stick to the personalities in the instruction.",
)
"""How tau-bench's own prompts of the user end: what follows is a variant's text."""
_PROMPT = "You are a user interacting with an agent."
_SUPERVISOR = "You are a supervisor of the Agent in the conversation."
_DONE = re.compile(r"anything else|all done|have a (great|nice|good) day|transferred to", re.I)
_CONFIRM = re.compile(r"\(yes/no\)|\byes\b|proceed|confirm|go ahead|shall i|would you like", re.I)


def is_user_request(messages: Sequence[Message]) -> bool:
    """Return whether tau-bench asks for the user here (its turn, or the check of a turn)."""
    return bool(messages) and extract_text(messages[0]).lstrip().startswith((_PROMPT, _SUPERVISOR))


def reply(messages: Sequence[Message], variants: Mapping[str, str]) -> Reply:
    """Return what the user says next. `variants` are the suffixes of the system prompt by name.

    Raises UnknownVariant.
    """
    opening = extract_text(messages[0]) if messages else ""
    if opening.lstrip().startswith(_SUPERVISOR):
        return Reply(_supervise(opening))
    prompt = extract_system_text(messages)
    instruction = _extract_instruction(prompt)
    if not instruction:
        return Reply(_format_reply("Hello! I would like some help, please.", prompt))
    # Agent's messages are counted, not the user's own: the reflection user loses the latter.
    heard = [extract_text(message) for message in messages[1:] if message["role"] == "user"]
    said = _say(instruction, find_variant(prompt, variants), len(heard) - 1, heard[-1:])
    return Reply(_format_reply(said, prompt))


def _say(instruction: str, variant: str, turn: int, last: list[str]) -> str:
    request, identity, rest = split_turns(instruction)
    tone = choose_phrase(variant, max(turn, 0))
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


def _extract_instruction(prompt: str) -> str:
    _, found, rest = prompt.partition("Instruction: ")
    return rest.partition("\nRules:")[0].strip() if found else ""


def _format_reply(said: str, prompt: str) -> str:
    """Return a text, in the react user's format if its prompt asks for it.

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


PHRASES: dict[str, tuple[str, ...]] = {
    "placebo": (
        "I am writing to you from my desk.",
        "It is an ordinary afternoon here.",
        "I have the page open in front of me.",
    ),
    "frustration": (
        "This is so frustrating, nothing about it has worked so far!",
        "Ugh, I already went through all of this once.",
        "I am fed up with going round in circles.",
    ),
    "anxiety": (
        "I am really worried that something will go wrong.",
        "Sorry, I am so nervous about this.",
        "Please be careful, I keep fearing the worst.",
    ),
    "anger": (
        "I am furious about how you people treat me!",
        "This is outrageous!",
        "I have had it with this company!",
    ),
    "confusion": (
        "I am completely lost here, to be honest.",
        "Wait, I am not sure I follow.",
        "Hmm, I keep mixing this up.",
    ),
}
"""Tone of each built-in variant, by turn in rotation. control has none."""

_GENERIC = "To be open with you, I am in a {name} state of mind."
_GENERIC_PATTERN = re.compile(r"To be open with you, I am in a (\S{1,64}) state of mind\.")


def choose_phrase(variant: str, turn: int) -> str:
    """Return the variant's words for this turn; empty for control."""
    if variant == "control":
        return ""
    phrases = PHRASES.get(variant)
    return phrases[turn % len(phrases)] if phrases else _GENERIC.format(name=variant)


class UnknownVariant(Exception):
    """The conversation is of a variant that these settings do not have."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"this scripted server does not know {what}: it was started without that variant; run "
            "the same sweep again once the server has left, or start one with these settings"
        )


def find_variant(prompt: str, variants: Mapping[str, str]) -> str:
    """Return the variant whose text follows tau-bench's own prompt, control where nothing does.

    In a prompt that is not tau-bench's it is the one whose text stands anywhere; the longest if
    several do. Raises UnknownVariant.
    """
    texts = {name: text.strip() for name, text in variants.items()}
    for end in _ENDS:
        _, found, rest = prompt.rpartition(end)
        if found:
            suffix = rest.strip()
            known = [name for name, text in texts.items() if text == suffix]
            if suffix and not known:
                raise UnknownVariant(f"the text at the end of its prompt, {suffix[:60]!r}")
            return known[0] if suffix else "control"
    named = [name for name, text in texts.items() if text and text in prompt]
    return max(named, key=lambda name: len(texts[name]), default="control")


@lru_cache(maxsize=4096)
def hear(text: str) -> tuple[str, str]:
    """Split a user's text into (variant it sounds like, the text without those phrases)."""
    # Stock hands the react user's thought to the agent as well; its words are no request.
    text = text.rpartition(REACT_USER)[2]
    named = _GENERIC_PATTERN.search(text)
    if named:
        return named[1], _GENERIC_PATTERN.sub(" ", text)
    for variant, phrases in PHRASES.items():
        for words in phrases:
            if words in text:
                return variant, text.replace(words, " ")
    return "control", text


_OBJECT = (
    "to|for|with|refund|refunds|give|gives|tell|tells|help|helps|ask|asks|let|lets|offer|offers|of|"
    "from|transfer|transfers|charge|about|allow|allows|on|send|sends|compensate|gave|told|upgrade"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\byou are\b", "I am"),
        (r"\byou're\b", "I'm"),
        (r"\byou were\b", "I was"),
        (rf"\b({_OBJECT}) you\b(?!')", r"\1 me"),
        (r"\bare you\b", "am I"),
        (r"\byourself\b", "myself"),
        (r"\byours\b", "mine"),
        (r"\byour\b|\byou(?= name is)", "my"),
        (r"\byou\b", "I"),
        (r"\bthe agent's\b", "your"),
        (r"\bthe agent is\b", "you are"),
        (r"\bthe agent has\b", "you have"),
        (r"\bthe agent does\b", "you do"),
        (r"\bthe agent (\w+[^\Ws])s\b", r"you \1"),
        (r"\bthe agent\b", "you"),
    )
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_IDENTITY = re.compile(
    r"^I(?: a|')m [A-Z]|\b(?:[Mm]y (?:name|id|email)|zip|user id|birthday|date of birth)\b"
)


def to_first_person(text: str) -> str:
    """Return an instruction to "you" as the user would say it, on one line."""
    text = " ".join(text.split())
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    sentences = (part[:1].upper() + part[1:] for part in _SENTENCE.split(text))
    return " ".join(sentences)


@lru_cache(maxsize=1024)
def split_turns(instruction: str) -> tuple[str, str, str]:
    """Return the whole instruction over three turns: the request, who I am, the rest."""
    sentences = _SENTENCE.split(to_first_person(instruction))
    identity = [part for part in sentences[:3] if _IDENTITY.search(part)] or sentences[:1]
    request = [part for part in sentences if part not in identity]
    half = (len(request) + 1) // 2
    return " ".join(request[:half]), " ".join(identity), " ".join(request[half:])
