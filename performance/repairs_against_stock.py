"""What each repair of docs/fidelity.md does to rewards: stock's own `run()` beside ours.

The scripted models play both roles, in this process, with mistakes in some tasks; a conversation
is a function of its messages alone. Ordinary conversations come first, then those in which one
reply is odd, once: empty, or with reasoning in it. Stock, `fidelity: stock`, the defaults and each
repair by itself converse on the same tasks; what is counted is the rewards that differ from
stock's. The fork's own react user fails in its constructor: with it, `fidelity: stock` stands for
stock. Prints the table of docs/fidelity.md, in some minutes. Exits with 1 where a reward of
`fidelity: stock` differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emobench.benchmarks.adapter import load_benchmark
from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.core.sweep import Fidelity
from emobench.run import run
from emobench.scripted import user
from emobench.scripted.assistant import Assistant
from emobench.scripted.lookup import Library
from tests.support.model_server import ModelServer, Reply, answering

MODEL = "gpt-4o"
"""Stock's react agent and few-shot agent fail for a model without a price."""
QUOTED_END = "reasoning that quotes the end"
THOUGHT = "I had better look at the rules once more. So far all of it is in order."
QUOTED = "The rule says ###STOP### once everything is settled, which it is not yet."
ODD_AT = {"assistant": 4, "user": 3}
"""Which reply of the role is odd, from 0: by then the scripted assistant knows the task."""

Spoil = Callable[[Reply], Reply]
Key = tuple[str, str, str, int]
"""Whose reply is odd, in which way; environment and task."""


def _text(make: Callable[[str], str]) -> Spoil:
    """The same reply with another text."""
    return lambda reply: Reply(make(reply.content or ""), reply.tool_calls, reply.finish_reason)


ODD: Mapping[str, Spoil] = {
    "empty text": lambda reply: Reply(""),
    "no text": lambda reply: Reply(None),
    "unclosed reasoning alone": lambda reply: Reply(f"<think>\n{THOUGHT}", [], "length"),
    "unclosed reasoning, then the reply": _text(lambda text: f"<think>\n{THOUGHT}\n{text}"),
    "closed reasoning": _text(lambda text: f"<think>\n{THOUGHT}\n</think>\n\n{text}"),
    "closing tag alone": _text(lambda text: f"{THOUGHT}\n</think>\n\n{text}"),
    QUOTED_END: _text(lambda text: f"{QUOTED}\n</think>\n\n{text}"),
    "half a character": _text(lambda text: f"{text} \ud83d"),
}
EVERY_REPAIR = tuple(Fidelity.model_fields)


@dataclass(frozen=True)
class Setting:
    """Strategies of the two roles."""

    agent: str = "tool-calling"
    user: str = "llm"


REACT_AGENT, REACT_USER = Setting("react"), Setting(user="react")


@dataclass(frozen=True)
class Row:
    """Conversations of one kind, and what they are held with beside stock."""

    what: str
    setting: Setting
    odd: tuple[tuple[str, str], ...]
    """(role, which reply of it); each on the same tasks."""
    tasks: int
    """Of each environment."""
    fidelities: tuple[str, ...]
    """stock, defaults, or repairs that are on by themselves, joined by a plus."""


AS_THEY_COME = (("", ""),)
ASSISTANTS = tuple(("assistant", odd) for odd in ODD)
USERS = tuple(("user", odd) for odd in ODD if odd != QUOTED_END)
QUOTES = (("user", QUOTED_END),)
EMPTY = (("assistant", "empty text"), ("assistant", "no text"))
SILENT = tuple((role, "unclosed reasoning alone") for role in ODD_AT)
BY_DEFAULT = ("stock", "defaults")
AS_BEFORE = ("end_at_empty_reply+sanitize_think",)

ROWS = (
    Row("as they come", Setting(), AS_THEY_COME, 6, (*BY_DEFAULT, *EVERY_REPAIR)),
    Row("the same, react agent", REACT_AGENT, AS_THEY_COME, 6, (*BY_DEFAULT, *EVERY_REPAIR)),
    Row("the same, react user", REACT_USER, AS_THEY_COME, 6, ("defaults", *EVERY_REPAIR)),
    Row("the assistant's reply is odd, in 8 ways", Setting(), ASSISTANTS, 2, BY_DEFAULT),
    Row("the same, react agent", REACT_AGENT, ASSISTANTS, 2, BY_DEFAULT),
    Row("the user's reply is odd, in 7 ways", Setting(), USERS, 2, BY_DEFAULT),
    Row(
        "the user's reasoning quotes `###STOP###`",
        Setting(),
        QUOTES,
        8,
        (*BY_DEFAULT, "sanitize_think", "standalone_stop"),
    ),
    Row("the same, react user", REACT_USER, QUOTES, 4, ("defaults", "sanitize_think")),
    Row(
        "the assistant's reply is empty, or has no text",
        Setting(),
        EMPTY,
        2,
        ("end_at_empty_reply",),
    ),
    Row("a reply of either role is unclosed reasoning alone", Setting(), SILENT, 3, AS_BEFORE),
)


