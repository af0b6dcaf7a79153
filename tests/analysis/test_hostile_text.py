"""Every pattern that is applied to what a model or a server says takes time in proportion to it.

A new pattern in these packages has to be given a text here: one that it begins to match at many
places, or in many ways, and never does.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import emobench
from emobench.analysis.judge.labels import build_messages, read_answer
from emobench.analysis.transcript import facts, fidelity, markers
from emobench.benchmarks.ground_truth import mentions
from emobench.llm.reasoning import sanitize
from emobench.llm.replies import holds_call
from emobench.scripted.user import hear, to_first_person

PACKAGES = ("analysis", "benchmarks", "llm", "runner", "scripted", "tables")
SMALL, LARGE = 20_000, 1_000_000
"""Characters; what is not in proportion fails with the small text, which takes it seconds only."""
SMALL_S, LARGE_S = 2.0, 20.0
"""Processor time: of a linear search some 1 and 50 ms."""

HOSTILE = {
    "analysis.judge.labels._DIGITS": "1",
    "analysis.judge.labels._OBJECT": "{",
    "analysis.judge.labels._RANGES": "1 ",
    "analysis.judge.labels._WORDS": "anxiet",
    "analysis.transcript.facts._CITY": "san francisc",
    "analysis.transcript.facts._CODE": "SFOSFO",
    "analysis.transcript.facts._DATES[0]": "may  the  ",
    "analysis.transcript.facts._DATES[1]": "1  of  ",
    "analysis.transcript.facts._DATES[2]": "2024-11-",
    "analysis.transcript.facts._DATES[3]": "1/1/",
    "analysis.transcript.facts._DIGIT": "a",
    "analysis.transcript.facts._IDS": "_",
    "analysis.transcript.facts._NAME_SAID": "my name is  ",
    "analysis.transcript.facts._NEEDED[email]": "a",
    "analysis.transcript.facts._NEEDED[payment_id]": "_",
    "analysis.transcript.facts._NEEDED[user_id]": "_",
    "analysis.transcript.facts._PATTERNS[address]": "1 Aa ",
    "analysis.transcript.facts._PATTERNS[amount]": "1,",
    "analysis.transcript.facts._PATTERNS[card]": "ending  in  ",
    "analysis.transcript.facts._PATTERNS[email]": "a@a-",
    "analysis.transcript.facts._PATTERNS[flight]": "HAT",
    "analysis.transcript.facts._PATTERNS[item_id]": "1",
    "analysis.transcript.facts._PATTERNS[order_id]": "# W",
    "analysis.transcript.facts._PATTERNS[payment_id]": "paypal_",
    "analysis.transcript.facts._PATTERNS[user_id]": "a_",
    "analysis.transcript.facts._RESERVATION": "A",
    "analysis.transcript.facts._RESERVATION_BY_WORD": " ",
    "analysis.transcript.facts._ZIP": "11111 Aa ",
    "analysis.transcript.fault.ASKS_FOR_HUMAN": "real perso",
    "analysis.transcript.fault.CLAIMS_DONE": "i have now successfully ",
    "analysis.transcript.fault._DERIVED": "1",
    "analysis.transcript.fidelity._AGENT_SPEAKS": "can you please give me with your ",
    "analysis.transcript.fidelity._CLOSING": "any other ",
    "analysis.transcript.fidelity._OPEN": "please could you ",
    "analysis.transcript.fidelity._SENTENCE": "a",
    "analysis.transcript.markers._CAPITALS": "A",
    "analysis.transcript.markers._WORD": "a'",
    "analysis.transcript.patterns.APOLOGY": "regret apologi",
    "analysis.transcript.patterns.REFUSAL": "i am currently against our ",
    "analysis.transcript.patterns.WORD": "a'",
    "analysis.transcript.patterns._CONDITION": "unles",
    "analysis.transcript.patterns._SENTENCE": "\n",
    "llm.engine_metrics.SAMPLE": 'a{"',
    "llm.engine_metrics.WHOLE_REQUESTS": "Maximum concurrency for 1,",
    "llm.guard._CHALLENGE": "0",
    "llm.reasoning._CLOSING": "</thin",
    "llm.reasoning._OPENING": "<thin",
    "llm.reasoning._TAG": "<think",
    "llm.rate_limits._ASKED": "try again in 1s ",
    "llm.rate_limits._DURATION": "1s ",
    "llm.rate_limits._FIELD": "-limit",
    "llm.rate_limits._FORM": "x-ratelimit-",
    "llm.rate_limits._NUMBER": "1",
    "llm.rate_limits._PARTS": "1.",
    "llm.refusals._EMPTY_ACCOUNT": "credit balance ",
    "llm.refusals._QUOTA_EXCEEDED": "exceeded your ",
    "llm.refusals.CONTEXT_WORDS": "current length is 1",
    "llm.refusals._BLANK": "must have ",
    "llm.refusals._CALL": "pars",
    "llm.refusals._FILTER": "content ",
    "llm.refusals._NAMED": "unknown function: 'a",
    "llm.refusals._QUOTED_CALL": '{ "name" : "a',
    "llm.replies.MARKUP": "functions.a",
    "runner.completion._FORMS[('assistant', 'act')]": "Action",
    "runner.completion._FORMS[('assistant', 'react')]": "Action",
    "runner.completion._FORMS[('user', 'react')]": "Thought",
    "runner.completion._FORMS[('user', 'reflection')]": "Response",
    "runner.rejections._ODD": "a",
    "scripted.lookup._WORD": "a.",
    "scripted.user._CONFIRM": "would you lik",
    "scripted.user._DONE": "anything els",
    "scripted.user._GENERIC_PATTERN": "To be open with you, I am in a b",
    "scripted.user._IDENTITY": "My birthda",
    "scripted.user._SENTENCE": ".  ",
    "tables.published._ENTRY": " ",
    "tables.published._FRAME": "tau_a/agents/",
    "tables.published._LAST": "a.",
    "tables.published._POLICY": "retail agent polic",
    "tables.published._RESULT": "{ ",
    "tables.published._TASK_KEY": '"task_id" ',
}
"""What the text repeats, by the pattern's name."""
BEFORE = {
    "analysis.transcript.facts._RESERVATION_BY_WORD": "booking",
    "tables.published._FRAME": 'File "',
}
"""How the text begins."""
WHOLE = {
    "analysis.transcript.fault._DERIVED": re.Pattern.fullmatch,
    "llm.engine_metrics.SAMPLE": re.Pattern.match,
    "llm.guard._CHALLENGE": re.Pattern.fullmatch,
    "tables.published._LAST": re.Pattern.match,
}
"""Patterns that are not searched for."""
OWN_TEXT = {
    "llm.providers._ENUM": "litellm's source",
    "llm.providers._MEMBER": "litellm's source",
    "tables.csv_guard._FORMULA": "one character",
}
"""Patterns that meet no text of a model's, and why."""

