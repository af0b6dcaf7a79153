"""The few shapes that policies read and write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""One chat message as it came over the wire: a string `role`, `content` in any legal form."""


@dataclass(frozen=True)
class ToolCall:
    """One call; `arguments` is JSON text, as on the wire."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """The assistant message of a completion."""

    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"


def text_of(message: Message) -> str:
    """The message's text; parts that are no text are left out."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(text for text in texts if isinstance(text, str))
    return ""


def system_text(messages: Sequence[Message]) -> str:
    """The leading system (or developer) prompt, or an empty string."""
    if messages and messages[0]["role"] in ("system", "developer"):
        return text_of(messages[0])
    return ""
