"""An HTTP answer as a model's reply, and what is wrong with it. Nothing here sends anything."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from emobench.core.redaction import redact_error
from emobench.llm.client import Answer
from emobench.llm.reasoning import sanitize
from emobench.llm.refusals import is_context_overflow

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

MOST_TOKENS = 100_000_000
"""Of one call: the longest contexts are of some ten millions."""
_SILENCE: Mapping[str, Kind] = {"": "only_reasoning", "limit": "cut", "probe": "long"}
MARKUP = re.compile(
    r"</?tool_calls?\b|</?function(?:_call|=)|<\|tool_call|<\|python_tag\|>|\[TOOL_CALLS\]"
    r"|<\|channel\|>|<\uff5ctool|<\|tool_calls_section|\bfunctions\.\w+\s*[:({]",
    re.IGNORECASE,
)
"""How models write tool calls where no parser takes them out."""


class NoCompletion(ValueError):
    """An answer with status 200 that is no chat completion."""

    def __init__(self, answer: Answer) -> None:
        text = shorten(redact_error(answer.decode()), 200)
        super().__init__(f"an answer that is no chat completion: {text}")


@dataclass(frozen=True)
class Completion:
    """A chat completion, as far as anybody here reads it."""

    content: str | None
    tool_calls: list[dict[str, Any]]
    finish_reason: str | None
    usage: dict[str, Any]
    reasoning: bool
    """The message has a reasoning field with something in it."""

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """Of the prompt and of the reply, where the server counts them."""
        return read_token_counts(self.usage)


def read_completion(answer: Answer) -> Completion:
    """Return the completion in an answer with status 200. Raises NoCompletion."""
    data = answer.json()
    try:
        choice = data["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        content, calls = message.get("content"), message.get("tool_calls") or []
        # A gateway whose own server failed half way says so beside what there is.
        failed = data.get("error") or choice.get("error")
        calls = [_read_tool_call(call, place) for place, call in enumerate(calls)]
    except (TypeError, KeyError, IndexError, AttributeError):
        raise NoCompletion(answer) from None
    if isinstance(content, list):  # some servers send text in parts
        if content and not any(isinstance(part, dict) for part in content):
            raise NoCompletion(answer)
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(text for text in parts if isinstance(text, str))
    if failed or not isinstance(content, str | None):
        raise NoCompletion(answer)
    usage = data.get("usage")
    return Completion(
        content=content,
        tool_calls=calls,
        finish_reason=reason if isinstance(reason, str) else None,
        usage=usage if isinstance(usage, dict) else {},
        reasoning=bool(message.get("reasoning") or message.get("reasoning_content")),
    )


def _read_tool_call(call: dict[str, Any], place: int) -> dict[str, Any]:
    """Return a tool call with all that an agent reads of it, filled in as litellm does. Raises
    TypeError or KeyError where it is none; what stands in the arguments is the model's own
    affair."""
    function = call["function"]
    name, arguments = function["name"], function.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, str | dict | None):
        raise TypeError
    if not isinstance(arguments, str):
        text = json.dumps(arguments) if arguments is not None else ""
        call = {**call, "function": {**function, "arguments": text}}
    return call if isinstance(call.get("id"), str) else {**call, "id": f"call_{place}"}


def read_token_counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the reply in OpenAI's `usage`, where they are counted."""
    return count_in(usage, "prompt_tokens"), count_in(usage, "completion_tokens")


def count_in(usage: Mapping[str, Any], kind: str) -> int | None:
    """One count of a `usage`; None where it is no number of tokens that a call could take."""
    value = usage.get(kind)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def read_error_words(text: str) -> str:
    """Return an error's words on one line, without keys."""
    return " ".join(redact_error(text).split())


@dataclass(frozen=True)
class ChatResult:
    """What came back for one chat call."""

    status: int
    error: str = ""
    """The server's words, without keys; empty with status 200."""
    content: str = ""
    reasoning: bool = False
    """The reply has a reasoning field with something in it."""
    calls: tuple[tuple[str, str], ...] = ()
    """(name, arguments as they came) of each tool call."""
    cut: Literal["", "limit", "probe"] = ""
    """Ended by a limit of tokens; "probe": by one that only the probe sets."""
    tokens: tuple[int | None, int | None] = (None, None)
    """Of the prompt and of the reply, where the server counts them."""


