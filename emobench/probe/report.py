"""What a probe found: replies as checks, and checks as a verdict. Nothing here sends anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from emobench.benchmarks.transcript import STOP
from emobench.core.errors import suggest_nearest
from emobench.llm.reasoning import sanitize
from emobench.llm.replies import (
    MARKUP,
    ChatResult,
    Kind,
    Step,
    describe_silence,
    judge_step,
    quote,
    shorten,
)
from emobench.llm.transport import Role

Result = Literal["ok", "warning", "fatal", "skipped"]
State = Literal["usable", "usable_with_warnings", "not_usable", "unreachable"]


@dataclass(frozen=True)
class Check:
    """One question about an endpoint and its answer."""

    name: str
    result: Result
    seen: str
    """What came, shortened."""
    meaning: str = ""
    """What that does to a sweep; empty where it is as it should be."""
    advice: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Call:
    """One chat call of the probe."""

    what: str
    latency_s: float
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class ProbeReport:
    """The checks of one endpoint in one role, and what they come to."""

    model: str
    url: str
    role: Role
    env: str
    state: State
    verdict: str
    """In words; begins with the state."""
    checks: tuple[Check, ...]
    calls: tuple[Call, ...] = ()

    @property
    def warnings(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.result == "warning")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; `from_dict` reads it back."""
        return {"schema": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProbeReport:
        """Read a report. Raises KeyError or TypeError for anything that `to_dict` did not make."""
        if data["schema"] != 1:
            raise KeyError("schema")
        fields = {key: value for key, value in data.items() if key != "schema"}
        fields["checks"] = tuple(Check(**check) for check in data["checks"])
        fields["calls"] = tuple(Call(**call) for call in data["calls"])
        return cls(**fields)


CONTEXT_NEEDED: Mapping[Role, tuple[int, int]] = {
    "assistant": (8192, 32768),
    "user": (2048, 8192),
}
"""Tokens by role: below the first no conversation fits, below the second long ones end early."""
SLOW_S = 30.0
CALLS_IN_A_CONVERSATION = 17

_PARSER = (
    "vLLM: --enable-auto-tool-choice --tool-call-parser NAME (hermes for Qwen2.5 and Qwen3, "
    "llama3_json for Llama 3; in a sweep file: tool_call_parser)"
)
_REASONING = (
    "serve it with its reasoning parser (vLLM: --reasoning-parser), or without thinking "
    "(--default-chat-template-kwargs '{\"enable_thinking\": false}')"
)
_OWN_SERVER = "give the user a server of its own, without a tool-call parser"
_WHAT: dict[Kind, tuple[str, str]] = {
    "text": (
        "this model never calls a tool by itself (tool_choice auto): every task would fail",
        "choose a model that is trained to call tools, or the agent strategy react or act",
    ),
    "call_as_text": (
        "its tool calls arrive as text, so that no tool is ever called: every task would fail",
        f"the server's tool-call parser is missing or of another model. {_PARSER}",
    ),
    "bad_json": (
        "the arguments of its tool calls are no valid JSON: every task would fail",
        "check that the tool-call parser is the model's own, and that max_tokens is not too small",
    ),
    "bad_schema": (
        "the arguments of its tool calls never fit the tools: every task would fail",
        "check that the tool-call parser and the chat template are the model's own, or choose "
        "another model",
    ),
    "unknown_tool": (
        "it calls tools that do not exist: every task would fail",
        "check that the chat template shows the tools to the model, or choose another model",
    ),
    "empty": (
        "it answers with neither text nor a tool call: every task would fail",
        "look at the raw reply: the reasoning parser or the tool-call parser may swallow it all",
    ),
    "only_reasoning": (
        "it reasons and then neither says anything nor calls a tool: every task would fail",
        _REASONING,
    ),
    "cut": (
        "it reaches its limit of tokens before it says anything: every task would fail",
        f"raise max_tokens, or let it think less: {_REASONING}",
    ),
    "long": (
        "it reached the probe's limit of tokens before it said anything: a run sets no such limit, "
        "and takes long",
        f"let it think less: {_REASONING}",
    ),
    "key": ("the server refuses this key", "check which variable holds the key (api_key_env)"),
    "no_model": ("the server does not know this model", "ask /models what it serves"),
    "context": (
        "the policy and the tools alone are longer than the model's context",
        "raise --max-model-len: about 4,600 tokens are needed before anybody has said a word, "
        "32768 avoid early ends",
    ),
    "refused": ("the server refuses requests as the benchmark sends them", _PARSER),
    "server_error": (
        "the server fails on requests with tools, and answers those without",
        "see the server's log: often the chat template or the tool-call parser fits another model",
    ),
}
_FINAL: frozenset[Kind] = frozenset({"key", "no_model", "context", "refused"})
"""The next situation would get the same answer."""


def is_final(step: Step) -> bool:
    """Return whether asking again in another situation is of no use."""
    return step.kind in _FINAL


def judge_models(status: int, data: Any, error: str, model: str, url: str) -> list[Check]:
    """Judge the answer of GET /models: address, key, model."""
    place = Check("address", "ok", f"HTTP {status} from {url}/models")
    if status in (401, 403):
        what, advice = _WHAT["key"]
        return [place, Check("key", "fatal", f"HTTP {status}: {shorten(error)}", what, advice)]
    cards = data.get("data") if isinstance(data, dict) else None
    if status != 200 or not isinstance(cards, list):
        advice = "" if url.endswith("/v1") else f"is the address {url}/v1?"
        unknown = "what this server serves cannot be checked"
        return [
            Check("address", "warning", f"{place.seen}: {shorten(error)}", unknown, advice),
            Check("model", "skipped", "the server lists no models"),
        ]
    ids = [str(card.get("id")) for card in cards if isinstance(card, dict)]
    key = Check("key", "ok", "accepted, or none is asked for")
    if model in ids:
        return [place, key, Check("model", "ok", model)]
    others = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    hint = suggest_nearest(model, ids) or "give the id as the server lists it"
    what = f"the server does not serve '{model}'"
    return [place, key, Check("model", "fatal", f"it serves: {others or 'nothing'}", what, hint)]


def judge_context(data: Any, model: str, role: Role) -> Check:
    """Judge the model's context length, where the server tells it."""
    cards = data.get("data") if isinstance(data, dict) else None
    card = next((c for c in cards or () if isinstance(c, dict) and c.get("id") == model), {})
    names = ("max_model_len", "context_length", "context_window")
    length = next((card[n] for n in names if isinstance(card.get(n), int)), None)
    if length is None:
        return Check("context", "ok", "unknown: the server does not tell it")
    least, enough = CONTEXT_NEEDED[role]
    seen = f"{length:,} tokens"
    advice = f"vLLM: --max-model-len {enough} (in a sweep file: max_model_len)"
    if length < least:
        return Check("context", "fatal", seen, "too short for any conversation", advice)
    if length < enough:
        what = f"long conversations will not fit: {enough:,} are enough for nearly all"
        return Check("context", "warning", seen, what, advice)
    return Check("context", "ok", seen)


def judge_auto(steps: Sequence[Step]) -> Check:
    """Judge whether the model calls tools by itself, as tau-bench's agents need it to."""
    name = "tool choice auto"
    good = [step for step in steps if step.kind == "called"]
    bad = [step for step in steps if step.kind != "called"]
    if not good:
        what, advice = _WHAT[_find_main_failure(bad).kind]
        if (
            _find_main_failure(bad).kind == "refused"
            and "tool" not in _find_main_failure(bad).seen.lower()
        ):
            advice = "what it says is not about tools, and would meet every conversation"
        times = f"{len(bad)} times of {len(bad)}; " if len(bad) > 1 else ""
        result: Result = "warning" if _find_main_failure(bad).kind == "long" else "fatal"
        return Check(name, result, times + _find_main_failure(bad).seen, what, advice)
    if bad:
        seen = (
            f"{len(good)} of {len(steps)} calls were good; otherwise: "
            f"{_find_main_failure(bad).seen}"
        )
        what = "it calls tools, but not each time that it should"
        return Check(name, "warning", seen, what, _WHAT[_find_main_failure(bad).kind][1])
    return Check(name, "ok", good[0].seen)


def judge_required(step: Step) -> Check:
    """Judge a forced call. tau-bench leaves the choice to the model: a failure costs nothing by
    itself."""
    name = "tool choice required"
    if step.kind == "called":
        return Check(name, "ok", step.seen)
    what = "'required' does not give valid calls here; tau-bench's agents do not use it"
    strict = "vLLM checks arguments against the schema with --tool-strict-level parameter only"
    return Check(name, "warning", step.seen, what, strict if step.kind == "bad_schema" else "")


def judge_result(step: Step) -> list[Check]:
    """Judge a request that holds a tool's result, and how many calls came for two lookups."""
    if is_final(step) or step.kind == "server_error":
        what = "the server cannot go on after a tool has answered: every task would fail"
        advice = "the chat template has to know the role 'tool'; use the model's own"
        return [Check("tool results", "fatal", step.seen, what, advice)]
    count = f"{step.calls} at once, for two lookups" if step.calls else "none came"
    return [
        Check("tool results", "ok", "understood"),
        Check("parallel calls", "ok", f"{count}; tau-bench executes the first of a reply"),
    ]


def judge_think(forms: Sequence[str]) -> Check:
    """Judge reasoning markup in the text of replies that were otherwise of use."""
    if not forms:
        return Check("reasoning", "ok", "none in the text")
    what = (
        "reasoning stands in the text: emobench takes it out and records that (not with "
        "`fidelity: stock`), and it costs tokens"
    )
    return Check("reasoning", "warning", ", ".join(dict.fromkeys(forms)), what, _REASONING)


def judge_text(seens: Sequence[ChatResult], role: Role) -> list[Check]:
    """Judge replies that should be words to the other side: of a user, or of an agent without
    tools."""
    failed = next((seen for seen in seens if seen.status != 200), None)
    if failed is not None:
        step = judge_step(failed, ())
        what, advice = _WHAT[step.kind]
        return [Check("reply", "fatal", step.seen, what, "" if step.kind == "refused" else advice)]
    checks = [_judge_words(seens, role)]
    forms = [form for seen in seens for form in sanitize(seen.content).forms]
    checks.append(judge_think(forms))
    if role == "user":
        checks += [_judge_markup(seens), _judge_stop(seens)]
    return checks


def _judge_words(seens: Sequence[ChatResult], role: Role) -> Check:
    silent = [silence for seen in seens if (silence := _describe_silence(seen))]
    if not silent:
        return Check("reply", "ok", quote(sanitize(seens[0].content).text))
    kind, why = silent[0]
    advice = _OWN_SERVER if kind == "empty" else _WHAT[kind][1]
    if len(silent) < len(seens):
        what = "some replies have nothing in them: the other side reads an empty message"
        return Check("reply", "warning", why, what, advice)
    what = f"the {role} says nothing to the other side: every task would fail"
    if kind == "long":
        return Check("reply", "warning", why, _WHAT[kind][0], advice)
    return Check("reply", "fatal", why, what, advice)


def _describe_silence(seen: ChatResult) -> tuple[Kind, str] | None:
    if seen.calls and not sanitize(seen.content).text:
        return "empty", f"a call of {shorten(seen.calls[0][0])} instead of words"
    return describe_silence(seen)


def _judge_markup(seens: Sequence[ChatResult]) -> Check:
    found = [MARKUP.search(sanitize(seen.content).text) for seen in seens]
    marks = [mark[0] for mark in found if mark]
    if not marks and not any(seen.calls for seen in seens):
        return Check("tool markup", "ok", "none in the text")
    what = "the agent reads tool markup as the user's words, and may loop on it"
    found_as = f"{shorten(marks[0])} in the text" if marks else "a tool call beside the text"
    return Check("tool markup", "warning", found_as, what, _OWN_SERVER)


def _judge_stop(seens: Sequence[ChatResult]) -> Check:
    texts = [sanitize(seen.content).text for seen in seens]
    ended = [text for text in texts if STOP in text]
    if not ended:
        return Check("end of conversation", "ok", "not before its time")
    what = "the user ends conversations that have hardly begun"
    if len(ended) == len(seens):
        what = "the user ends every conversation at its beginning: every task would fail"
        return Check("end of conversation", "fatal", quote(ended[0]), what, "use a larger model")
    advice = "use a larger model; see standalone_stop in docs/fidelity.md where it is quoted"
    return Check("end of conversation", "warning", quote(ended[0]), what, advice)


def judge_speed(calls: Sequence[Call]) -> Check:
    """Judge the time of a call, and rough tokens per second where the server tells its usage."""
    if not calls:
        return Check("speed", "skipped", "no call was answered")
    middle = median(call.latency_s for call in calls)
    seen = f"{middle * 1000:.0f} ms a call" if middle < 1 else f"{middle:.1f} s a call"
    counted = [c for c in calls if c.completion_tokens and c.latency_s > 0]
    if counted:
        tokens = sum(c.completion_tokens or 0 for c in counted)
        seen += f", about {tokens / sum(c.latency_s for c in counted):,.0f} tokens a second"
    prompts = [call.prompt_tokens for call in calls if call.prompt_tokens]
    if prompts:
        seen += f", prompts of up to {max(prompts):,} tokens"
    if middle <= SLOW_S:
        return Check("speed", "ok", seen)
    minutes = middle * CALLS_IN_A_CONVERSATION / 60
    what = f"a conversation is some {CALLS_IN_A_CONVERSATION} calls: about {minutes:.0f} minutes"
    return Check("speed", "warning", seen, what, "fewer tasks, more cards, or a smaller model")


def judge(checks: Sequence[Check], role: Role) -> tuple[State, str]:
    """Return what the checks come to, in words that begin with the state."""
    fatal = [check for check in checks if check.result == "fatal"]
    if fatal:
        what = fatal[0].meaning
        required = next((c for c in checks if c.name == "tool choice required"), None)
        if fatal[0].name == "tool choice auto" and required is not None:
            same = required.result != "ok"
            what += f"; it does {'no better' if same else 'better'} with 'required'"
            what = what.replace("it does better with", "it does with")
        return "not_usable", f"not usable: {what} ({fatal[0].name}: {fatal[0].seen})"
    warnings = [check for check in checks if check.result == "warning"]
    if warnings:
        said = "; ".join(f"{check.meaning} ({check.name})" for check in warnings)
        return "usable_with_warnings", f"usable with warnings: {said}"
    return "usable", f"usable as {role}"


def _find_main_failure(steps: Sequence[Step]) -> Step:
    """Return the failure that happened most; of equals the first."""
    kinds = Counter(step.kind for step in steps)
    return max(steps, key=lambda step: kinds[step.kind])