@dataclass
class Scripted:
    """Both models, and which reply is odd."""

    assistant: Assistant
    role: str = ""
    odd: str = ""

    def __call__(self, request: dict[str, Any]) -> Reply:
        messages = request["messages"]
        if user.is_user_request(messages):
            role, said = "user", user.reply(messages, {})
        else:
            role, said = "assistant", self.assistant.reply(messages, request.get("tools") or ())
        calls = [(call.name, call.arguments) for call in said.tool_calls]
        reply = Reply(said.content, calls, said.finish_reason)
        own = sum(message["role"] == "assistant" for message in messages)
        return ODD[self.odd](reply) if role == self.role and own == ODD_AT[role] else reply


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.environ |= {"OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    wrong = False
    print("| conversations | n | 0 in stock | with | rewards that differ |\n|---|---|---|---|---|")
    with answering(ModelServer(Scripted(Assistant(Library(), mistakes=0.3)))) as server:
        for row in ROWS:
            expected = _rewards(server, row, "stock" if row.setting.user == "react" else None)
            found: defaultdict[str, list[str]] = defaultdict(list)
            for name in row.fidelities:
                differing = _difference(expected, _rewards(server, row, name))
                found[differing].append(name)
                wrong |= name == "stock" and differing != "0"
            zeros = sum(reward == 0 for reward in expected.values())
            columns = f"| {row.what} | {len(expected)} | {zeros} "
            for differing, names in found.items():
                print(f"{columns}| {_describe(names)} | {differing} |", flush=True)
                columns = "| | | "
    return int(wrong)


def _difference(expected: Mapping[Key, float], found: Mapping[Key, float]) -> str:
    """Return how many rewards are smaller and larger than stock's."""
    lost = sum(expected[key] > found[key] for key in expected)
    won = sum(expected[key] < found[key] for key in expected)
    return ", ".join(f"{n} {word}" for n, word in ((lost, "lost"), (won, "won")) if n) or "0"


def _describe(names: Sequence[str]) -> str:
    """Return the runs of a row that came to the same, as the page calls them."""
    every = set(EVERY_REPAIR).issubset(names)
    texts = [_title(name) for name in names if not (every and name in EVERY_REPAIR)]
    return "; ".join([*texts, "each of the nine repairs by itself"] if every else texts)


def _title(name: str) -> str:
    if name == "stock":
        return "`fidelity: stock`"
    if name == "defaults":
        return "the defaults"
    return " with ".join(f"`{repair}`" for repair in name.split("+"))


def _rewards(server: ModelServer, row: Row, fidelity: str | None) -> dict[Key, float]:
    """Return the reward by (odd reply, env, task); without `fidelity` of the benchmark's `run`."""
    rewards = {}
    for role, odd in row.odd:
        server.answer.role, server.answer.odd = role, odd  # type: ignore[attr-defined]
        for env in TASK_COUNTS:
            for task, reward in _converse(server, row, env, fidelity):
                rewards[role, odd, env, task] = reward
    return rewards


def _converse(
    server: ModelServer, row: Row, env: str, fidelity: str | None
) -> Iterator[tuple[int, float]]:
    """Yield task and reward."""
    benchmark = load_benchmark()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        config = benchmark.import_module("types").RunConfig(
            model_provider="openai",
            user_model_provider="openai",
            model=MODEL,
            user_model=MODEL,
            env=env,
            agent_strategy=row.setting.agent,
            user_strategy=row.setting.user,
            # Evenly over all.
            task_ids=[n * TASK_COUNTS[env] // row.tasks for n in range(row.tasks)],
            log_dir=folder,
            max_concurrency=4,
        )
        if fidelity is None:
            os.environ["OPENAI_API_BASE"] = server.url
            silent = io.StringIO()
            with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
                results = benchmark.import_module("run").run(config)
            del os.environ["OPENAI_API_BASE"]
        else:
            repairs = {} if fidelity == "defaults" else Fidelity.stock().model_dump()
            if fidelity not in BY_DEFAULT:
                repairs |= dict.fromkeys(fidelity.split("+"), True)
            results = run(
                config, model_base_url=server.url, fidelity=repairs, progress=lambda line: None
            )
    for result in results:
        yield result.task_id, result.reward


if __name__ == "__main__":
    sys.exit(main())
