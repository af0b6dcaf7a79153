"""What an endpoint says of its rate limits, in its headers and its words. Pure.

Providers and gateways each have forms of their own: OpenAI's, Groq's and Azure's
`x-ratelimit-remaining-requests` with resets such as 6m0s, Anthropic's
`anthropic-ratelimit-requests-remaining` with dates, Envoy's and Kong's `x-ratelimit-remaining` and
`ratelimit-remaining` with seconds, OpenRouter's with milliseconds since 1970. Google says in words
alone how long to wait. The names of headers are in small letters here.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from emobench.llm.refusals import is_account_empty

RATE_LIMITED = (429, 529)
"""Too many requests, and Anthropic's word for an overload."""
UNAVAILABLE = 503
"""A matter of time as well where the server says how much."""
RESET_S = 60.0
"""A reset without a wait says when all of the allowance is back, and some of it is back before."""
LONGEST = 60
"""Characters of a number, duration or date."""

_FORM = re.compile(r"(?:x-|anthropic-)?ratelimit-(.+)")
_FIELD = re.compile(r"(?:^|-)(limit|remaining|reset)(?:-|$)")
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)(?:\s*[,;].*)?\s*", re.ASCII)
"""Envoy adds the windows: `10, 10;w=60`."""
_UNIT = r"(?:ms|milliseconds?|s|sec(?:ond)?s?|m|min(?:ute)?s?|h|hours?|d|days?)(?![a-z])"
_PART = rf"\d+(?:\.\d+)?\s*{_UNIT}"
_DURATION = re.compile(rf"(?:{_PART}\s*)+", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})", re.ASCII | re.IGNORECASE)
_ASKED = re.compile(
    rf'(?:(?:try again|retry(?:ing)?)\s+(?:in|after)|"retryDelay"\s*:\s*")\s*((?:{_PART}\s*)+)',
    re.ASCII | re.IGNORECASE,
)
_SECONDS = {"ms": 0.001, "mi": 60.0, "m": 60.0, "s": 1.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True)
class Busy:
    """An endpoint has had too many requests, and takes this one later."""

    wait_s: float | None
    """What it asks to be left alone for; None: it does not say."""


@dataclass(frozen=True)
class Allowance:
    """What is left of the scarcest limit of an endpoint."""

    left: float
    """Its share, 0 to 1."""
    reset_s: float | None
    """Until it is whole again; None: not said."""


def read_busy(status: int, headers: Mapping[str, str], words: str, now_s: float) -> Busy | None:
    """Return that the endpoint is busy, where its answer says that time will heal it.

    `words` are all of the answer's body, `now_s` seconds since 1970. An account without money or
    credit answers 429 as well, and is no rate limit.
    """
    if status not in (*RATE_LIMITED, UNAVAILABLE) or headers.get("x-should-retry") == "false":
        return None
    wait_s = _read_wait(headers, words, now_s)
    if status == UNAVAILABLE:
        return None if wait_s is None else Busy(wait_s)
    if is_account_empty(words, will_heal=wait_s is not None):
        return None
    if wait_s is None:
        spent = [each for each in _list_allowances(headers, now_s) if not each.left]
        resets = [each.reset_s for each in spent if each.reset_s is not None]
        wait_s = min(max(resets), RESET_S) if resets else None
    return Busy(wait_s)


def read_allowance(headers: Mapping[str, str], now_s: float) -> Allowance | None:
    """Return what is left of the scarcest limit; None where the headers name none."""
    return min(_list_allowances(headers, now_s), key=lambda each: each.left, default=None)


def _read_wait(headers: Mapping[str, str], words: str, now_s: float) -> float | None:
    """Return the seconds that the endpoint asks to wait, the longest where it says several."""
    waits = [_parse_wait(headers.get("retry-after", ""), _read_clock(headers, now_s))]
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        wait_ms = _parse_number(headers.get(name, ""))
        waits.append(None if wait_ms is None else wait_ms / 1000)
    asked = _ASKED.search(words)
    waits.append(_parse_duration(asked[1]) if asked else None)
    return max((wait for wait in waits if wait is not None), default=None)


def _list_allowances(headers: Mapping[str, str], now_s: float) -> Iterator[Allowance]:
    limits: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, value in headers.items():
        if form := _FORM.fullmatch(name):
            field = _FIELD.search(form[1])
            if field:  # Anthropic names what is limited before the field, others after it
                limits[_FIELD.sub("", form[1])][field[1]] = value
    clock_s = _read_clock(headers, now_s)
    for said in limits.values():
        left, whole = _parse_number(said.get("remaining", "")), _parse_number(said.get("limit", ""))
        if left is not None and (whole or not left):
            share = min(left / whole, 1.0) if whole else 0.0
            yield Allowance(share, _parse_wait(said.get("reset", ""), clock_s))


def _read_clock(headers: Mapping[str, str], now_s: float) -> float:
    """Return the time by the server's own clock, where it says it: dates are meant by that."""
    return _parse_date(headers.get("date", "")) or now_s


def _parse_wait(text: str, now_s: float) -> float | None:
    """Return the seconds of a number, a duration such as 6m0s, or until a date or a time since
    1970 in seconds or milliseconds; at least 0."""
    number = _parse_number(text)
    if number is not None:
        until_s = number / 1000 if number > 1e11 else number
        return max(0.0, until_s - now_s) if until_s > 1e9 else number
    if (duration_s := _parse_duration(text)) is not None:
        return duration_s
    date_s = _parse_date(text)
    return None if date_s is None else max(0.0, date_s - now_s)


def _parse_number(text: str) -> float | None:
    found = _NUMBER.fullmatch(text)
    return float(found[1]) if found and len(text) <= LONGEST else None


def _parse_duration(text: str) -> float | None:
    if len(text) > LONGEST or not _DURATION.fullmatch(text.strip()):
        return None
    return math.fsum(
        float(number) * (_SECONDS.get(unit[:2].lower()) or _SECONDS[unit[0].lower()])
        for number, unit in _PARTS.findall(text)
    )


def _parse_date(text: str) -> float | None:
    """Return seconds since 1970 of an HTTP date or of one by RFC 3339."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(ValueError, TypeError, OverflowError, IndexError):
            date = parse(text[:LONGEST].strip())
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return None