CALLS: dict[str, Callable[[str], object]] = {
    "analysis/judge/labels.py build_messages": lambda text: build_messages("`" * len(text)),
    "analysis/judge/labels.py read_answer": lambda text: read_answer("anger 1 no" + text),
    "analysis/transcript/facts.py _normalise": lambda text: set(
        facts.extract_values("airline", text)
    ),
    "analysis/transcript/facts.py _has_item": lambda text: facts.is_conveyed(
        ("item", "shirt"), text
    ),
    "analysis/transcript/facts.py _has_name": lambda text: facts.is_conveyed(("name", "a b"), text),
    "analysis/transcript/facts.py is_conveyed": lambda text: [
        facts.is_conveyed(fact, text + "1" * len(text) + "1," * len(text))
        for fact in (("amount", "1"), ("zip", "11111"))
    ],
    "analysis/transcript/markers.py compile_pattern": lambda text: [
        markers.compile_pattern(name).findall(
            " ".join(markers.read_entries()[name]) * (len(text) // 2000 + 1)
        )
        for name in markers.LISTS
    ],
    "benchmarks/ground_truth.py mentions": lambda text: mentions(
        [text, "aa" * len(text)], "aaaa b"
    ),
    "llm/replies.py holds_call": lambda text: holds_call(text + "get (" * len(text), ["get"]),
    "scripted/user.py <module>": lambda text: [to_first_person("the agent " + text), hear(text)],
}
"""What applies patterns that are made on the spot."""


def _patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    for package in PACKAGES:
        found = importlib.import_module(f"emobench.{package}")
        for each in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            if not each.name.endswith("__main__"):
                module = importlib.import_module(each.name)
                source = Path(str(module.__file__)).read_text("utf-8")
                for name, value in vars(module).items():
                    if re.search(rf"^{name}\b.* = ", source, re.MULTILINE):
                        yield from _within(f"{each.name.partition('.')[2]}.{name}", value)


def _within(name: str, value: object) -> Iterator[tuple[str, re.Pattern[str]]]:
    if isinstance(value, re.Pattern):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _within(f"{name}[{key}]", part)
    elif isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _within(f"{name}[{number}]", part)


PATTERNS = {
    name: pattern
    for name, pattern in _patterns()
    if name not in OWN_TEXT and not name.startswith("scripted.user._RULES")
}


def _on_the_spot() -> set[str]:
    """Where functions of these packages make patterns."""
    found = set()
    root = Path(emobench.__file__).parent
    for file in (path for package in PACKAGES for path in (root / package).rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if (
                        isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Attribute)
                        and isinstance(node.func.value, ast.Name)
                        and node.func.value.id == "re"
                        and node.func.attr != "escape"
                    ):
                        found.add(f"{file.relative_to(root)} {function.name}")
    return found


OF_OURS = {
    "analysis/transcript/facts.py find_items": "an instruction",
    "analysis/transcript/facts.py _find_reservations": "what a pattern found",
    "runner/by_hand.py _resolve": "a key of ours",
    "runner/by_hand.py name_of": "a key of ours",
    "tables/compatibility.py list_incompatibilities": "lines of ours",
    "tables/csv_guard.py guard_text": "one character",
}
"""Functions whose patterns meet no text of a model's, and why."""


def test_every_pattern_is_here() -> None:
    assert set(PATTERNS) == set(HOSTILE)
    spots = {name for name in CALLS if not name.endswith("<module>")}
    assert _on_the_spot() == spots | set(OF_OURS)


def _takes(search: Callable[[str], object], begun: str, pump: str, length: int) -> float:
    text = begun + pump * (length // len(pump)) + "\x00"
    before = time.thread_time()
    search(text)
    return time.thread_time() - before


def _assert_linear(search: Callable[[str], object], begun: str, pump: str) -> None:
    assert _takes(search, begun, pump, SMALL) < SMALL_S
    assert _takes(search, begun, pump, LARGE) < LARGE_S


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_megabyte_of_hostile_text(name: str) -> None:
    pattern, use = PATTERNS[name], WHOLE.get(name)
    _assert_linear(
        lambda text: use(pattern, text) if use else pattern.sub("", text),
        BEFORE.get(name, ""),
        HOSTILE[name],
    )


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("pump", ["a", "1 ", "the agent ", "_"])
def test_a_megabyte_for_what_is_made_on_the_spot(name: str, pump: str) -> None:
    _assert_linear(CALLS[name], "", pump)


@pytest.mark.parametrize(
    "pump", ["<think>", "</think>", "<thinking></think>", "<think><thinking>", "<think></think>"]
)
def test_reasoning_is_taken_out_of_a_megabyte_of_tags(pump: str) -> None:
    _assert_linear(sanitize, "", pump)


def test_a_goodbye_without_end() -> None:
    rest = fidelity._SENTENCE
    _assert_linear(lambda text: rest.sub("", text), "", "any thing ")