def read_result(answer: Answer, limit: int | None = None) -> ChatResult:
    """Return an answer of /chat/completions, whatever it holds. `limit` is the probe's own
    max_tokens."""
    if answer.status != 200:
        return ChatResult(answer.status, read_error_words(answer.describe_error()))
    try:
        said = read_completion(answer)
        calls = [call["function"] for call in said.tool_calls]
        named = tuple((call["name"], call["arguments"]) for call in calls)
    except NoCompletion as error:
        return ChatResult(500, read_error_words(str(error)))
    cut: Literal["", "limit", "probe"] = ""
    if said.finish_reason == "length":
        used = said.tokens[1]
        cut = "probe" if limit and (used is None or used >= limit) else "limit"
    return ChatResult(200, "", said.content or "", said.reasoning, named, cut, said.tokens)


@dataclass(frozen=True)
class Step:
    """What a reply came to where a tool call was wanted."""

    kind: Kind
    seen: str
    calls: int = 0
    think: tuple[str, ...] = ()
    """Forms of reasoning markup in its text."""


def judge_step(seen: ChatResult, tools: Sequence[Mapping[str, Any]]) -> Step:
    """Judge a reply in a situation that asks for a tool call."""
    if seen.status != 200:
        return Step(_describe_failure(seen), f"HTTP {seen.status}: {shorten(seen.error, 200)}")
    cleaned = sanitize(seen.content)
    kind, said = _judge_call(seen, tools) if seen.calls else _judge_words(seen, tools)
    return Step(kind, said, len(seen.calls), cleaned.forms)


def _describe_failure(seen: ChatResult) -> Kind:
    if seen.status in (401, 403):
        return "key"
    if seen.status == 404:
        return "no_model"
    if is_context_overflow(seen.status, seen.error):
        return "context"
    return "server_error" if seen.status >= 500 or seen.status == 429 else "refused"


def _judge_call(seen: ChatResult, tools: Sequence[Mapping[str, Any]]) -> tuple[Kind, str]:
    """Return the first call, which is the one that tau-bench executes."""
    name, arguments = seen.calls[0]
    said = shorten(f"{name}({arguments})")
    function = next((t["function"] for t in tools if t["function"]["name"] == name), None)
    if function is None:
        return "unknown_tool", said
    try:
        values = json.loads(arguments)
    except (ValueError, RecursionError):
        return "bad_json", said + (" (cut by the limit of tokens)" if seen.cut else "")
    wrong = describe_schema_error(values, function.get("parameters") or {})
    return ("bad_schema", f"{said}: {wrong}") if wrong else ("called", said)


def describe_schema_error(values: Any, schema: Mapping[str, Any]) -> str:
    """Return how arguments fail their tool's JSON schema; empty where they fit."""
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


def _judge_words(seen: ChatResult, tools: Sequence[Mapping[str, Any]]) -> tuple[Kind, str]:
    text = sanitize(seen.content).text
    if holds_call(text, (tool["function"]["name"] for tool in tools)):
        return "call_as_text", quote(text)
    return describe_silence(seen) or ("text", quote(text))


def describe_silence(seen: ChatResult) -> tuple[Kind, str] | None:
    """Return why a reply without tool calls has no words for anybody; None where it has."""
    text = seen.content.strip()
    cleaned = sanitize(text)
    if cleaned.text and not (seen.cut and cleaned.forms):
        return None
    kind = _SILENCE[seen.cut]
    limit = ", cut by the limit of tokens" if seen.cut else ""
    if cleaned.emptied:
        return kind, f"reasoning only{limit}: {quote(text)}"
    if seen.reasoning:
        return kind, f"a reasoning field and no text{limit}"
    return kind if seen.cut else "empty", f"neither text nor a tool call{limit}"


def holds_call(text: str, names: Iterable[str]) -> bool:
    """Return whether a tool call stands in the text, which a parser should have taken out of it."""
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
    """Return the text on one line, cut to `length`."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return text if len(text) <= length else text[: length - 3] + "..."


def quote(text: str) -> str:
    return f'"{shorten(text)}"'
