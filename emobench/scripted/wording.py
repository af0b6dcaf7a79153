"""What the simulated user says: its instruction in the first person, in the tone of its variant."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from emobench.benchmarks.transcript import REACT_USER

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


def phrase(variant: str, turn: int) -> str:
    """The variant's words for this turn; empty for control."""
    if variant == "control":
        return ""
    phrases = PHRASES.get(variant)
    return phrases[turn % len(phrases)] if phrases else _GENERIC.format(name=variant)


def variant_of_prompt(prompt: str, variants: Mapping[str, str]) -> str:
    """The variant whose text the user's system prompt contains; the longest if several do."""
    found, length = "control", 0
    for name, text in variants.items():
        bare = text.strip()
        if len(bare) > length and bare in prompt:
            found, length = name, len(bare)
    return found


@lru_cache(maxsize=4096)
def hear(text: str) -> tuple[str, str]:
    """A user's text as (variant it sounds like, the text without those phrases)."""
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


def first_person(text: str) -> str:
    """An instruction to "you" as the user would say it, on one line."""
    text = " ".join(text.split())
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    sentences = (part[:1].upper() + part[1:] for part in _SENTENCE.split(text))
    return " ".join(sentences)


@lru_cache(maxsize=1024)
def turns(instruction: str) -> tuple[str, str, str]:
    """The whole instruction over three turns: the request, who I am, the rest."""
    sentences = _SENTENCE.split(first_person(instruction))
    identity = [part for part in sentences[:3] if _IDENTITY.search(part)] or sentences[:1]
    request = [part for part in sentences if part not in identity]
    half = (len(request) + 1) // 2
    return " ".join(request[:half]), " ".join(identity), " ".join(request[half:])
