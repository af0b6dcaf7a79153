"""Whose matter a refused request is: the conversation's own content, or nothing of it.

Only what names the content of this one conversation is scored: its length, a tool call that the
model made up, a message without words, what a content filter stopped. All else (an empty account,
a model that the server does not know, a gateway's page) would meet every conversation, and is
missing data. Nothing here sends anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

INVALID = (400, 413, 422)
"""The server calls the request itself invalid."""

CONTEXT_WORDS = re.compile(
    r"context[ _](?:length|window|size|limit)|max(?:imum)?[ _](?:model[ _]len|context)"
    r"|(?:prompt|input|conversation) is too long|maximum (?:number of tokens|input length)"
    r"|reduce the length of|current length is \d+ while limit is",
    re.IGNORECASE,
)
"""A conversation is too long for the model, as servers and providers put it."""
_CALL = re.compile(
    r"(?:tool|function)[ _]calls?\b.{0,80}\barguments\b"
    r"|(?<!request )\barguments\b.{0,80}\b(?:tool|function)[ _]call"
    r"|(?:pars\w{1,20}|invalid|malformed)\W+(?:(?:the|a|model)\W+)*(?:tool|function)[ _]call\b"
    r"(?! ids?\b)"
    r"|tool call validation failed|failed_generation|tool_use_failed",
    re.IGNORECASE | re.DOTALL,
)
"""A tool call of the model's is wrong."""
_QUOTED_CALL = re.compile(
    r'\{\s*"name"\s*:\s*"([^"]+)"\s*,\s*"(?:arguments|parameters)"|<function=([\w.-]+)'
)
"""The name of a tool in a call that a server quotes."""
_NAMED = re.compile(
    r"(?:unknown|undefined|no such|invalid|nonexistent) (?:tool|function):? ['\"`]([\w.-]+)['\"`]"
    r"|call(?:ed)? (?:the )?(?:tool|function) ['\"`]([\w.-]+)['\"`]",
    re.IGNORECASE,
)
"""The name of a tool that a server says was called."""
_FILTER = re.compile(
    r"content[ _](?:filter|policy)|content management policy|responsibleaipolicy|safety system",
    re.IGNORECASE,
)
"""A content filter refused what was said."""
_BLANK = re.compile(
    r"\b(?:content|text)\b(?![ -]type).{0,60}\b(?:empty|blank|null|none|must|required|missing)\b"
    r"|\b(?:empty|blank|must have|at least one)\b.{0,60}\b(?:content|text)\b",
    re.IGNORECASE | re.DOTALL,
)
"""A message has no words, which most servers call a matter of its content."""

_EMPTY_ACCOUNT = re.compile(
    r"insufficient[ _](?:quota|balance|funds|credits?)|credit balance is too low"
    r"|out of credits?\b|credits? (?:is|are|has been|have been) (?:depleted|exhausted)"
    r"|(?:billing(?:[ _]hard)?|spend(?:ing)?)[ _]limit|budget[ _](?:has been )?exceeded"
    # Google, of a model that the account has no quota for at all.
    r"|\blimit: 0\b",
    re.IGNORECASE,
)
"""Money or credit is lacking, which no waiting brings."""
_QUOTA_EXCEEDED = re.compile(r"exceeded your (?:current )?quota", re.IGNORECASE)
"""OpenAI of an empty account; Google of any limit, and then with a word on when to try again."""


def is_account_empty(words: str, *, will_heal: bool) -> bool:
    """Return whether a server that has had too many requests says that it wants money.

    `words` are all of its answer; `will_heal`: it also says when to try again.
    """
    if _EMPTY_ACCOUNT.search(words):
        return True
    return not will_heal and _QUOTA_EXCEEDED.search(words) is not None


def is_context_overflow(status: int, words: str) -> bool:
    """Return whether a server refuses a conversation because it is too long for the model."""
    return status in INVALID and CONTEXT_WORDS.search(words) is not None


def is_of_content(status: int, words: str, request: Mapping[str, Any]) -> bool:
    """Return whether a server that calls a request invalid names what this conversation holds.

    Only a request that offers tools, which no user's does, can fail by a tool call.
    """
    if status not in INVALID:
        return False
    # A tool's answer is nobody's words: tau-bench's `think` answers with nothing.
    blank = any(is_blank(each) for each in request["messages"] if each["role"] != "tool")
    if _FILTER.search(words) or (blank and "<html" not in words and _BLANK.search(words)):
        return True
    offered = _list_offered_tools(request)
    named = [*_find_names(_QUOTED_CALL, words), *_find_names(_NAMED, words)]
    wrong_call = _CALL.search(words) or not offered.issuperset(named)
    return bool(offered and wrong_call)


def is_blank(message: Mapping[str, Any]) -> bool:
    """Return whether a message has neither words nor a tool call."""
    return not message.get("tool_calls") and not str(message.get("content") or "").strip()


def has_made_up_call(request: Mapping[str, Any], words: str) -> bool:
    """Return whether the agent called a tool that it was not offered: in its newest message, or in
    the reply that the server quotes. Of earlier messages the server has thought nothing wrong, and
    a function that it names without a word of tool calls may be its own."""
    offered = _list_offered_tools(request)
    named = _find_names(_NAMED, words) if _CALL.search(words) else ()
    called = [*_list_last_called(request), *_find_names(_QUOTED_CALL, words), *named]
    return bool(offered) and not offered.issuperset(called)


def remove_calls(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the beginning of the conversation without tools, which a server that works answers."""
    kept = {key: value for key, value in request.items() if not key.startswith("tool")}
    return {**kept, "messages": request["messages"][:2]}


def _list_offered_tools(request: Mapping[str, Any]) -> set[str]:
    return {tool["function"]["name"] for tool in request.get("tools") or ()}


def _list_last_called(request: Mapping[str, Any]) -> list[str]:
    for message in reversed(request["messages"]):
        if message["role"] == "assistant":
            return [call["function"]["name"] for call in message.get("tool_calls") or ()]
    return []


def _find_names(names: re.Pattern[str], words: str) -> Iterator[str]:
    for match in names.finditer(words):
        yield match[match.lastindex or 0]
