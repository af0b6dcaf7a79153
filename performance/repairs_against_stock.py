"""What each repair of docs/fidelity.md does to rewards: stock's own `run()` beside ours.

The scripted models play both roles, in this process, with mistakes in some tasks; a conversation
is a function of its messages alone. Ordinary conversations come first, then those in which one
reply is odd, once: empty, or with reasoning in it. Stock, `fidelity: stock`, the defaults and each
repair by itself converse on the same tasks; what is counted is the rewards that differ from
stock's. The fork's own react user fails in its constructor: with it, `fidelity: stock` stands for
stock. Exits with 1 where a reward of `fidelity: stock` differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ |= {"OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

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
THOUGHT = "I had better look at the rules once more. So far all of it is in order."
QUOTED = "The rule says ###STOP### once everything is settled, which it is not yet."
ODD_AT = {"assistant": 4, "user": 3}
"""Which reply of the role is odd, from 0: by then the scripted assistant knows the task."""

Spoil = Callable[[Reply], Reply]


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
    "reasoning that quotes the end": _text(lambda text: f"{QUOTED}\n</think>\n\n{text}"),
    "half a character": _text(lambda text: f"{text} \ud83d"),
}
REPAIRS = {name: {name: True} for name in Fidelity.model_fields}


@dataclass(frozen=True)
class Setting:
    """Strategies of the two roles."""

    agent: str = "tool-calling"
    user: str = "llm"


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10, metavar="N", help="of each environment")
    parser.add_argument("--ordinary", type=int, default=20, metavar="N", help="the same, ordinary")
    arguments = parser.parse_args()
    wrong = 0
    with answering(ModelServer(Scripted(Assistant(Library(), mistakes=0.3)))) as server:
        for setting in (Setting(), Setting("react"), Setting(user="react")):
            wrong += _compare(server, setting, "", "", arguments.ordinary, REPAIRS)
        for setting in (Setting(), Setting("react"), Setting(user="react")):
            for role in ("assistant", "user"):
                for odd in ODD:
                    touching = "sanitize_think" if "reasoning" in odd or "tag" in odd else ""
                    names = [name for name in (touching, "end_at_empty_reply") if name]
                    chosen = {name: REPAIRS[name] for name in names}
                    wrong += _compare(server, setting, role, odd, arguments.tasks, chosen)
    return 1 if wrong else 0


def _compare(
    server: ModelServer,
    setting: Setting,
    role: str,
    odd: str,
    count: int,
    repairs: Mapping[str, Mapping[str, bool]],
) -> int:
    """Print one line a kind of run; how many rewards of `fidelity: stock` differ from stock's."""
    server.answer.role, server.answer.odd = role, odd  # type: ignore[attr-defined]
    off = Fidelity.stock().model_dump()
    # Against itself there is nothing to see.
    own = {} if setting.user == "react" else {"stock": off}
    kinds: dict[str, dict[str, bool]] = (
        own | {"defaults": {}} | {name: {**off, **repair} for name, repair in repairs.items()}
    )
    reference = off if setting.user == "react" else None
    expected = dict(_rewards(server, setting, count, reference))
    zeros = sum(reward == 0 for reward in expected.values())
    what = f"{role}: {odd}" if role else "as they come"
    print(f"{setting.agent}, {setting.user} user; {what}: {len(expected)}, stock 0 in {zeros}")
    wrong = 0
    for name, fidelity in kinds.items():
        found = dict(_rewards(server, setting, count, fidelity))
        lost = sum(expected[key] > found[key] for key in expected)
        won = sum(expected[key] < found[key] for key in expected)
        print(f"    {name:22} {lost:3d} lost  {won:3d} won", flush=True)
        if name == "stock":
            wrong = lost + won
    return wrong


def _rewards(
    server: ModelServer, setting: Setting, count: int, fidelity: Mapping[str, bool] | None
) -> Iterator[tuple[tuple[str, int], float]]:
    """(env, task) and reward; without `fidelity` from the benchmark's own `run`."""
    benchmark = load_benchmark()
    for env, whole in TASK_COUNTS.items():
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            config = benchmark.module("types").RunConfig(
                model_provider="openai",
                user_model_provider="openai",
                model=MODEL,
                user_model=MODEL,
                env=env,
                agent_strategy=setting.agent,
                user_strategy=setting.user,
                task_ids=_spread(whole, count),
                log_dir=folder,
                max_concurrency=4,
            )
            if fidelity is None:
                os.environ["OPENAI_API_BASE"] = server.url
                silent = io.StringIO()
                with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
                    results = benchmark.module("run").run(config)
                del os.environ["OPENAI_API_BASE"]
            else:
                results = run(
                    config,
                    model_base_url=server.url,
                    fidelity=dict(fidelity),
                    progress=lambda line: None,
                )
        for result in results:
            yield (env, result.task_id), result.reward


def _spread(whole: int, count: int) -> Sequence[int]:
    """That many tasks, evenly over all."""
    return [number * whole // count for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
