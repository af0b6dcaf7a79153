"""What a field accepts, in plain words."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from emobench.core.errors import list_names
from emobench.core.fields import Accepts, OneOrMany

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": (
        "a name of at most 64 letters, digits, '.', '_' and '-' that starts with a letter or digit"
    ),
    r"^[^\r\n\"'\\`$]+$": "one line of text without quotes, backslash, backtick and $",
    r"^-[^\r\n\"'\\`$]+$": (
        "an option on one line, such as --mail-type=FAIL, without quotes, backslash, backtick and $"
    ),
    r"^[^\r\n]+$": "one line of text",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of an environment variable (letters, digits and '_')",
    r"^https?://[^\s]+$": "an address that starts with http:// or https://",
    r"^[0-9]+\.[0-9]+\.[0-9]+\S*$": "a version with its three numbers, e.g. 0.11.2",
    r"^[0-9]+[KMGT]?$": "a number with K, M, G or T, e.g. 8G",
    r"^([0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}|UNLIMITED)$": (
        "minutes, HH:MM:SS or D-HH:MM:SS"
    ),
    r"\S": "text, not empty (control is the variant without one)",
}


def list_members(annotation: Any) -> list[Any]:
    """Return the types that a type may stand for, without None and without metadata."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return list_members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in list_members(part)]
    return [] if annotation is type(None) else [annotation]


def describe_expected(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return what a field of this type and metadata accepts, e.g. 'a number from 0 to 2'."""
    metadata = list(metadata)
    for item in metadata:
        if isinstance(item, Accepts):
            return item.words
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return describe_expected(inner, [*metadata, *more])
    if origin is Literal:
        return list_names(get_args(annotation))
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return " or ".join(describe_expected(kind, metadata) for kind in kinds)
    if origin is tuple:
        item = describe_expected(get_args(annotation)[0])
        alone = any(isinstance(entry, OneOrMany) for entry in metadata)
        return f"{item}; or a list" if alone else f"a list of: {item}"
    if origin is dict:
        return f"a mapping of names to: {describe_expected(get_args(annotation)[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {list_names(annotation.model_fields)}"
    return _describe_plain(annotation, metadata)


def _describe_plain(annotation: Any, metadata: list[Any]) -> str:
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
        return ("a whole number" if annotation is int else "a number") + _describe_range(limits)
    if "pattern" in limits:
        return PATTERNS[limits["pattern"]]
    return "text, not empty" if limits.get("min_length") else "text"


def _describe_range(limits: dict[str, Any]) -> str:
    low = f"{limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    if "le" in limits or "lt" in limits:
        high = f"{limits['le']}" if "le" in limits else f"below {limits['lt']}"
        if "ge" in limits and "le" in limits:
            return f" from {low} to {high}"
        return f" from {low} to {high}" if "ge" in limits else f", {low} and up to {high}"
    return (f" of at least {low}" if "ge" in limits else f" {low}") if low else ""
