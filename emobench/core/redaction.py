"""Keys are taken out of what comes from outside: before it is cut, stored or shown.

Endpoints repeat the key that they were sent, and set-up lines print the environment. Whoever reads
a key says so (`hide`), and from then on this process takes it out of every answer of an endpoint,
every error of litellm and every line that an engine or a set-up line prints.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urlsplit

HIDDEN = "[key]"
_SECRET = re.compile(r".{16,}|(?!\d+$|[^\W\d_]+$)(?:.{8,}|(?=.*\d).{6,})", re.DOTALL)
"""What is shorter, a word ("anything", "EMPTY") or a number is no secret: any text may have it."""
SHORTEST_PART = 12
"""Characters of a part of a key that is taken for one; it has half of the key at least."""

_SECRET_NAME = re.compile(
    r"(?:^|[-_.]|access|auth|client)(?:(?:api)?key|token|secret)$|pass(?:w(?:or)?d|phrase)$"
    r"|(?:^|[-_.])(?:pass|pat|credentials?)$",
    re.IGNORECASE,
)
_SECRET_IN_QUERY = re.compile(r"sig|signature|auth|code", re.IGNORECASE)
"""Names of parameters that hold a secret in an address, and elsewhere none."""
_ASSIGNMENT = re.compile(r"(?<![\w$-])([A-Za-z_]\w*)=(?:\"([^\"]*)\"|'([^']*)'|([^\s,;\"']*))")
_USER_IN_URL = re.compile(r"(\bhttps?://)[^/?#\s@\"']+@")
_PARAMETER_IN_URL = re.compile(r"([?&])([\w.-]+)=[^&#\s\"']+")
_BEARER = re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_KNOWN_FORMS = re.compile(r"\b(sk|hf)[-_][\w-]{16,}")

_keys: frozenset[str] = frozenset()
_forms: tuple[str, ...] = ()
"""The keys in all ways that they are written, the longest first."""


def hide(*secrets: str | None) -> None:
    """Have these taken out from now on, in this process."""
    global _keys, _forms
    new = {secret for secret in secrets if secret and _SECRET.fullmatch(secret)} - _keys
    if new:
        _keys |= new
        forms = {form for key in _keys for form in _list_spellings(key)}
        _forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def _list_spellings(key: str) -> set[str]:
    """Return a key as it is, in a URL, in base64, in JSON, and in the JSON of those who escape
    slashes."""
    escaped = json.dumps(key)[1:-1]
    coded = base64.b64encode(key.encode("utf-8", "surrogateescape")).decode()
    return {key, quote(key, safe=""), coded, escaped, escaped.replace("/", "\\/")}


def hide_password(url: str) -> None:
    """Have the password in an address taken out, or the name where it has no other."""
    with suppress(ValueError):
        parts = urlsplit(url)
        password = parts.password or parts.username or ""
        hide(password, unquote(password))


def hide_environment(environment: Mapping[str, str]) -> None:
    """Have the values of variables taken out that are named as keys, tokens or passwords are."""
    hide(
        *(
            value
            for name, value in environment.items()
            if names_secret(name) and not value.startswith("/")  # the path of a file
        )
    )


def names_secret(name: str) -> bool:
    """Return whether a variable, an option or a query's parameter of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def url_has_secret(url: str) -> bool:
    """Return whether an address holds a password, a name that stands for one, or a key behind
    it."""
    address, *behind = re.split(r"[?#;&]", url)
    scheme, separator, rest = address.partition("://")
    host = rest if separator else scheme
    names = (unquote(part.partition("=")[0]) for part in behind)
    return "@" in re.split(r"[/\\]", host)[0] or any(
        names_secret(name) or _SECRET_IN_QUERY.fullmatch(name) for name in names
    )


def find_secret_in_line(line: str) -> str:
    """Return the variable that a shell line, or an option such as `--env=NAME=VALUE`, gives a
    secret; empty where it gives none. What the shell is yet to fill in and a path are none."""
    for name, *quoted in _ASSIGNMENT.findall(line):
        value = "".join(quoted)
        if names_secret(name) and _SECRET.fullmatch(value) and value[0] not in "/~$`":
            return str(name)
    return ""


def redact_urls(text: str) -> str:
    """Return text in which no address has a name, a password or a key in its query: plans of
    earlier releases may hold some."""
    text = _USER_IN_URL.sub(rf"\g<1>{HIDDEN}@", text)
    return _PARAMETER_IN_URL.sub(
        lambda found: f"{found[1]}{found[2]}={HIDDEN}" if names_secret(found[2]) else found[0], text
    )


def redact(text: str) -> str:
    """Return the text without hidden keys, also where one was cut and half of it is left."""
    for form in _forms:
        text = text.replace(form, HIDDEN)
    for key in _keys:
        part = max(SHORTEST_PART, (len(key) + 1) // 2)
        if key[:part] in text:
            text = _remove_beginnings(text, key, part, HIDDEN)
        if key[-part:] in text:
            text = _remove_beginnings(text[::-1], key[::-1], part, HIDDEN[::-1])[::-1]
    return text


def redact_error(text: str) -> str:
    """Return an error's words without hidden keys, and without what looks like anybody's key."""
    text = _BEARER.sub(rf"\g<1>{HIDDEN}", redact(text))
    return _KNOWN_FORMS.sub(HIDDEN, text)


def redact_values(value: Any) -> Any:
    """Return what JSON held without hidden keys in any of its texts."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact(name): redact_values(each) for name, each in value.items()}
    return [redact_values(each) for each in value] if isinstance(value, list) else value


def _remove_beginnings(text: str, key: str, part: int, hidden: str) -> str:
    """Return the text without beginnings of the key that have `part` characters or more."""
    kept, start = [], 0
    while (at := text.find(key[:part], start)) >= 0:
        kept += [text[start:at], hidden]
        start = at + part
        while start - at < len(key) and text.startswith(key[start - at], start):
            start += 1
    return "".join([*kept, text[start:]])
