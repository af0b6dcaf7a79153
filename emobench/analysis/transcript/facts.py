"""What a task tells the user, and what else is known in it.

A task's facts are the values in its instruction. The ground truth's values are known as well: a
user who says one of them invents nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from emobench.analysis.transcript.values import Kind, Value, day_of_year, find
from emobench.benchmarks.task_sets import PACKAGES
from emobench.benchmarks.tasks import Task

KINDS: Mapping[str, tuple[Kind, ...]] = MappingProxyType(
    {
        "retail": (
            "user_id",
            "email",
            "zip",
            "order_id",
            "item_id",
            "payment_id",
            "amount",
            "address",
        ),
        "airline": (
            "user_id",
            "email",
            "payment_id",
            "card",
            "reservation_id",
            "flight",
            "date",
            "airport",
            "amount",
        ),
    }
)
"""Kinds with a form of their own, by environment; names and items are found by other means."""
UNINVENTED = frozenset[Kind]({"amount", "item", "name"})
"""Sums of amounts are the user's to make, and items and names have no form to recognise."""
OWN: tuple[Kind, ...] = ("user_id", "email", "zip", "name")
"""Kinds of which a user has one: another value contradicts."""
DATE_SLACK_DAYS = 7
"""'A day later' is arithmetic: a date so near to a known one is not invented."""
_IDS = re.compile(r"(?<!\S)\S+@\S+|\b\w+_\w+_\d{4}\b")
_NAME_SAID = re.compile(
    r"\b(?:[Mm]y (?:full )?name is|[Mm]y name's|[Nn]ame: ?|[Ii]t is under the name(?: of)?)\s+"
    r"([A-Z][a-z]+) ([A-Z][a-z]+)\b"
)
_VAGUE = frozenset({"set", "kit", "bed", "mat"})
"""Last words of products that are words of other uses; these products are looked for in full."""


@dataclass(frozen=True)
class TaskFacts:
    """Values of one task."""

    told: frozenset[Value]
    """In the instruction: what the user can convey."""
    known: frozenset[Value]
    """Those, and the ground truth's."""
    own: Mapping[Kind, str] = field(default_factory=dict)
    """The user's one value of a kind, where the task says which."""


def facts_of(task: Task) -> TaskFacts:
    """The facts of a task."""
    return _facts(
        task.env,
        task.user_id,
        task.instruction,
        json.dumps([action.arguments for action in task.actions], sort_keys=True, default=str),
    )


@cache
def _facts(env: str, user_id: str, instruction: str, truth: str) -> TaskFacts:
    told = set(values_of(env, instruction))
    known = told | set(values_of(env, truth))
    own: dict[Kind, str] = {}
    if user_id:
        own["user_id"] = user_id.lower()
        known.add(("user_id", user_id.lower()))
        name = " ".join(user_id.lower().split("_")[:-1])
        if name:
            own["name"] = name
            if _has_name(instruction, name):
                told.add(("name", name))
                known.add(("name", name))
    for kind in ("email", "zip"):
        own_values = [value for each, value in sorted(told) if each == kind]
        if len(own_values) == 1:
            own[kind] = own_values[0]
    looked_up = json.loads(truth)
    zips = {item["zip"] for item in looked_up if "first_name" in item and "zip" in item}
    if len(zips) == 1:
        own["zip"] = str(zips.pop())
    if env == "retail":
        told |= {("item", word) for word in items_in(instruction)}
    return TaskFacts(frozenset(told), frozenset(known), own)


def values_of(env: str, text: str) -> Iterable[Value]:
    """Every value with a form of its own in a text."""
    for kind in KINDS.get(env, ()):
        for value in find(kind, text):
            yield kind, value


def is_conveyed(fact: Value, text: str) -> bool:
    """Whether a user's words hold a fact, in whatever context."""
    kind, value = fact
    if kind == "name":
        return _has_name(text, value)
    if kind == "item":
        return _has_item(text, value)
    if kind == "amount":
        bare = text.replace(",", "")
        return re.search(rf"(?<![\d.]){re.escape(value)}(?:\.00?)?(?![\d]|\.\d)", bare) is not None
    if kind == "address":
        return value in " ".join(text.lower().split())
    if kind in ("date", "airport"):
        return value in find(kind, text)
    # Ids by their characters alone: a "W" or "#" more or less, or dashes around, are no matter.
    return re.search(rf"(?<![0-9]){re.escape(value)}(?![0-9])", text, re.I) is not None


def is_known(value: Value, known: Collection[Value]) -> bool:
    """Whether a value that the user said stands among what it may know."""
    if value in known:
        return True
    kind, text = value
    if kind != "date":
        return False
    day = day_of_year(text)
    return any(
        abs(day_of_year(other) - day) <= DATE_SLACK_DAYS for each, other in known if each == "date"
    )


def other_names(text: str, own: str) -> set[str]:
    """Names under which the user presents itself that are not its own."""
    said = {f"{first} {last}".lower() for first, last in _NAME_SAID.findall(text)}
    return {name for name in said if name != own}


def _has_name(text: str, name: str) -> bool:
    bare = _IDS.sub(" ", text)
    return all(re.search(rf"\b{re.escape(part)}\b", bare, re.I) for part in name.split())


def items_in(instruction: str) -> set[str]:
    """The kinds of product that an instruction names, by the word that a user would use."""
    found = set()
    for name in products():
        word = re.split(r"[\s-]", name.lower())[-1]
        if word in _VAGUE:
            word = name.lower()
        elif word.endswith("s") and not word.endswith("ss"):
            word = word[:-1]
        if _has_item(instruction, word):
            found.add(word)
    return found


def _has_item(text: str, word: str) -> bool:
    # T-shirt, tshirt, e-reader, ereader.
    return re.search(rf"\b(?:[te][-\s]?)?{re.escape(word)}(?:e?s)?\b", text, re.I) is not None


@cache
def products() -> tuple[str, ...]:
    """The names of the shop's products, read from the installed benchmark; none without one."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        file = Path(next(iter(spec.submodule_search_locations)), "envs/retail/data/products.json")
        try:
            data = json.loads(file.read_bytes())
            return tuple(sorted(str(product["name"]) for product in data.values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
    return ()
