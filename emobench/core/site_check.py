"""One finding about a site: what was looked at, how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    name: str
    """What was looked at; a key of the profile where it is one."""
    state: State
    message: str
    hint: str = ""
    """What to do; empty where nothing is to be done."""


def ok(name: str, message: str) -> Check:
    return Check(name, "ok", message)


def warning(name: str, message: str, hint: str = "") -> Check:
    """Return the check of what may work all the same."""
    return Check(name, "warning", message, hint)


def failed(name: str, message: str, hint: str = "") -> Check:
    """Return the check of what keeps a sweep from running."""
    return Check(name, "failed", message, hint)


def skipped(name: str, message: str) -> Check:
    """Return the check of what could not be looked at, for the reason given."""
    return Check(name, "skipped", message)
