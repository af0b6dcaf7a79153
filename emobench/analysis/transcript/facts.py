"""What a task tells the user, and what else is known in it.

A task's facts are the values in its instruction: of the benchmark's kinds, each in one spelling.
Only kinds whose form is unmistakable are found; a pattern rather misses a value than invents one.
The ground truth's values are known as well: a user who says one of them invents nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from emobench.benchmarks.task_sets import PACKAGES
from emobench.benchmarks.tasks import Task

Kind = Literal[
    "user_id",
    "name",
    "email",
    "zip",
    "order_id",
    "item_id",
    "payment_id",
    "card",
    "reservation_id",
    "flight",
    "date",
    "airport",
    "amount",
    "address",
    "item",
]
Value = tuple[Kind, str]

AIRPORTS = {
    "SFO": "san francisco",
    "JFK": "new york",
    "LAX": "los angeles",
    "ORD": "chicago",
    "DFW": "dallas",
    "DEN": "denver",
    "SEA": "seattle",
    "ATL": "atlanta",
    "MIA": "miami",
    "BOS": "boston",
    "PHX": "phoenix",
    "IAH": "houston",
    "LAS": "las vegas",
    "MCO": "orlando",
    "EWR": "newark",
    "CLT": "charlotte",
    "MSP": "minneapolis",
    "DTW": "detroit",
    "PHL": "philadelphia",
    "LGA": "laguardia",
}
"""The airline's airports, by code, with their cities."""
_CITY_WORDS = {"nyc": "new york", "la guardia": "laguardia", "philly": "philadelphia"}
_CODE = re.compile(rf"\b({'|'.join(AIRPORTS)})\b")
_CITY = re.compile(rf"\b(?:{'|'.join((*AIRPORTS.values(), *_CITY_WORDS))})\b", re.I)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DATES = (
    re.compile(rf"\b{_MONTH}\.?\s+(?:the\s+)?(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\b(?!:)", re.I),
    re.compile(rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\b", re.I),
    re.compile(r"\b(?:19|20)\d\d-(?P<month>\d\d)-(?P<day>\d\d)\b"),
    re.compile(r"(?<![\d/.$])(?P<month>\d{1,2})/(?P<day>\d{1,2})(?:/(?:\d\d){1,2})?(?![\d/])"),
)
_STREET = (
    r"(?:street|st|avenue|ave|road|rd|drive|dr|lane|ln|boulevard|blvd|court|ct|way|place|pl|"
    r"parkway|pkwy|terrace|circle|highway)"
)
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "user_id": re.compile(r"(?<![\w.])([a-z]+(?:_[a-z]+)+_\d{4})(?!\w)", re.I),
    "email": re.compile(r"(?<![\w.+-])([\w.+-]+@[\w-]+(?:\.[\w-]+)+)", re.I),
    "order_id": re.compile(r"(?<![\w$.,])#?\s?W?(\d{7})(?![\w]|[.,]\d)", re.I),
    "item_id": re.compile(r"(?<![\w$.,#])(\d{10})(?![\w]|[.,]\d)"),
    "payment_id": re.compile(r"\b((?:credit_card|gift_card|paypal|certificate)_\d{4,7})\b", re.I),
    "flight": re.compile(r"\b(HAT\s?-?\d{3})\b", re.I),
    "amount": re.compile(
        r"\$\s?(\d[\d,]*(?:\.\d\d?)?)|\b(\d[\d,]{0,15}(?:\.\d\d?)?)\s?(?:dollars|bucks|usd)\b", re.I
    ),
    "address": re.compile(rf"(?<![\w$#-])(\d{{1,5}}\s+(?:[A-Z][a-z]+\s+){{1,3}}?)(?i:{_STREET})\b"),
    "card": re.compile(
        r"(?:ending|ends|end)\s+(?:in|with|on)\s+(\d{4})(?!\d)|\b(\d{4})\s+(?:card|visa|master)"
        r"|last\s+(?:four|4)(?:\s+digits)?(?:\s+(?:is|are|being))?:?\s+(\d{4})(?!\d)",
        re.I,
    ),
}
# Five digits that are no amount, no part of a number and no house number.
_ZIP = re.compile(
    rf"(?<![\w$#.,/-])(\d{{5}})(?![\w/]|[.,]\d|\s+(?:[A-Z][a-z]+\s+){{1,3}}(?i:{_STREET})\b)"
)
_RESERVATION = re.compile(r"(?<![\w#$.@-])((?=[A-Z\d]*\d)(?=[A-Z\d]*[A-Z])[A-Z\d]{6})(?![\w@-])")
_RESERVATION_BY_WORD = re.compile(
    r"(?:reservations?|confirmation|booking)(?:\s+(?i:ids?|number|code|no\.?))?\s*"
    r"(?:(?i:is|are|of|:|#|named)\s*)?\(?['\"]?([A-Z]{6})(?![\w-])"
)
"""A code without a digit, where the words before it say what it is."""


