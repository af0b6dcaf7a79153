"""An HTTP answer as a model's reply, and what is wrong with it. Nothing here sends anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emobench.llm.client import Answer
from emobench.llm.reasoning import sanitize
from emobench.llm.transport import CONTEXT_WORDS

Kind = Literal[
    "called",
    "text",
    "call_as_text",
    "bad_json",
    "bad_schema",
    "unknown_tool",
    "empty",
    "only_reasoning",
    "cut",
    "long",
    "key",
    "no_model",
    "context",
    "refused",
    "server_error",
]

_SILENCE: Mapping[str, Kind] = {"": "only_reasoning", "limit": "cut", "probe": "long"}
MARKUP = re.compile(
    r"</?tool_calls?\b|</?function(?:_call|=)|<\|tool_call|<\|python_tag\|>|\[TOOL_CALLS\]"
    r"|<\|channel\|>|<\uff5ctool|<\|tool_calls_section|\bfunctions\.\w+\s*[:({]",
    re.IGNORECASE,
)
"""How models write tool calls where no parser takes them out."""


@dataclass(frozen=True)
class Seen:
    """What came back for one chat call."""

    status: int
    error: str = ""
    """The server's words, without the key; empty with status 200."""
    content: str = ""
    reasoning: bool = False
    """The reply has a reasoning field with something in it."""
    calls: tuple[tuple[str, str], ...] = ()
    """(name, arguments as they came) of each tool call."""
    cut: Literal["", "limit", "probe"] = ""
    """Ended by a limit of tokens; "probe": by one that only the probe sets."""


def read(answer: Answer, key: str | None, limit: int | None = None) -> Seen:
    """An answer of /chat/completions, whatever it holds. `limit` is the probe's own max_tokens."""
    if answer.status != 200:
        error = " ".join(answer.error().split())
        return Seen(answer.status, error.replace(key, "[key]") if key else error)
    try:
        data = answer.json()
        choice = data["choices"][0]
        message = choice["message"]
        content = message.get("content")
        calls = [call["function"] for call in message.get("tool_calls") or []]
        named = tuple((str(call["name"]), _text(call.get("arguments"))) for call in calls)
    except (TypeError, KeyError, IndexError, AttributeError):
        return Seen(500, f"no chat completion: {shorten(answer.body.decode('utf-8', 'replace'))}")
    if isinstance(content, list):  # some servers send text in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    cut: Literal["", "limit", "probe"] = ""
    if choice.get("finish_reason") == "length":
        used = usage(data)[1]
        cut = "probe" if limit and (used is None or used >= limit) else "limit"
    return Seen(200, "", str(content or ""), bool(reasoning), named, cut)


def usage(data: dict[str, Any]) -> tuple[int | None, int | None]:
    """Prompt and completion tokens, where the server counts them."""
    given = data.get("usage")
    counts = given if isinstance(given, dict) else {}
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return (
        prompt if isinstance(prompt, int) else None,
        completion if isinstance(completion, int) else None,
    )


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


@dataclass(frozen=True)
class Step:
    """What a reply came to where a tool call was wanted."""

    kind: Kind
    seen: str
    calls: int = 0
    think: tuple[str, ...] = ()
    """Forms of reasoning markup in its text."""


def as_step(seen: Seen, tools: Sequence[Mapping[str, Any]]) -> Step:
    """Judge a reply in a situation that asks for a tool call."""
    if seen.status != 200:
        return Step(_failure(seen), f"HTTP {seen.status}: {shorten(seen.error, 200)}")
    cleaned = sanitize(seen.content)
    kind, said = _called(seen, tools) if seen.calls else _spoken(seen, tools)
    return Step(kind, said, len(seen.calls), cleaned.forms)


def _failure(seen: Seen) -> Kind:
    if seen.status in (401, 403):
        return "key"
    if seen.status == 404:
        return "no_model"
    if seen.status in (400, 413, 422):
        return "context" if CONTEXT_WORDS.search(seen.error) else "refused"
    return "server_error" if seen.status >= 500 or seen.status == 429 else "refused"


def _called(seen: Seen, tools: Sequence[Mapping[str, Any]]) -> tuple[Kind, str]:
    """The first call, which is the one that tau-bench executes."""
    name, arguments = seen.calls[0]
    said = shorten(f"{name}({arguments})")
    function = next((t["function"] for t in tools if t["function"]["name"] == name), None)
    if function is None:
        return "unknown_tool", said
    try:
        values = json.loads(arguments)
    except ValueError:
        return "bad_json", said + (" (cut by the limit of tokens)" if seen.cut else "")
    wrong = misfit(values, function.get("parameters") or {})
    return ("bad_schema", f"{said}: {wrong}") if wrong else ("called", said)


def misfit(values: Any, schema: Mapping[str, Any]) -> str:
    """How arguments fail their tool's JSON schema; empty where they fit."""
    import jsonschema

    if not isinstance(values, dict):
        return f"the arguments are {type(values).__name__}, not an object"
    # The benchmark's schemas allow further names; its tools raise TypeError for them.
    strange = [name for name in values if name not in schema.get("properties", {})]
    if strange:
        return f"no such argument: {', '.join(map(shorten, strange[:3]))}"
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(values), None)
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path))
    return shorten(f"{place}: {error.message}" if place else error.message)


def _spoken(seen: Seen, tools: Sequence[Mapping[str, Any]]) -> tuple[Kind, str]:
    text = sanitize(seen.content).text
    if looks_like_call(text, (tool["function"]["name"] for tool in tools)):
        return "call_as_text", quoted(text)
    return unspoken(seen) or ("text", quoted(text))


def unspoken(seen: Seen) -> tuple[Kind, str] | None:
    """Why a reply without tool calls has no words for anybody; None where it has."""
    text = seen.content.strip()
    cleaned = sanitize(text)
    if cleaned.text and not (seen.cut and cleaned.forms):
        return None
    kind = _SILENCE[seen.cut]
    limit = ", cut by the limit of tokens" if seen.cut else ""
    if cleaned.emptied:
        return kind, f"reasoning only{limit}: {quoted(text)}"
    if seen.reasoning:
        return kind, f"a reasoning field and no text{limit}"
    return kind if seen.cut else "empty", f"neither text nor a tool call{limit}"


def looks_like_call(text: str, names: Iterable[str]) -> bool:
    """Whether a tool call stands in the text, which a parser should have taken out of it."""
    if MARKUP.search(text):
        return True
    for name in map(re.escape, names):
        if re.search(rf"\b{name}\s*\(\s*(?:\w+\s*=|\{{)", text):
            return True
        # The name's key and the arguments' key stand close to each other, in either order.
        keyed = rf'"(?:name|function|tool|action)"\s*:\s*"{name}"'
        if re.search(keyed, text) and re.search(r'"(?:arguments|parameters|args|input)"', text):
            return True
    return False


def shorten(text: str, length: int = 140) -> str:
    """On one line, and no longer than that."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def quoted(text: str) -> str:
    return f'"{shorten(text)}"'
