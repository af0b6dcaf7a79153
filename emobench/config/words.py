"""What a field accepts, in plain words, and what was found instead."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": (
        "a name of at most 64 letters, digits, '.', '_' and '-' that starts with a letter or digit"
    ),
    r"^[^\r\n\"'\\`$]+$": "one line of text without quotes, backslash, ` and $",
    r"^[^\r\n]+$": "one line of text",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of an environment variable (letters, digits and '_')",
    r"^https?://[^\s]+$": "an address that starts with http:// or https://",
}


def show(value: object) -> str:
    """A value from a file, short enough for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return str(value)


def listing(names: Iterable[object], limit: int = 30) -> str:
    """Names with commas; the end of a long list is counted instead."""
    every = [str(name) for name in names]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more


def expected(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field of this type and these constraints accepts, e.g. 'a number from 0 to 2'."""
    metadata = list(metadata)
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return expected(inner, [*metadata, *more])
    if origin is Literal:
        return listing(get_args(annotation))
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join(expected(kind, metadata) for kind in kinds)
    if origin is tuple:
        return f"a list of: {expected(get_args(annotation)[0])}"
    if origin is dict:
        return f"a mapping of names to: {expected(get_args(annotation)[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {listing(annotation.model_fields)}"
    return _plain(annotation, metadata)


def _plain(annotation: Any, metadata: list[Any]) -> str:
    limits: dict[str, Any] = {}
    # Field(...) inside Annotated keeps its constraints in a list of its own.
    for item in [part for entry in metadata for part in getattr(entry, "metadata", [entry])]:
        for name in ("ge", "gt", "le", "lt", "min_length", "pattern"):
            if getattr(item, name, None) is not None:
                limits[name] = getattr(item, name)
    if annotation is bool:
        return "true or false"
    if annotation is int and "lt" in limits:
        limits["le"] = limits.pop("lt") - 1
    if annotation in (int, float):
        return (
            "a whole number" * (annotation is int)
            + "a number" * (annotation is float)
            + (_range(limits))
        )
    if "pattern" in limits:
        return PATTERNS[limits["pattern"]]
    return "text, not empty" if limits.get("min_length") else "text"


def _range(limits: dict[str, Any]) -> str:
    low = f"{limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    if "le" in limits or "lt" in limits:
        high = f"{limits['le']}" if "le" in limits else f"below {limits['lt']}"
        if "ge" in limits and "le" in limits:
            return f" from {low} to {high}"
        return f" from {low} to {high}" if "ge" in limits else f", {low} and up to {high}"
    return (f" of at least {low}" if "ge" in limits else f" {low}") if low else ""
