"""Values of the benchmark's kinds in a text, each in one spelling.

Only kinds whose form is unmistakable are found; a pattern rather misses a value than invents one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal

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
        r"\$\s?(\d[\d,]*(?:\.\d\d?)?)|\b(\d[\d,]*(?:\.\d\d?)?)\s?(?:dollars|bucks|usd)\b", re.I
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
    r"(?:(?i:is|are|of|:|#|named)\s*)?\s*\(?['\"]?([A-Z]{6})(?![\w-])"
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


def find(kind: Kind, text: str) -> set[str]:
    """The values of a kind in a text. Names and items depend on the task: see `facts`."""
    needed = _NEEDED.get(kind, _DIGIT)
    if needed is not None and needed.search(text) is None:
        return set()
    finder = _FINDERS.get(kind)
    if finder is not None:
        return set(finder(text))
    pattern = _PATTERNS[kind]
    found = (next(group for group in match.groups() if group) for match in pattern.finditer(text))
    return {_plain(kind, value) for value in found}


def _plain(kind: Kind, value: str) -> str:
    value = value.strip().rstrip(".")
    if kind == "flight":
        return re.sub(r"[\s-]", "", value).upper()
    if kind == "amount":
        number = float(value.replace(",", ""))
        return f"{number:.0f}" if number.is_integer() else f"{number:.2f}"
    if kind == "address":
        return " ".join(value.lower().split())
    return value.lower() if kind in ("user_id", "email", "payment_id") else value


def _zips(text: str) -> Iterator[str]:
    yield from (match[1] for match in _ZIP.finditer(text))


def _reservations(text: str) -> Iterator[str]:
    for pattern in (_RESERVATION, _RESERVATION_BY_WORD):
        for match in pattern.finditer(text):
            code = match[1]
            if not re.fullmatch(r"HAT\d{3}", code):
                yield code


def _dates(text: str) -> Iterator[str]:
    for pattern in _DATES:
        for match in pattern.finditer(text):
            month = match["month"]
            if month in ("may", "march", "mar"):
                continue  # verbs, as likely as months without a capital
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
            day = int(match["day"])
            if 1 <= number <= 12 and 1 <= day <= 31:
                yield f"{number:02d}-{day:02d}"


def _airports(text: str) -> Iterator[str]:
    yield from (AIRPORTS[code] for code in airport_codes(text))
    for match in _CITY.finditer(text):
        city = match[0].lower()
        yield _CITY_WORDS.get(city, city)


def airport_codes(text: str) -> set[str]:
    """The airports that a text names by code."""
    return set(_CODE.findall(text))


_FINDERS: dict[Kind, Callable[[str], Iterator[str]]] = {
    "zip": _zips,
    "reservation_id": _reservations,
    "date": _dates,
    "airport": _airports,
}


def day_of_year(date: str) -> int:
    """'05-20' as a day, of 31-day months: enough to say whether two dates are near."""
    month, day = date.split("-")
    return int(month) * 31 + int(day)