_DIGIT = re.compile(r"\d")
_NEEDED: dict[Kind, re.Pattern[str] | None] = {
    "email": re.compile("@"),
    "user_id": re.compile(r"_\d"),
    "payment_id": re.compile(r"_\d"),
    "reservation_id": None,
    "airport": None,
}
"""What a text has to hold for a kind, found fast; a digit where none is named."""


def find_values(kind: Kind, text: str) -> set[str]:
    """Return the values of a kind in a text. Names and items depend on the task."""
    needed = _NEEDED.get(kind, _DIGIT)
    if needed is not None and needed.search(text) is None:
        return set()
    finder = _FINDERS.get(kind)
    if finder is not None:
        return set(finder(text))
    pattern = _PATTERNS[kind]
    found = (next(group for group in match.groups() if group) for match in pattern.finditer(text))
    return {_normalise(kind, value) for value in found}


def _normalise(kind: Kind, value: str) -> str:
    value = value.strip().rstrip(".")
    if kind == "flight":
        return re.sub(r"[\s-]", "", value).upper()
    if kind == "amount":
        number = float(value.replace(",", ""))
        return f"{number:.0f}" if number.is_integer() else f"{number:.2f}"
    if kind == "address":
        return " ".join(value.lower().split())
    return value.lower() if kind in ("user_id", "email", "payment_id") else value


def _find_zips(text: str) -> Iterator[str]:
    yield from (match[1] for match in _ZIP.finditer(text))


def _find_reservations(text: str) -> Iterator[str]:
    for pattern in (_RESERVATION, _RESERVATION_BY_WORD):
        for match in pattern.finditer(text):
            code = match[1]
            if not re.fullmatch(r"HAT\d{3}", code):
                yield code


def _find_dates(text: str) -> Iterator[str]:
    for pattern in _DATES:
        for match in pattern.finditer(text):
            month = match["month"]
            if month in ("may", "march", "mar"):
                continue  # verbs, as likely as months without a capital
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
            day = int(match["day"])
            if 1 <= number <= 12 and 1 <= day <= 31:
                yield f"{number:02d}-{day:02d}"


def _find_airports(text: str) -> Iterator[str]:
    yield from (AIRPORTS[code] for code in find_airport_codes(text))
    for match in _CITY.finditer(text):
        city = match[0].lower()
        yield _CITY_WORDS.get(city, city)


def find_airport_codes(text: str) -> set[str]:
    """Return the airports that a text names by code."""
    return set(_CODE.findall(text))


_FINDERS: dict[Kind, Callable[[str], Iterator[str]]] = {
    "zip": _find_zips,
    "reservation_id": _find_reservations,
    "date": _find_dates,
    "airport": _find_airports,
}


def to_day_of_year(date: str) -> int:
    """Return the day of '05-20', of 31-day months: enough to say whether two dates are near."""
    month, day = date.split("-")
    return int(month) * 31 + int(day)


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
_IDS = re.compile(r"(?<!\S)\S+@\S+|\b\w[^\W_]*_\w+_\d{4}\b")
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


def extract_facts(task: Task) -> TaskFacts:
    """Return the facts of a task."""
    return _extract_facts(
        task.env,
        task.user_id,
        task.instruction,
        json.dumps([action.arguments for action in task.actions], sort_keys=True, default=str),
    )


@cache
def _extract_facts(env: str, user_id: str, instruction: str, truth: str) -> TaskFacts:
    told = set(extract_values(env, instruction))
    known = told | set(extract_values(env, truth))
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
        told |= {("item", word) for word in find_items(instruction)}
    return TaskFacts(frozenset(told), frozenset(known), own)


def extract_values(env: str, text: str) -> Iterable[Value]:
    """Return every value with a form of its own in a text."""
    for kind in KINDS.get(env, ()):
        for value in find_values(kind, text):
            yield kind, value


def is_conveyed(fact: Value, text: str) -> bool:
    """Return whether a user's words hold a fact, in whatever context."""
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
        return value in find_values(kind, text)
    # Ids by their characters alone: a "W" or "#" more or less, or dashes around, are no matter.
    return re.search(rf"(?<![0-9]){re.escape(value)}(?![0-9])", text, re.I) is not None


def is_known(value: Value, known: Collection[Value]) -> bool:
    """Return whether a value that the user said stands among what it may know."""
    if value in known:
        return True
    kind, text = value
    if kind != "date":
        return False
    day = to_day_of_year(text)
    return any(
        abs(to_day_of_year(other) - day) <= DATE_SLACK_DAYS
        for each, other in known
        if each == "date"
    )


def find_other_names(text: str, own: str) -> set[str]:
    """Return the names under which the user presents itself that are not its own."""
    said = {f"{first} {last}".lower() for first, last in _NAME_SAID.findall(text)}
    return {name for name in said if name != own}


def _has_name(text: str, name: str) -> bool:
    bare = _IDS.sub(" ", text)
    return all(re.search(rf"\b{re.escape(part)}\b", bare, re.I) for part in name.split())


def find_items(instruction: str) -> set[str]:
    """Return the kinds of product that an instruction names, by the word that a user would use."""
    found = set()
    for name in read_products():
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
def read_products() -> tuple[str, ...]:
    """Return the names of the shop's products, read from the installed benchmark; none without
    one."""
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
